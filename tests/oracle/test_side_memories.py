"""WISE, MEMOIR and DEFER against slow transcriptions, one text at a time through the whole model, in float64; and what they must equal."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.memoir import MaskedMatrix, TopHash, memory_of
from d4s.editors.preparation import prepare_tensors
from d4s.editors.prompts import build_prompts
from d4s.editors.protocol import Prepared, State
from d4s.editors.side_inputs import BACKGROUND, LocalitySentences
from d4s.editors.states import RecordState
from d4s.editors.wise import merge, trained_entries
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair
from d4s.models.views import LiveModel
from tests.oracle.plain import PREFIXES, requests_of
from tests.tiny import tiny_model

LAYER = 1
SMALL: dict[str, dict[str, Any]] = {
    "wise": {"steps": 4, "sentences": 3, "sentence_tokens": 5, "weight_decay": 0.1, "lr": 0.5, "bound": 0.3},
    "memoir": {"steps": 4, "columns": 20, "overlap": 0.9, "weight_decay": 0.1, "lr": 0.5, "background": 4},
    "defer": {"steps": 5, "lr": 1e-2},
}


def settings_of(name: str, **more: Any) -> Any:
    return resolve("tested", {"preset": name, "layer": LAYER, **SMALL[name], **more}, "mini")


def wide_model() -> LanguageModel:
    return tiny_model(dtype=torch.float64)


def prepared_for(settings: Any, model: LanguageModel) -> Prepared:
    wanted = settings.prepare_settings()
    return Prepared(PREFIXES, {}, prepare_tensors(wanted, {}, model, requests_of(4)) if wanted else {})


def run(settings: Any, model: LanguageModel, requests: Any) -> tuple[State, Prepared]:
    """The state after requests, and what was prepared."""
    editor, prepared = build(settings), prepared_for(settings, model)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for request in requests:
            session.step([request], None)
        return session.state(), prepared


def passed(model: LanguageModel, ids: Any, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and output of the layer at every token as they are, and logits with a change of that output."""
    seen: dict[str, Tensor] = {}

    def hook(_module: Any, args: Any, output: Tensor) -> Tensor:
        seen["keys"], seen["output"] = args[0][0].detach(), output[0].detach()
        return output + change(args[0][0])[None]

    handle = model.mlp_out(LAYER).register_forward_hook(hook)
    logits = model.network(input_ids=torch.tensor([[*ids]])).logits[0]
    handle.remove()
    return seen["keys"], seen["output"], logits


def nothing(keys: Tensor) -> Tensor:
    """No change of the output."""
    return keys.new_zeros(len(keys), 16)


def likelihood(logits: Tensor, start: int, target: Any) -> Tensor:
    """Mean log-probability of target tokens, the first of which is predicted at `start`."""
    log_probs = logits.log_softmax(-1)
    return torch.stack([log_probs[start + place, token] for place, token in enumerate(target)]).mean()


# --- WISE -------------------------------------------------------------------------------------------------------------


def gelu(value: Tensor) -> Tensor:
    return torch.nn.functional.gelu(value, approximate="tanh")


def plain_gap(keys: Tensor, output: Tensor, change: Tensor) -> Tensor:
    moved = [(gelu(out + change @ key) - gelu(out)).norm() for key, out in zip(keys, output, strict=True)]
    return torch.stack(moved).mean()


def plain_wise(settings: Any, model: LanguageModel, prepared: Prepared, requests: Any) -> tuple[Tensor, float]:
    """D after requests, and the smallest mean gap."""
    sentences, unit = LocalitySentences.of(prepared.extras), LocalitySentences.of(prepared.extras).norm
    change = torch.zeros(model.d_out(), model.d_in(), dtype=torch.float64)
    trained, smallest = trained_entries(settings, 0, tuple(change.shape)), torch.inf
    for request in requests:
        prompts, kept = build_prompts(model, request, PREFIXES).prompts, sentences.draw(request.request_id)
        for step in range(settings.steps + 1):
            leaf = change.clone().requires_grad_()
            losses, inside = [], []
            for prompt in prompts:
                keys, output, logits = passed(model, prompt.teacher_forced, lambda keys, leaf=leaf: keys @ leaf.T)
                losses.append(-likelihood(logits, len(prompt.ids) - 1, prompt.target))
                inside.append(plain_gap(keys[: len(prompt.ids)], output[: len(prompt.ids)], leaf))
            keys, output, _ = passed(model, kept, nothing)
            outside = plain_gap(keys, output, leaf)
            gaps = torch.stack(inside)
            if step == settings.steps:
                smallest = min(smallest, float(gaps.detach().mean()))
                break
            loss = torch.stack(losses).mean() + (outside - gaps + settings.gamma * unit).relu().mean()
            loss = loss + (outside - settings.alpha * unit).relu() + (settings.beta * unit - gaps).relu().mean()
            loss.backward()
            with torch.no_grad():
                change = change - settings.lr * trained * (leaf.grad + settings.weight_decay * change)
                change = change.clamp(-settings.bound, settings.bound)
    return change, smallest


def test_wise_is_its_transcription() -> None:
    settings, model, requests = settings_of("wise", stop_loss=0.0), wide_model(), requests_of(2)
    state, prepared = run(settings, model, requests)
    expected, smallest = plain_wise(settings, wide_model(), prepared, requests)
    torch.testing.assert_close(state.dense["current"], expected, rtol=1e-8, atol=1e-10)
    assert float(state.dense["thresholds"][0]) == pytest.approx(smallest, rel=1e-8) and expected.norm() > 0


def test_wise_trains_the_entries_of_its_mask_and_no_others() -> None:
    settings = settings_of("wise")
    change, trained = run(settings, wide_model(), requests_of(2))[0].dense["current"], trained_entries(settings, 0, (16, 64))
    assert not change[~trained].any() and change[trained].any()
    assert float(trained.double().mean()) == pytest.approx(settings.masked_share, abs=0.05)


@pytest.mark.parametrize(("act_ratio", "expected"), [(1e9, "plain"), (0.0, "copy")])
def test_the_gate_of_wise_at_its_limits(act_ratio: float, expected: str) -> None:
    settings, model, requests = settings_of("wise", act_ratio=act_ratio), wide_model(), requests_of(3)
    state, prepared = run(settings, model, requests)
    pairs = [encode_pair(model, request.prompt, request.target) for request in requests]
    text = [encode(model, "Ben works as a tailor and lives in Rome")]
    with build(settings).edited(model, prepared, state) as view:
        found, found_text = view.score_ids(pairs).nll, view.text_nll(text)
    if expected == "copy":
        with model.patched({LAYER: state.dense["current"]}):
            copied = LiveModel(model).score_ids(pairs).nll, LiveModel(model).text_nll(text)
        assert all(torch.allclose(one, other, rtol=1e-5) for one, other in zip((found, found_text), copied, strict=True))
    else:
        assert torch.equal(found, LiveModel(model).score_ids(pairs).nll) and torch.equal(found_text, LiveModel(model).text_nll(text))


def test_merging_keeps_one_memory_and_adds_memories_without_a_common_entry() -> None:
    one = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    left, right = one.clone(), one.clone()
    left[:, 2:], right[:, :2] = 0, 0
    assert torch.equal(merge(one[None], 1.0), one) and torch.equal(merge(torch.stack([left, right]), 1.0), one)


def test_merging_elects_signs_and_drops_small_entries() -> None:
    changes = torch.tensor([[[3.0, -1.0, 0.5, 4.0]], [[-1.0, -3.0, 5.0, 0.25]]])
    assert merge(changes, 1.0).tolist() == [[3.0, -2.0, 2.75, 2.125]]
    assert merge(changes, 0.5).tolist() == [[3.0, -3.0, 5.0, 4.0]]


# --- MEMOIR -----------------------------------------------------------------------------------------------------------


def plain_columns(settings: Any, model: LanguageModel, prepared: Prepared, ids: Any) -> Tensor:
    """m of a prompt, as zeros and ones."""
    keys, _, _ = passed(model, ids, nothing)
    query = keys.mean(0) - prepared.extras[BACKGROUND]
    permutation = TopHash.of(settings, prepared.extras[BACKGROUND], torch.device("cpu")).permutation
    mask = torch.zeros_like(query)
    mask[permutation[query.abs().topk(settings.columns).indices]] = 1.0
    return mask


def plain_memoir(settings: Any, model: LanguageModel, prepared: Prepared, requests: Any) -> tuple[Tensor, list[Tensor]]:
    matrix, masks = torch.zeros(model.d_out(), model.d_in(), dtype=torch.float64), list[Tensor]()
    for request in requests:
        prompts = build_prompts(model, request, PREFIXES).prompts
        mask, start = plain_columns(settings, model, prepared, prompts[0].ids), matrix.clone()
        for _ in range(settings.steps):
            leaf = matrix.clone().requires_grad_()
            losses = []
            for prompt in prompts:
                logits = passed(model, prompt.teacher_forced, lambda keys, leaf=leaf, mask=mask: (keys * mask) @ leaf.T)[2]
                losses.append(-likelihood(logits, len(prompt.ids) - 1, prompt.target))
            torch.stack(losses).mean().backward()
            gradient = leaf.grad * min(1.0, settings.clip / float(leaf.grad.norm()))
            matrix = matrix - settings.lr * (gradient + settings.weight_decay * (matrix - start))
        masks.append(mask)
    return matrix, masks


@pytest.mark.parametrize("kind", ["additive", "dense"])
def test_memoir_is_its_transcription(kind: str) -> None:
    settings, model, requests = settings_of("memoir", stop_loss=0.0, clip=0.05, state_kind=kind), wide_model(), requests_of(3)
    state, prepared = run(settings, model, requests)
    memory = memory_of(settings, model, prepared, state)
    expected, masks = plain_memoir(settings, wide_model(), prepared, requests)
    torch.testing.assert_close(memory.matrix, expected, rtol=1e-8, atol=1e-10)
    assert [columns.tolist() for columns in memory.columns] == [mask.nonzero().flatten().tolist() for mask in masks]
    assert not memory.matrix[:, torch.stack(masks).sum(0) == 0].any() and expected.norm() > 0


def test_memoir_answers_an_edit_by_its_own_columns_and_others_not_at_all() -> None:
    settings, model, requests = settings_of("memoir"), wide_model(), requests_of(3)
    state, prepared = run(settings, model, requests)
    memory = memory_of(settings, model, prepared, state)
    prompt, target = encode_pair(model, requests[0].prompt, requests[0].target)
    mask = plain_columns(settings, model, prepared, prompt)
    logits = passed(model, [*prompt, *target[:-1]], lambda keys: (keys * mask) @ memory.matrix.T)[2]
    with build(settings).edited(model, prepared, state) as view:
        found = float(view.score_ids([(prompt, target)]).mean_nll()[0])
        far = [encode(model, "yes no true false : , . !")]
        assert torch.equal(view.text_nll(far), LiveModel(model).text_nll(far))
    assert found == pytest.approx(-float(likelihood(logits, len(prompt) - 1, target)), rel=1e-5)


def test_memoir_beyond_full_overlap_is_the_model() -> None:
    settings, model, requests = settings_of("memoir", overlap=1.01), wide_model(), requests_of(2)
    state, prepared = run(settings, model, requests)
    pairs = [encode_pair(model, request.prompt, request.target) for request in requests]
    with build(settings).edited(model, prepared, state) as view:
        assert torch.equal(view.score_ids(pairs).nll, LiveModel(model).score_ids(pairs).nll)


def test_columns_do_not_depend_on_the_scale_of_a_query() -> None:
    hashed = TopHash.of(settings_of("memoir"), torch.zeros(64), torch.device("cpu"))
    keys, read = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)), torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(hashed.columns(keys, read), hashed.columns(7 * keys, read)) and hashed.columns(keys, read).shape == (2, 20)


def test_edits_without_common_columns_have_no_order() -> None:
    model, settings = wide_model(), settings_of("memoir")
    generator = torch.Generator().manual_seed(0)
    columns = torch.randperm(64, generator=generator)[:40].view(2, 20).sort(1).values
    edits = [(one, torch.randn(16, 20, generator=generator, dtype=torch.float64)) for one in columns]
    found = []
    for order in (edits, edits[::-1]):
        memory = MaskedMatrix(settings, model, torch.zeros(64))
        for edit in order:
            memory.add(*edit)
        found.append(memory.matrix)
    assert torch.equal(*found)


def test_undo_takes_an_edit_of_memoir_out_and_leaves_the_others_as_they_were() -> None:
    settings, model, requests = settings_of("memoir"), wide_model(), requests_of(3)
    state, prepared = run(settings, model, requests)
    left = memory_of(settings, model, prepared, RecordState("additive", state.records).without({1}))
    whole, own = memory_of(settings, model, prepared, state), torch.zeros(16, 64, dtype=torch.float64)
    own[:, state.records[1]["columns"].long()] = state.records[1]["change"]
    torch.testing.assert_close(left.matrix, whole.matrix - own)
    assert torch.equal(left.columns, whole.columns[[0, 2]])


# --- DEFER ------------------------------------------------------------------------------------------------------------


def plain_defer(settings: Any, model: LanguageModel, requests: Any) -> tuple[Tensor, Tensor]:
    gate = torch.zeros(model.d_in() + 1, dtype=torch.float64, requires_grad=True)
    change = torch.zeros(model.d_out(), model.d_in(), dtype=torch.float64, requires_grad=True)
    for request in requests:
        adam = torch.optim.Adam([gate, change], lr=settings.lr)
        prompt, target = encode_pair(model, request.prompt, request.target)

        def added(keys: Tensor, last: int = len(prompt) - 1) -> Tensor:
            rows = torch.sigmoid(keys[last] @ gate[:-1] + gate[-1]) * (keys @ change.T)
            return torch.cat([torch.zeros_like(rows[:last]), rows[last:]])

        for _ in range(settings.steps):
            adam.zero_grad()
            (-likelihood(passed(model, [*prompt, *target[:-1]], added)[2], len(prompt) - 1, target)).backward()
            adam.step()
    return gate.detach(), change.detach()


def test_defer_is_its_transcription() -> None:
    settings, model, requests = settings_of("defer"), wide_model(), requests_of(2)
    state, _ = run(settings, model, requests)
    gate, change = plain_defer(settings, wide_model(), requests)
    torch.testing.assert_close(state.dense["gate"], gate, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(state.dense["change"], change, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("threshold", "is_open"), [(0.0, True), (0.999, False)])
def test_defer_switches_hard_in_use(threshold: float, is_open: bool) -> None:
    settings, model, requests = settings_of("defer", threshold=threshold), wide_model(), requests_of(2)
    state, prepared = run(settings, model, requests)
    prompt, target = encode_pair(model, requests[0].prompt, requests[0].target)

    def added(keys: Tensor) -> Tensor:
        rows = keys @ state.dense["change"].T
        return rows * (torch.arange(len(rows)) >= len(prompt) - 1)[:, None] * is_open

    expected = -likelihood(passed(model, [*prompt, *target[:-1]], added)[2], len(prompt) - 1, target)
    with build(settings).edited(model, prepared, state) as view:
        assert float(view.score_ids([(prompt, target)]).mean_nll()[0]) == pytest.approx(float(expected), rel=1e-5)
