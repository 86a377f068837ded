"""Edits before a norm after the MLP: exact at one layer, nearer than without regard to the norm at several."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.hparams import merge_hparams
from d4s.editors.keys import read_activations
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.editors.moments import collect_moments
from d4s.editors.prompts import PromptSet
from d4s.editors.protocol import Prepared, Targets
from d4s.editors.target_optimisation import optimise
from d4s.editors.weight_side import nearest_direction, target_change, weight_side_residuals
from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel
from tests.oracle.plain import requests_of, rewritings_of, target_of, watching
from tests.tiny import tiny_model

FAMILIES = ("gemma2", "gemma3_text", "olmo2")
LAYERS = (1, 2, 3)
Look = TypeVar("Look")
LITTLE = {"preservation": {"weight": 1e-7}}


def normed_model(family: str, *, layers: int = 5) -> LanguageModel:
    """A tiny model whose norms after the MLP weigh every channel differently, two of them hardly or negatively."""
    model = tiny_model(family, layers=layers, width=32, scale=8.0)
    for layer in range(layers):
        norm = model.post_norm(layer)
        gain = (0.5 * torch.randn(32, generator=torch.Generator().manual_seed(layer))).exp()
        gain[3], gain[4] = 1e-3, -gain[4]
        norm.weight.data.copy_(gain if family == "olmo2" else gain - 1)
    return model


def without_row(model: LanguageModel) -> LanguageModel:
    """The same network, edited as if nothing were between the MLP and the residual stream."""
    return LanguageModel(model.network, model.tokenizer, replace(model.adapter, post_norm=""))


def settings_of(name: str, layers: tuple[int, ...], **target: object) -> LocateThenEdit:
    target = {"layer": layers[-1], "steps": 20, "lr": 0.1, "clamp": 4.0, **target}
    return resolve(
        "tested", merge_hparams({"preset": name}, {"layers": layers, "target": target}, {} if name == "rome_identity" else LITTLE), "mini"
    )


def edit(model: LanguageModel, settings: LocateThenEdit, batch: list[PromptSet], look: Callable[[], Look]) -> tuple[Targets, Look]:
    """Targets of a batch, and what `look` finds once it is edited, in one step, with unprefixed prompts alone."""
    rows = torch.randint(2, 60, (40, 16), generator=torch.Generator().manual_seed(1))
    prepared = Prepared((), collect_moments(model, rows, settings.layers, 16, "text"))
    goals, editor = optimise(model, batch, settings.target), build(settings)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        session.apply(batch, goals)
        return goals, look()


def hidden_of_batch(model: LanguageModel, settings: LocateThenEdit, batch: list[PromptSet]) -> Tensor:
    return read_activations(model, batch, settings.layers, settings.keys, settings.target).hidden.double()


def log_probabilities(model: LanguageModel, one: PromptSet) -> Tensor:
    return model.network(input_ids=torch.tensor([one.prompts[0].ids])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize("name", ["memit", "rome_identity", "d4s"])
@pytest.mark.parametrize("family", FAMILIES)
def test_at_one_layer_an_edit_is_the_shift_put_in_by_hand(family: str, name: str) -> None:
    model, settings = normed_model(family), settings_of(name, (2,))
    batch = rewritings_of(model, requests_of(1), prefixes=())
    last = batch[0].prompts[0].subject_last

    def block_output() -> Tensor:
        with watching(model.block(2)) as seen:
            log_probabilities(model, batch[0])
        return seen["out"][0, last]

    before = block_output()
    goals, after = edit(model, settings, batch, block_output)

    def by_hand(output: Tensor) -> Tensor:
        output = output.clone()
        output[0, last] += goals.hidden_shift[0]
        return output

    with watching(model.mlp_out(2), by_hand):
        expected = block_output()
    assert (expected - before).norm() > 0.1 * before.norm()
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-3 * float((expected - before).norm()))


def share_and_loss(model: LanguageModel, name: str) -> tuple[float, float]:
    """How much of the wanted change three layers reach for three requests: the share along it, and the distance that is left."""
    settings = settings_of(name, LAYERS)
    batch = rewritings_of(model, requests_of(3), prefixes=())
    before = hidden_of_batch(model, settings, batch)
    goals, after = edit(model, settings, batch, lambda: hidden_of_batch(model, settings, batch))
    change = target_change(model, LAYERS[-1], goals).double()
    found = after - before
    return float((found * change).sum() / change.square().sum()), float((found - change).norm() / change.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_at_several_layers_nearly_the_whole_change_is_reached(family: str) -> None:
    model = normed_model(family)
    (share, loss), (unaware_share, unaware_loss) = share_and_loss(model, "memit"), share_and_loss(without_row(model), "memit")
    assert abs(share - 1) < 0.02 and loss < 0.1
    assert unaware_share < 0.95 and unaware_loss > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_residual_measured_once_is_reached_as_in_models_without_such_a_norm(family: str) -> None:
    model = normed_model(family)
    share, loss = share_and_loss(model, "d4s_even")
    assert 0.8 < share < 1.1
    assert loss < 0.9 * share_and_loss(without_row(model), "d4s_even")[1]


@pytest.mark.parametrize("name", ["memit", "d4s"])
@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_likelier_after_the_edit_than_without_regard_to_the_norm(family: str, name: str) -> None:
    model, settings = normed_model(family), settings_of(name, LAYERS)
    batch = rewritings_of(model, requests_of(3), prefixes=())

    def probability() -> float:
        return float(torch.stack([log_probabilities(model, one)[-1, one.prompts[0].target[0]] for one in batch]).exp().mean())

    goals, found = edit(model, settings, batch, probability)
    _, unaware = edit(without_row(model), settings, batch, probability)
    assert found > 1.03 * max(unaware, float(goals.probability_before.mean()))


@pytest.mark.parametrize("hook", ["block_output", "mlp_output"])
@pytest.mark.parametrize("family", ["gemma3_text", "olmo2"])
def test_targets_are_those_of_the_plain_loop_with_the_shift_before_the_norm(family: str, hook: str) -> None:
    model, settings = normed_model(family), settings_of("memit", (1,), hook=hook, steps=5).target
    batch = rewritings_of(model, requests_of(2))
    found = optimise(model, batch, settings)
    for number, one in enumerate(batch):
        expected = target_of(model, one, settings)
        for name in ("hidden_shift", "hidden", "probability_before", "probability_after"):
            torch.testing.assert_close(getattr(found, name)[number].double(), expected[name].double(), rtol=2e-3, atol=2e-4)


def test_the_scale_of_a_weight_before_a_norm_means_nothing() -> None:
    one, other = normed_model("olmo2"), normed_model("olmo2")
    other.parameter(1).data.mul_(8)
    settings = settings_of("memit", (1,)).target
    found, scaled = (optimise(model, rewritings_of(model, requests_of(2)), settings) for model in (one, other))
    torch.testing.assert_close(scaled.hidden_shift, 8 * found.hidden_shift, rtol=1e-2, atol=1e-3 * float(scaled.hidden_shift.abs().max()))
    torch.testing.assert_close(scaled.probability_after, found.probability_after, rtol=1e-3, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_shift_before_the_norm_changes_is_reached_by_that_shift(family: str) -> None:
    norm = normed_model(family).post_norm(1)
    generator = torch.Generator().manual_seed(0)
    output, shift = torch.randn(4, 32, generator=generator), torch.randn(4, 32, generator=generator)
    found = weight_side_residuals(norm, output, norm(output + shift) - norm(output), output + shift)
    torch.testing.assert_close(found, shift.double(), rtol=1e-4, atol=1e-2)
    at_present_scale = weight_side_residuals(norm, output, norm(output + shift) - norm(output), None)
    torch.testing.assert_close(norm((output + at_present_scale).float()), norm(output + shift), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((output + at_present_scale).norm(dim=1), output.norm(dim=1).double(), rtol=1e-3, atol=0)


def test_the_nearest_direction_is_the_best_of_many() -> None:
    generator = torch.Generator().manual_seed(0)
    gain = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    wanted = torch.randn(3, 6, generator=generator, dtype=torch.float64) * torch.tensor([[4.0], [1.0], [0.01]])
    found = nearest_direction(gain, wanted)
    others = torch.randn(20000, 1, 6, generator=generator, dtype=torch.float64)
    others = torch.cat([others.expand(-1, 3, -1), found + 0.01 * others])
    others = others / others.square().mean(2, keepdim=True).sqrt().clamp(min=1)
    assert (found.square().mean(1) < 1 + 1e-9).all()
    assert ((gain * found - wanted).norm(dim=1) <= (gain * others - wanted).norm(dim=2).amin(0) + 1e-9).all()
    torch.testing.assert_close(found[2], wanted[2] / gain[0])


def test_another_norm_is_refused() -> None:
    output = torch.randn(2, 32)
    with pytest.raises(SettingsError, match="a LayerNorm, is not an RMSNorm without a bias"):
        weight_side_residuals(nn.LayerNorm(32), output, output, None)
