"""The codebook: what an edit does to it, when it answers, and that neither padding, batches nor a stop change anything."""

from pathlib import Path
from typing import Any

import pytest
import torch

from d4s.editors.codebook_views import CodebookModel, answer_from_codebook
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import Grace, resolve
from d4s.editors.grace import ENLARGED, CodebookEntries, GraceEditor
from d4s.editors.ledger import Ledger
from d4s.editors.protocol import Diverged, Prepared, State
from d4s.errors import SettingsError
from d4s.metrics.weight_norms import norm_rows, original_norms
from d4s.models.edited_model import EditedModel
from d4s.models.tokens import encode, encode_pair
from d4s.models.views import LiveModel
from tests.oracle.plain import requests_of, watching
from tests.tiny import bpe_tokenizer

SETTINGS = Grace(layer=1, eps_init=1e-3, value="warm", steps=40, stop_loss=0.05)
FAR = SETTINGS.model_copy(update={"eps_init": 1e4})
OTHER = "The home town of Cleo Wolf is"


def request(prompt: str, target: str, step: int = 1) -> EditRequest:
    return EditRequest(f"{step:06d}:x", f"x{step}", step, prompt, prompt, "{}", target, "Oslo")


def edited(model, settings: Grace, requests, state: State | None = None) -> tuple[State, list[dict[str, float]]]:
    """The state after some requests, and what each logged."""
    editor, logs = GraceEditor(settings), []
    with editor.editing(model, Prepared(), state or editor.start(model, Prepared())) as session:
        for one in requests:
            logs.append({quantity: value for quantity, _, value in session.step([one], None).values})
        return session.state(), logs


def entries(model, state: State) -> CodebookEntries:
    return CodebookEntries(model, SETTINGS.layer, state.records)


def key_of(model, prompt: str) -> torch.Tensor:
    with watching(model.mlp_out(SETTINGS.layer)) as seen:
        model.network(input_ids=torch.tensor([encode(model, prompt)]))
    return seen["in"][0, -1]


def distance(model, one: str, other: str) -> float:
    return float((key_of(model, one) - key_of(model, other)).norm())


# --- the three cases --------------------------------------------------------------------------------------------------

HERE, NEAR = "Ada Moss lives in the city of", "Ben Moss lives in the city of"


def test_far_from_every_key_an_entry_is_added(tiny_model) -> None:
    model = tiny_model()
    state, logs = edited(model, SETTINGS, [request(HERE, "Rome"), request(NEAR, "Paris", 2)])
    codebook = entries(model, state)
    assert len(codebook) == 2 and [codebook[0].radius, codebook[1].radius] == [SETTINGS.eps_init] * 2
    torch.testing.assert_close(codebook[1].key, key_of(model, NEAR))
    assert "nearest_distance" not in logs[0]
    assert logs[1]["nearest_distance"] == pytest.approx(distance(model, HERE, NEAR), rel=1e-4)


def test_near_a_key_of_another_label_both_radii_become_half_the_distance(tiny_model) -> None:
    model = tiny_model()
    state, _ = edited(model, FAR, [request(HERE, "Rome"), request(NEAR, "Paris", 2)])
    codebook, half = entries(model, state), distance(model, HERE, NEAR) / 2
    assert len(codebook) == 2
    assert [codebook[0].radius, codebook[1].radius] == [pytest.approx(half, rel=1e-4)] * 2


def test_near_a_key_of_the_same_label_its_radius_grows_and_its_value_learns_the_new_prompt(tiny_model) -> None:
    model = tiny_model(width=32, scale=12.0)
    gap = distance(model, HERE, NEAR)
    settings = SETTINGS.model_copy(update={"eps_init": 0.6 * gap})
    state, logs = edited(model, settings, [request(HERE, "Rome"), request(NEAR, "Rome", 2)])
    codebook = entries(model, state)
    assert len(state.records) == 2 and len(codebook) == 1 and logs[1]["entries"] == 1
    assert codebook[0].radius == pytest.approx(gap * ENLARGED, rel=1e-5)
    torch.testing.assert_close(codebook[0].key, key_of(model, HERE))
    assert logs[1]["target_probability_after"] > 0.7
    assert entries(model, state).view().generate([NEAR], 1) == ["Rome"]
    within, _ = edited(model, FAR, [request(HERE, "Rome"), request(NEAR, "Rome", 2)])
    assert entries(model, within)[0].radius == FAR.eps_init


@pytest.mark.parametrize(("targets", "count"), [(("Rome Oslo", "Oslo Rome"), 2), (("Rome Oslo", "Rome Oslo"), 1)])
def test_labels_are_compared_token_by_token(tiny_model, targets: tuple[str, str], count: int) -> None:
    """The two orders have the same mean id, by which the release would take them for one label."""
    model = tiny_model()
    state, _ = edited(model, FAR, [request(HERE, targets[0]), request(NEAR, targets[1], 2)])
    assert len(entries(model, state)) == count


def test_a_later_edit_of_the_same_prompt_takes_the_earlier_ones_place(tiny_model) -> None:
    model = tiny_model()
    state, _ = edited(model, SETTINGS, [request(HERE, "Rome"), request(HERE, "Paris", 2)])
    for rows, answer in ((state.records, "Paris"), (state.records[:1], "Rome"), (state.records[1:], "Paris")):
        assert entries(model, GraceEditor(SETTINGS).restore(rows, {})).view().generate([HERE], 1) == [answer]


# --- undo on the record -----------------------------------------------------------------------------------------------


def test_taking_out_the_edit_that_split_gives_the_earlier_one_its_radius_back(tiny_model) -> None:
    model = tiny_model()
    state, _ = edited(model, FAR, [request(HERE, "Rome"), request(NEAR, "Paris", 2)])
    undone = entries(model, state.without({1}))
    assert len(undone) == 1 and undone[0].radius == FAR.eps_init
    kept = entries(model, state.without({0}))
    assert len(kept) == 1 and kept[0].label == entries(model, state)[1].label


# --- answers ----------------------------------------------------------------------------------------------------------


def memory(model, count: int = 3, settings: Grace = SETTINGS) -> tuple[CodebookModel, list[EditRequest]]:
    requests = requests_of(count)
    return entries(model, edited(model, settings, requests)[0]).view(), requests


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("value", ["warm", "cold"])
def test_edited_prompts_are_answered_with_their_targets(tiny_model, family: str, value: str) -> None:
    model = tiny_model(family)
    view, requests = memory(model, settings=SETTINGS.model_copy(update={"value": value}))
    assert isinstance(view, EditedModel) and view.weight_changes() is None
    prompts = [request.prompt for request in requests]
    assert view.score(prompts, [request.target for request in requests]).exact().all()
    assert view.generate(prompts, 1) == [request.target for request in requests]


def test_other_prompts_keep_their_bits(tiny_model) -> None:
    model = tiny_model()
    view, requests = memory(model)
    others = [f"The home town of {request.subject} is" for request in requests] + [f"{request.subject} works as a" for request in requests]
    for prompt in others:
        ours, plain = view.score([prompt], ["Paris and Rome"]), LiveModel(model).score([prompt], ["Paris and Rome"])
        assert torch.equal(ours.nll, plain.nll) and torch.equal(ours.predicted, plain.predicted)
    assert view.generate(others, 5) == LiveModel(model).generate(others, 5)


def test_free_text_has_no_prompt_and_is_the_unedited_models(tiny_model) -> None:
    model = tiny_model()
    view, requests = memory(model)
    rows = [encode(model, f"{request.prompt} {request.target}") for request in requests]
    assert torch.equal(view.text_nll(rows), LiveModel(model).text_nll(rows))


def plain_answer(view: CodebookModel, prompt: str, count: int) -> str:
    """One token at a time without a cache, the value put in by hand at the last prompt token."""
    model, ids = view.model, encode(view.model, prompt)
    place, gaps = len(ids) - 1, (view.codebook.keys - key_of(view.model, prompt)).norm(dim=1)
    nearest = int(gaps.argmin())

    def change(output):
        output = output.clone()
        if gaps[nearest] <= view.codebook.radii[nearest]:
            output[0, place] = view.codebook.values[nearest]
        return output

    for _ in range(count):
        with watching(model.mlp_out(view.layer), change):
            ids.append(int(model.network(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            ids.pop()
            break
    return model.tokenizer.decode(ids[place + 1 :], skip_special_tokens=True)


@pytest.mark.parametrize("cap", [1, 20, 10_000])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_mixed_batches_are_answered_as_one_by_one(tiny_model, family: str, cap: int) -> None:
    model = tiny_model(family)
    view, requests = memory(model)
    prompts = [OTHER, *(request.prompt for request in requests), "Eva", "Where does Ben Reed live ?"]
    mixed = CodebookModel(model, view.layer, view.codebook, tokens_per_batch=cap)
    assert mixed.generate(prompts, 6) == [plain_answer(view, prompt, 6) for prompt in prompts]
    targets = ["Rome", *(f"{request.target} and Rome" for request in requests), "Oslo", "Lima ."]
    found = mixed.score(prompts, targets)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        alone = view.score([prompt], [target])
        torch.testing.assert_close(found.nll[row, : alone.nll.shape[1]], alone.nll[0], rtol=1e-4, atol=1e-5)
        assert found.mask[row].sum() == alone.mask.sum() and not found.nll[row, alone.nll.shape[1] :].any()


def test_the_same_tokens_are_looked_up_where_each_prompt_ends(tiny_model) -> None:
    """`A b | c d` and `A b c | d` are one sequence to the network, but two prompts."""
    model = tiny_model(width=32, scale=12.0)
    one = request(HERE, "Rome")
    view = entries(model, edited(model, SETTINGS, [one])[0]).view()
    prompts, targets = [HERE, f"{HERE} Rome", HERE.removesuffix(" of")], ["Rome and", "and", "of Rome and"]
    found = view.score(prompts, targets)
    plain = LiveModel(model).score(prompts, targets)
    assert found.nll[0, 0] < 0.3 < plain.nll[0, 0]
    torch.testing.assert_close(found.nll[1:], plain.nll[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_padding_on_the_left_gives_what_padding_on_the_right_gives(tiny_model, family: str) -> None:
    model = tiny_model(family)
    view, requests = memory(model)
    texts = [encode(model, prompt) for prompt in (requests[0].prompt, "Eva", requests[1].prompt, OTHER)]
    width, results = max(map(len, texts)) + 2, {}
    for side in ("left", "right"):
        gaps = [width - len(text) for text in texts]
        rows = [[1] * gap + text if side == "left" else text + [1] * gap for text, gap in zip(texts, gaps, strict=True)]
        mask = [[int(token != 1) for token in row] for row in rows]
        last = torch.tensor([width - 1 if side == "left" else len(text) - 1 for text in texts])
        places = (torch.tensor(mask).cumsum(1) - 1).clamp(min=0)
        with answer_from_codebook(model, view.layer, view.codebook, last), torch.no_grad():
            logits = model.network(torch.tensor(rows), attention_mask=torch.tensor(mask), position_ids=places).logits
        results[side] = logits[torch.arange(len(texts)), last]
    torch.testing.assert_close(results["left"], results["right"], rtol=1e-4, atol=1e-4)
    target = encode_pair(model, requests[0].prompt, requests[0].target)[1]
    assert results["left"][0].argmax() == target[0]


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_a_value_of_several_tokens_is_what_a_plain_loop_learns(tiny_model, family: str) -> None:
    model = tiny_model(family, dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)
    one, settings = requests_of(8)[0], SETTINGS.model_copy(update={"steps": 6, "lr": 0.1})
    prompt, target = encode_pair(model, one.prompt, one.target)
    assert len(target) > 1
    with watching(model.mlp_out(settings.layer)) as seen:
        model.network(input_ids=torch.tensor([prompt]))
    value = seen["out"][0, -1].clone().requires_grad_()
    adam = torch.optim.Adam([value], lr=settings.lr)

    def change(output):
        return torch.cat([output[:, : len(prompt) - 1], value[None, None], output[:, len(prompt) :]], dim=1)

    for _ in range(settings.steps):
        with watching(model.mlp_out(settings.layer), change):
            logits = model.network(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
        adam.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.tensor(target)).backward()
        adam.step()
    state, (log,) = edited(model, settings, [one])
    assert log["target_steps"] == settings.steps
    torch.testing.assert_close(state.records[0]["value"], value.detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(state.records[0]["key"], key_of(model, one.prompt), rtol=1e-10, atol=1e-12)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_taken_up_from_its_ledger_is_the_straight_run(tiny_model, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"eps_init": 1.0, "value": "cold", "steps": 5})
    requests, editor = [*requests_of(5), *requests_of(2)], GraceEditor(settings)
    straight, _ = edited(tiny_model(), settings, requests)
    ledger = Ledger.open(tmp_path, editor.kind)
    for row in edited(tiny_model(), settings, requests[:3])[0].records:
        ledger.append(row, 1, {"rows": []})
    resumed, _ = edited(tiny_model(), settings, requests[3:], Ledger.open(tmp_path, editor.kind).state_at(editor, 3))
    assert len(resumed.records) == len(straight.records) == 7
    for ours, theirs in zip(resumed.records, straight.records, strict=True):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_norms_of_a_memory_are_those_of_the_unedited_model(tiny_model) -> None:
    model = tiny_model()
    view, _ = memory(model)
    rows = norm_rows(model, view, 3, original_norms(model))
    values: dict[Any, float] = {(row["layer"], row["quantity"]): row["value"] for row in rows}
    assert all(value == 0 for (_, quantity), value in values.items() if quantity.endswith("delta"))
    assert values[1, "l1_per_element_weight"] == values[1, "l1_per_element_original"] > 0


def test_a_broken_model_diverges(tiny_model) -> None:
    model = tiny_model()
    model.set_weight(0, torch.full_like(model.weight(0), torch.nan))
    with pytest.raises(Diverged, match="value is not finite"):
        edited(model, SETTINGS, requests_of(1))


def test_released_settings_stand_as_released() -> None:
    for column, layer, steps in (("gpt2-xl", 35, 200), ("gpt-j-6b", 25, 200), ("llama2-7b", 27, 50), ("qwen2.5-7b", 18, 50)):
        settings = resolve("grace", {}, column)
        assert settings == Grace(layer=layer, steps=steps, eps_init=1.0, lr=1.0, value="cold", stop_loss=0.0)
    with pytest.raises(SettingsError, match="'grace' has no settings for models like 'llama3-8b'"):
        resolve("grace", {}, "llama3-8b")
