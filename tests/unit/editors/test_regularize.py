"""Fine-tuning with true sentences beside its targets: what is supervised, what is drawn, and what must come out the same."""

import math

import pytest
import torch

from d4s.editors.editor_settings import resolve
from d4s.editors.fact_pool import FactPool
from d4s.editors.fine_tune_settings import FineTune
from d4s.editors.finetune import FineTuneEditor
from d4s.editors.parts.regularize import Concatenated, Separate
from d4s.editors.prompts import PromptTooLong
from d4s.editors.protocol import Prepared
from d4s.editors.training_texts import PoolSentence
from d4s.errors import SettingsError
from d4s.models.tokens import encode, encode_pair
from tests.oracle.plain import got, requests_of
from tests.tiny import bpe_tokenizer

SENTENCES = ("Gwen Moss lives in the city of Oslo .", "Hugo Reed works as a pilot .", "Finn Wolf works as a baker .")
SETTINGS = FineTune(objective="target", layer=0, steps=1, lr=1e-2, stop_loss=0)


def pool_of(model) -> FactPool:
    special = len(encode(model, ""))
    return FactPool([PoolSentence(tuple(encode(model, ".")[special:]), tuple(encode(model, text)[special:])) for text in SENTENCES])


def tuned(model, settings: FineTune, requests, batch: int = 1) -> tuple[dict[int, torch.Tensor], list[dict[str, float]]]:
    """The tuned weights by layer after all requests, and the numbers logged of each batch."""
    editor, prepared, logs = FineTuneEditor(settings), Prepared(extras=pool_of(model).tensors()), []
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for first in range(0, len(requests), batch):
            log = session.step(requests[first : first + batch], None)
            logs.append({quantity: value for quantity, _, value in log.values})
        return {layer: model.weight(layer).clone() for layer in settings.layers}, logs


def plainly(model, settings: FineTune, request) -> torch.Tensor:
    """The gradient of the mean loss over supervised positions, spelled out for each text, through the whole network."""
    (prompt, target), layer = encode_pair(model, request.prompt, request.target), settings.layer
    drawn = pool_of(model).draw(settings.regularize.facts, request.request_id, 0)
    if isinstance(settings.regularize, Concatenated):
        texts = [([*prompt, *target, *one.separator, *one.ids], len(prompt)) for one in drawn]
    else:
        texts = [([*prompt, *target], len(prompt)), *(([0, *one.ids], 1) for one in drawn)]
    parameter = model.parameter(layer).requires_grad_(True)
    terms = []
    for ids, first in texts:
        log_probs = model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        terms += [-log_probs[place - 1, ids[place]] for place in range(first, len(ids))]
    (gradient,) = torch.autograd.grad(torch.stack(terms).mean(), parameter)
    parameter.requires_grad_(False)
    return gradient if model.adapter.weight_layout == "out_in" else gradient.mT


@pytest.mark.parametrize("part", [Concatenated(facts=2), Separate(facts=2)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_one_step_is_the_gradient_of_the_loss_at_the_supervised_places(tiny_model, family: str, part) -> None:
    settings, request = SETTINGS.model_copy(update={"regularize": part}), requests_of(1)[0]

    def make():
        return tiny_model(family, layers=2, dtype=torch.float64)

    plain, start = make(), got(make(), 0)
    gradient = plainly(plain, settings, request)
    stepped = start.clone().requires_grad_(True)
    stepped.grad = gradient
    torch.optim.Adam([stepped], lr=settings.lr).step()
    weights, _ = tuned(make(), settings, [request])
    close = 1e-7 if family == "gpt2" else 1e-4  # norms of Llama compute in single precision
    torch.testing.assert_close(weights[0], stepped.detach(), rtol=close, atol=close)
    assert float((weights[0] - start).abs().max()) > settings.lr / 2


@pytest.mark.parametrize("changes", [{}, {"more_layers": (1, 2)}, {"batch": 2}, {"batch": 3, "schedule": {"minibatch": 2, "epochs": 3}}])
def test_a_sentence_that_is_only_seen_behind_the_target_changes_nothing(tiny_model, changes) -> None:
    base = FineTune(objective="target", layer=0, steps=5, lr=1e-2, stop_loss=0, **changes)
    control = base.model_copy(update={"regularize": Concatenated(facts=2, loss="target")})
    with_sentences = base.model_copy(update={"regularize": Concatenated(facts=2)})
    none, seen, learned = (
        tuned(tiny_model(dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96), settings, requests_of(6), base.batch)[0]
        for settings in (base, control, with_sentences)
    )
    for layer, weight in none.items():
        torch.testing.assert_close(seen[layer], weight, rtol=1e-9, atol=1e-9)
        assert float((learned[layer] - weight).abs().max()) > 1e-3


def test_tuning_several_matrices_is_plain_adam_on_all_of_them(tiny_model) -> None:
    settings = FineTune(objective="target", layer=1, more_layers=(0, 2), steps=3, lr=1e-2, stop_loss=0)
    request, plain = requests_of(1)[0], tiny_model(dtype=torch.float64)
    prompt, target = encode_pair(plain, request.prompt, request.target)
    weights = [plain.parameter(layer).requires_grad_(True) for layer in settings.layers]
    adam = torch.optim.Adam(weights, lr=settings.lr)
    for _ in range(settings.steps):
        logits = plain.network(input_ids=torch.tensor([[*prompt, *target[:-1]]])).logits[0, len(prompt) - 1 :]
        adam.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.tensor(target)).backward()
        adam.step()
    found, _ = tuned(tiny_model(dtype=torch.float64), settings, [request])
    assert [*found] == [0, 1, 2]
    for layer, weight in found.items():
        torch.testing.assert_close(weight, plain.weight(layer), rtol=1e-7, atol=1e-9)


def test_an_epoch_takes_a_step_per_minibatch_and_every_request_once(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FineTune(
        objective="target", layer=0, lr=1e-2, stop_loss=0, batch=5, schedule={"minibatch": 2, "epochs": 3}, regularize=Concatenated(facts=2)
    )
    drawn: list[tuple[str, int]] = []
    draw = FactPool.draw
    monkeypatch.setattr(FactPool, "draw", lambda pool, count, name, step: drawn.append((name, step)) or draw(pool, count, name, step))
    _, (log,) = tuned(tiny_model(), settings, requests_of(5), batch=5)
    assert log["target_steps"] == 9
    assert sorted(drawn) == sorted((request.request_id, epoch) for request in requests_of(5) for epoch in range(3))
    orders = [[name for name, step in drawn if step == epoch] for epoch in range(3)]
    assert len({*map(tuple, orders)}) > 1


def test_the_parts_of_the_loss_are_logged_apart(tiny_model) -> None:
    settings = SETTINGS.model_copy(update={"steps": 20, "regularize": Concatenated(facts=3)})
    _, (log,) = tuned(tiny_model(), settings, requests_of(1))
    _, (bare,) = tuned(tiny_model(), SETTINGS, requests_of(1))
    assert log["target_probability_before"] == pytest.approx(bare["target_probability_before"], rel=1e-5)
    assert log["target_probability_after"] > log["target_probability_before"]
    assert 0 < log["sentence_nll_after"] < log["sentence_nll_before"] and "sentence_nll_before" not in bare
    assert math.isfinite(log["sentence_nll_after"])


def test_draws_depend_on_the_request_and_the_step_alone(tiny_model) -> None:
    model = tiny_model()
    pool = pool_of(model)
    first = pool.draw(2, "a", 0)
    assert first == FactPool.of(pool.tensors()).draw(2, "a", 0) and len({*first}) == 2
    assert len({tuple(pool.draw(3, name, step)) for name in ("a", "b") for step in range(6)}) > 3
    settings = SETTINGS.model_copy(update={"regularize": Concatenated(facts=2), "steps": 3})
    before, request = got(model, 0), requests_of(3)[2]
    alone = tuned(model, settings, [request])[0][0]
    tuned(model, settings, requests_of(2))
    assert torch.equal(got(model, 0), before) and torch.equal(tuned(model, settings, [request])[0][0], alone)


def test_a_text_that_does_not_fit_with_its_sentence_is_refused(tiny_model) -> None:
    settings = SETTINGS.model_copy(update={"regularize": Concatenated(facts=1)})
    prompt, target = encode_pair(tiny_model(), requests_of(1)[0].prompt, requests_of(1)[0].target)
    positions = len(prompt) + len(target) + 4
    tuned(tiny_model(positions=positions), SETTINGS, requests_of(1))
    with pytest.raises(PromptTooLong, match=f"the model takes {positions}"):
        tuned(tiny_model(positions=positions), settings, requests_of(1))


def test_what_the_presets_say() -> None:
    saul, mass = resolve("saul", {}, "mini"), resolve("saul_mass", {}, "mini")
    assert (saul.objective, saul.bound, saul.regularize) == ("target", None, Concatenated())
    assert (mass.batch, mass.schedule.minibatch) == (100, 10) and mass.regularize == saul.regularize
    assert saul.required_inputs == {"prepare"} and resolve("ft_m", {}, "mini").required_inputs == frozenset()
    pool = saul.prepare_settings().facts
    assert (pool.count, pool.known, pool.separator, pool.least) == (200, True, ". ", 4)
    none = resolve("none", {"preset": "saul", "regularize": None}, "mini")
    assert none == resolve("ft", {"preset": "ft_m", "layer": saul.layer, "bound": None}, "mini") and none.prepare_settings() is None
    with pytest.raises(SettingsError, match="objective must be `target`"):
        resolve("mine", {"preset": "ft_l", "regularize": "separate"}, "mini")


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_a_rescaled_change_lies_between_the_original_and_the_tuned_weights_bit_by_bit(tiny_model, factor: float) -> None:
    model = tiny_model()
    before = model.weight(0).clone()
    editor = FineTuneEditor(FineTune(**SETTINGS.model_dump() | {"delta_transform": {"kind": "rescale", "factor": factor}}))
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        session.step(requests_of(1), None)
        after, state = model.weight(0).clone(), session.state()
        assert session.live() is None
    with editor.edited(model, Prepared(), state):
        expected = before.double() + factor * (after.double() - before.double())
        assert torch.equal(model.weight(0), expected.float()) and torch.equal(model.weight(0), after) == (factor == 1)
