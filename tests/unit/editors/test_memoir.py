from typing import Any

import pytest
import torch

from d4s.editors.editor_settings import resolve
from d4s.editors.memoir import MemoirEditor, TopHash, memory_of
from d4s.editors.preparation import prepare_tensors
from d4s.editors.protocol import EditSelection, EditStatus, NotRemovable, Prepared, State
from d4s.editors.side_settings import Memoir
from d4s.models.language_model import LanguageModel
from tests.oracle.plain import PREFIXES, requests_of

SETTINGS = Memoir(layer=1, steps=10, columns=20, overlap=0.9, background=4, state_kind="additive")
DENSE = SETTINGS.model_copy(update={"state_kind": "dense"})


def prepared_for(model: LanguageModel, settings: Memoir = SETTINGS) -> Prepared:
    return Prepared(PREFIXES, {}, prepare_tensors(settings.prepare_settings(), {}, model, requests_of(4)))


def edited(settings: Memoir, model: LanguageModel, requests: Any) -> tuple[State, list[dict[str, float]]]:
    """The state after edits, and what each of them logged."""
    editor, prepared, logs = MemoirEditor(settings), prepared_for(model, settings), []
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for request in requests:
            logs.append({quantity: value for quantity, _, value in session.step([request], None).values})
        return session.state(), logs


def test_an_edit_is_learned_and_found_again(tiny_model) -> None:
    _, (first, second) = edited(SETTINGS.model_copy(update={"steps": 40}), tiny_model(width=64, scale=6.0), requests_of(2))
    assert first["target_probability_after"] > 0.5 > first["target_probability_before"]
    assert "largest_overlap" not in first and 0 <= second["largest_overlap"] < 0.9


def test_the_same_prompt_is_its_own_neighbour_and_the_later_edit_answers(tiny_model) -> None:
    model, request = tiny_model(), requests_of(1)[0]
    state, logs = edited(SETTINGS, model, [request, request])
    memory = memory_of(SETTINGS, model, prepared_for(model), state)
    assert logs[1]["largest_overlap"] == 1.0 and torch.equal(*memory.columns)
    keys = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    read = torch.ones(1, 3, dtype=torch.bool)
    memory.columns[:] = memory.columns_of(keys, read)
    assert memory.choose(keys, torch.zeros(1, 3, 16), read).tolist() == [1]


def test_both_kinds_of_state_describe_one_memory(tiny_model) -> None:
    model, requests = tiny_model(), requests_of(3)
    rows, whole = (memory_of(settings, model, prepared_for(model), edited(settings, model, requests)[0]) for settings in (SETTINGS, DENSE))
    assert torch.equal(rows.matrix, whole.matrix) and torch.equal(rows.columns, whole.columns)


def test_the_permutation_follows_from_the_seed_alone() -> None:
    zeros, cpu = torch.zeros(64), torch.device("cpu")
    first, again, other = (TopHash.of(SETTINGS.model_copy(update={"seed": seed}), zeros, cpu).permutation for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and sorted(first.tolist()) == [*range(64)]


def test_columns_are_those_of_the_entries_furthest_from_the_background() -> None:
    background = torch.arange(64.0)
    hashed = TopHash.of(SETTINGS.model_copy(update={"columns": 2}), background, torch.device("cpu"))
    key = background.clone()
    key[5] += 3
    key[40] -= 2
    expected = sorted(hashed.permutation[[5, 40]].tolist())
    assert hashed.columns(key.expand(1, 2, 64), torch.ones(1, 2, dtype=torch.bool)).tolist() == [expected]


@pytest.mark.parametrize(("settings", "is_refused"), [(SETTINGS, False), (DENSE, True)])
def test_only_records_can_be_undone(settings: Memoir, is_refused: bool) -> None:
    status = [[EditStatus(0, "fact", was_active=True, is_active=False)]]
    editor = MemoirEditor(settings)
    if is_refused:
        with pytest.raises(NotRemovable, match="every step replaced its state as a whole"):
            editor.check_removable(EditSelection((), status))
    else:
        editor.check_removable(EditSelection(({},), status))


def test_released_columns() -> None:
    llama, gpt = resolve("memoir", {}, "llama3-8b"), resolve("memoir", {}, "gpt-j-6b")
    assert (llama.layer, llama.steps, llama.columns, llama.overlap, llama.state_kind) == (27, 30, 4096, 0.4, "dense")
    assert (gpt.layer, gpt.steps, gpt.columns, gpt.overlap, gpt.weight_decay) == (21, 70, 4096, 0.46, 1e-5)
    assert resolve("memoir", {}, "mini").state_kind == "additive" and resolve("memoir", {}, "mini").weight_decay == 0
