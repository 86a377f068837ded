"""Further methods against their slow transcriptions, in float64, over whole sequences."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from d4s.editors.edit_requests import EditRequest
from d4s.editors.edited_layers import layers_of
from d4s.editors.families import build
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.prompts import Prompt, PromptSet
from d4s.editors.target_optimisation import optimise, optimise_in_turn
from d4s.models.tokens import encode_pair
from tests.cases import SINGLE, SMALL
from tests.oracle import plain, plain_methods
from tests.oracle.bench import EDITS, Bench, agree, settings_for
from tests.oracle.plain import long_requests

WEAK = {"preservation": {"weight": 1.0}}  # so that histories and what is done to steps matter


def agrees(preset: str, transcription: Callable[..., Any], small: dict[str, Any] = SMALL, family: str = "gpt2", **changes: Any) -> None:
    bench = Bench(settings_for(preset, small, **changes), EDITS, family)
    tolerance = 1e-7 if family == "gptj" else 1e-8  # its sequences amplify rounding
    agree(bench.run(bench.texts), transcription(bench.model, bench.texts, bench.settings, bench.moments), tolerance)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_pmet_is_its_joint_loop(family: str) -> None:
    agrees("pmet", plain_methods.pmet, family=family)


@pytest.mark.parametrize("neurons", [1.0, 0.6])
def test_nse_is_its_rounds_on_chosen_neurons(neurons: float) -> None:
    agrees("nse", plain_methods.nse, neurons=neurons, rounds={"most": 3, "above": 0.01, "below": 100.0}, **WEAK)


def test_nse_leaves_requests_out_that_are_there_or_too_far() -> None:
    for rounds in ({"above": 50.0, "below": 100.0}, {"above": 0.0, "below": 1e-9}):
        bench = Bench(settings_for("nse", SMALL, rounds=rounds), 3)
        assert all(float(delta.abs().max()) == 0 for deltas in bench.run(bench.texts) for delta in deltas.values())


@pytest.mark.parametrize("name", ["r_rome", "c_rome"])
def test_consistent_rome_uses_one_key(name: str) -> None:
    agrees(name, plain_methods.consistent_rome, SINGLE)


def test_emmet_is_memit_on_one_layer_with_the_product_of_weight_and_ridge() -> None:
    bench = Bench(settings_for("emmet", SINGLE, preservation={"weight": 0.5}), 6)
    (found,) = bench.run(bench.texts[:1])
    key = plain.average_key(bench.model, bench.texts[0], 1, bench.settings.keys)[:, None]
    residual = plain.target_of(bench.model, bench.texts[0], bench.settings.target)["hidden_shift"][:, None]
    weight, ridge = 5.0, 0.1
    inverse = torch.linalg.inv(plain.preserved_by(bench.settings, bench.moments, 1) / 0.5 * weight)
    expected = residual @ torch.linalg.inv(key.T @ inverse @ key + ridge * torch.eye(1).double()) @ key.T @ inverse
    agree([found], [{1: expected}])


def test_blue_has_a_target_for_each_layer() -> None:
    agrees("blue", plain_methods.blue)


def test_memit_fe_optimises_a_target_for_each_layer_before_it_writes() -> None:
    agrees("memit_fe", plain_methods.memit_fe)


def test_memit_fe_on_one_layer_is_memit() -> None:
    benches = [Bench(settings_for(preset, SINGLE), 3) for preset in ("memit_fe", "memit")]
    agree(*(bench.run(bench.texts) for bench in benches))


@pytest.mark.parametrize(("family", "weight", "tolerance"), [("gpt2", 0.1, 1e-8), ("gpt2", 5.0, 1e-8), ("llama", 5.0, 1e-6)])
def test_core_holds_hidden_states_alike_behind_prefixes(family: str, weight: float, tolerance: float) -> None:
    small = {"layers": (0,), "target": {**SMALL["target"], "layer": 0, "consistency": {"weight": weight}}}
    bench = Bench(settings_for("core", small), 2, family)
    expected = plain.memit(bench.model, [[one] for one in bench.texts], bench.settings, bench.moments)
    agree(bench.run(bench.texts), expected, tolerance)


def test_core_without_weight_is_memit_bit_for_bit() -> None:
    weightless = settings_for("core", SMALL | {"target": {**SMALL["target"], "consistency": {"weight": 0.0}}})
    assert weightless.target.consistency is not None
    benches = [Bench(settings, 3) for settings in (weightless, settings_for("memit"), settings_for("core"))]
    without, memit, core = (bench.run(bench.texts) for bench in benches)
    for found, expected, other in zip(without, memit, core, strict=True):
        assert all(torch.equal(found[layer], expected[layer]) and not torch.equal(other[layer], expected[layer]) for layer in expected)


@pytest.mark.parametrize("align", [{}, {"start": "zero"}, {"clamp_to": "key", "top": 1}, {"start_below": 1e-3, "kl": 0.0}])
def test_eamet_aligns_the_targets_of_a_batch_in_turn(align: dict[str, Any]) -> None:
    bench = Bench(settings_for("eamet", SMALL | {"target": {**SMALL["target"], "steps": 5, "align": align}}, batch=3), 6)
    batches = [bench.texts[:3], bench.texts[3:]]
    agree(bench.run(bench.texts, 3), plain.memit(bench.model, batches, bench.settings, bench.moments), 1e-8)


def test_eamet_without_weights_from_zero_is_memit() -> None:
    nothing = {"kl": 0.0, "mse": 0.0, "start": "zero", "clamp_to": "hidden"}
    settings = [settings_for("eamet", SMALL | {"target": {**SMALL["target"], "align": nothing}}, batch=4), settings_for("memit", batch=4)]
    agree(*(bench.run(bench.texts, 4) for bench in (Bench(one, 4) for one in settings)), 1e-12)


def test_the_order_of_requests_is_that_of_eamets_targets() -> None:
    """The first request is optimised as if it were alone, and a request takes nothing from those that follow it."""
    bench = Bench(settings_for("eamet"), 4)
    rule, texts = bench.settings.target, bench.texts
    whole, first, swapped = (optimise_in_turn(bench.model, some, rule, bench.settings.keys) for some in (texts, texts[:2], texts[::-1]))
    assert torch.equal(whole.hidden_shift[:2], first.hidden_shift)
    assert not torch.allclose(swapped.hidden_shift.flip(0), whole.hidden_shift, rtol=1e-3)


AT_THE_END = {"position": "prompt_last", "prefixes": False, "kl_weight": 0.0, "stop_probability": None}


def stepped(bench: Bench, requests: Sequence[EditRequest], batch: int) -> list[dict[int, torch.Tensor]]:
    """Changes of weights after each batch of requests."""
    editor, original = build(bench.settings), {layer: bench.model.weight(layer).clone() for layer in bench.settings.layers}
    with editor.editing(bench.model, bench.prepared, editor.start(bench.model, bench.prepared)) as session:
        found = []
        for start in range(0, len(requests), batch):
            session.step(requests[start : start + batch], None)
            found.append({layer: bench.model.weight(layer) - weight for layer, weight in original.items()})
    return found


def texts_of(bench: Bench, requests: Sequence[EditRequest]) -> list[plain_methods.Text]:
    pairs = [encode_pair(bench.model, request.prompt, request.target) for request in requests]
    return [(tuple(prompt), tuple(answer)) for prompt, answer in pairs]


@pytest.mark.parametrize(
    ("family", "batch", "changes"),
    [
        ("gpt2", 1, {}),
        ("gpt2", 4, {"history": "keys"}),
        ("llama", 2, {"keys": {"context": False}}),
        ("gpt2", 2, {"preservation": {"kind": "null_space", "threshold": 0.05, "weight": 1.0}, "history": "keys"}),
    ],
)
def test_anyedit_optimises_windows_in_turn_and_preserves_all_other_tokens(family: str, batch: int, changes: dict[str, Any]) -> None:
    target = SMALL["target"] | AT_THE_END | {"windows": 2, "steps": 5}
    settings = settings_for("anyedit", SMALL | {"target": target}, **({"preservation": {"weight": 1.0}} | changes), batch=batch)
    bench, requests = Bench(settings, 0, family), long_requests(4)
    texts = texts_of(bench, requests)
    batches = [texts[start : start + batch] for start in range(0, 4, batch)]
    assert {len(answer) for _, answer in texts} == {5, 1, 3}
    agree(stepped(bench, requests, batch), plain_methods.anyedit(bench.model, batches, settings, bench.moments), 1e-8)


def test_anyedit_with_windows_beyond_its_answers_and_no_context_is_memit_bit_for_bit() -> None:
    target, alone = SMALL["target"] | AT_THE_END, {"keys": {"context": False}, "batch": 2}
    whole = settings_for("anyedit", SMALL | {"target": target | {"windows": 5}}, **alone)
    memit = settings_for("memit", SMALL | {"target": target}, batch=2)
    cut = settings_for("anyedit", SMALL | {"target": target | {"windows": 4}}, **alone)
    found, expected, other = (stepped(Bench(settings, 0), long_requests(4), 2) for settings in (whole, memit, cut))
    for one, two, three in zip(found, expected, other, strict=True):
        assert all(torch.equal(one[layer], two[layer]) and not torch.equal(three[layer], two[layer]) for layer in two)
    bench = Bench(memit, 0)
    ends = [PromptSet((Prompt(ids, len(ids) - 1, answer),), Prompt(ids, len(ids) - 1)) for ids, answer in texts_of(bench, long_requests(4))]
    bare = memit.model_copy(update={"keys": KeySettings(average="unprefixed")})
    agree(found, plain.memit(bench.model, [ends[:2], ends[2:]], bare, bench.moments), 1e-8)


def test_context_keys_weigh_nothing_where_text_weighs_everything() -> None:
    target = SMALL["target"] | AT_THE_END | {"windows": 2}
    gaps = []
    for weight in (1.0, 1e6):
        both = [
            settings_for("anyedit", SMALL | {"target": target}, keys={"context": context}, preservation={"weight": weight})
            for context in (True, False)
        ]
        kept, not_kept = (stepped(Bench(settings, 0), long_requests(1), 1)[0] for settings in both)
        gaps.append(max(float((kept[layer] - not_kept[layer]).norm() / not_kept[layer].norm()) for layer in kept))
    assert gaps[0] > 0.1 and gaps[1] < 1e-4


def test_encore_is_memit_with_history_and_a_ridge() -> None:
    def solved(at, layer, right, system, key):
        return right @ torch.linalg.inv(system)

    def transcription(model, texts, settings, moments):
        return plain_methods.memit_with(model, texts, settings, moments, solved)

    agrees("encore", transcription, {**SMALL, "target": {**SMALL["target"], "stop_top1": None}}, preservation={"weight": 1.0, "ridge": 0.3})


@pytest.mark.parametrize(("preset", "keep"), [("rect", 0.3), ("rect", 1.0), ("ote_se", 0.3)])
def test_rect_keeps_the_largest_relative_entries_and_feedback_returns_the_rest(preset: str, keep: float) -> None:
    agrees(preset, plain_methods.rect, step_transform={"keep": keep}, **WEAK)


def test_simie_reduces_steps_to_their_keys() -> None:
    agrees("simie", plain_methods.simie, step_transform={"weight": 0.5}, **WEAK)


def test_sphere_takes_main_directions_out() -> None:
    moments = {"preservation": {"kind": "moments", "weight": 1.0}}
    agrees("sphere", plain_methods.sphere, **moments)


def test_prune_compresses_the_whole_change() -> None:
    bench = Bench(settings_for("prune", {**SMALL, **WEAK}, delta_transform={"base": 1.5}), 8)
    original = {layer: bench.model.weight(layer).clone() * 1.0 for layer in bench.settings.layers}
    plain_run = plain.memit(bench.model, [[one] for one in bench.texts], bench.settings, bench.moments)
    found = transform_delta(bench, bench.texts)
    expected = {layer: plain_methods.pruned(delta, original[layer], 1.5) for layer, delta in plain_run[-1].items()}
    agree([found], [expected])


def transform_delta(bench: Bench, texts: Sequence[PromptSet]) -> dict[int, torch.Tensor]:
    """The change of weights that the edited model has after all texts."""
    editor = build(bench.settings)
    with editor.editing(bench.model, bench.prepared, editor.start(bench.model, bench.prepared)) as session:
        for one in texts:
            session.apply([one], optimise(bench.model, [one], bench.settings.target))
        state = session.state()
    with editor.edited(bench.model, bench.prepared, state) as view:
        return {layer: change.clone() for layer, change in view.weight_changes().items()}


@pytest.mark.parametrize("slack", [60.0, 0.6])
def test_lyaplock_is_the_step_of_its_source(slack: float) -> None:
    agrees("lyaplock", plain_methods.lyaplock, history={"slack": slack}, **WEAK)


def test_the_queue_waits_for_an_edit_that_changes_something() -> None:
    bench = Bench(settings_for("lyaplock", **WEAK), 3)
    layer = next(iter(layers_of(bench.settings, bench.model, bench.prepared).values()))
    keys = torch.randn(3, layer.delta.shape[1], dtype=torch.float64)
    wanted = torch.randn(3, layer.delta.shape[0], dtype=torch.float64)
    for number, size in enumerate((0.0, 1e-9, 1.0)):
        _, log = layer.fit(keys[number : number + 1], keys[number : number + 1], size * wanted[number : number + 1])
        assert log["queue"] == 1.0
    assert float(layer.delta.norm()) > 1e-3


def test_refreshed_keys_give_the_one_time_batch_whenever_they_are_refreshed() -> None:
    refreshed = Bench(settings_for("d4s_refreshed", keys={"every": 6}), 6)
    batch = Bench(settings_for("one_time_batch", preservation=refreshed.settings.preservation.model_dump()), 6)
    (expected,) = plain.memit(batch.model, [batch.texts], batch.settings, batch.moments)
    agree([refreshed.run(refreshed.texts)[-1]], [expected])
