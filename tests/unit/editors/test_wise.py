import pytest
import torch

from d4s.editors.editor_settings import resolve
from d4s.editors.preparation import prepare_tensors
from d4s.editors.prompts import PromptTooLong
from d4s.editors.protocol import Diverged, Prepared
from d4s.editors.side_settings import Wise
from d4s.editors.states import DenseState
from d4s.editors.wise import WiseEditor, WiseMemory, trained_entries
from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel
from tests.oracle.plain import PREFIXES, requests_of

SETTINGS = Wise(layer=1, steps=40, sentences=3, sentence_tokens=5, shard=2, merge_every=4)


def prepared_for(model: LanguageModel, settings: Wise = SETTINGS) -> Prepared:
    return Prepared(PREFIXES, {}, prepare_tensors(settings.prepare_settings(), {}, model, ()))


def edited(settings: Wise, model: LanguageModel, count: int) -> tuple[DenseState, list[dict[str, float]]]:
    """The state after edits, and what each of them logged."""
    editor, prepared, logs = WiseEditor(settings), prepared_for(model, settings), []
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for request in requests_of(count):
            logs.append({quantity: value for quantity, _, value in session.step([request], None).values})
        return session.state(), logs


def test_an_edit_is_learned_and_answered_through_the_gate(tiny_model) -> None:
    _, (log,) = edited(SETTINGS, tiny_model(width=64, scale=6.0), 1)
    assert log["target_probability_after"] > 0.5 > log["target_probability_before"] and log["gap_inside"] > log["gap_outside"]


def test_copies_are_kept_and_merged_in_their_time(tiny_model) -> None:
    model = tiny_model()
    settings = SETTINGS.model_copy(update={"steps": 2})
    sizes = {count: edited(settings, model, count)[0].dense for count in (1, 2, 3, 4, 5)}
    assert [len(dense["kept"]) for dense in sizes.values()] == [0, 1, 1, 1, 1]
    assert [len(dense["thresholds"]) for dense in sizes.values()] == [1, 2, 2, 2, 2]
    assert not sizes[2]["current"].any() and torch.isinf(sizes[2]["thresholds"][-1]) and sizes[3]["current"].any()
    assert torch.equal(sizes[4]["kept"], sizes[5]["kept"]) and not torch.equal(sizes[3]["kept"], sizes[4]["kept"])
    assert float(sizes[4]["thresholds"][0]) <= float(sizes[3]["thresholds"].min())


def test_every_copy_has_entries_of_its_own() -> None:
    first, second = (trained_entries(SETTINGS, copy, (16, 64)) for copy in (0, 1))
    assert not torch.equal(first, second) and torch.equal(first, trained_entries(SETTINGS, 0, (16, 64)))


def test_the_copy_with_the_largest_gap_above_its_threshold_answers(tiny_model) -> None:
    model = tiny_model()
    small, large = torch.full((2, 16, 64), 1e-3).mul(torch.tensor([1.0, 5.0])[:, None, None])
    keys = torch.ones(1, 3, 64)
    chosen = []
    for thresholds in ([1e-9, 1e-9], [1e-9, 1e9], [1e9, 1e9], [1e-9, torch.inf]):
        dense = {
            "current": large,
            "kept": small[None],
            "thresholds": torch.tensor(thresholds, dtype=torch.float64),
            "edits": torch.tensor(3),
        }
        copies = WiseMemory(SETTINGS, model, DenseState(dense)).view().memory
        chosen.append(int(copies.choose(keys, torch.zeros(1, 3, 16), torch.ones(1, 3, dtype=torch.bool))[0]))
    assert chosen == [1, 0, -1, 0]


def test_gaps_are_those_of_a_prompts_tokens_alone(tiny_model) -> None:
    model = tiny_model()
    state, _ = edited(SETTINGS, model, 1)
    copies = WiseMemory(SETTINGS, model, state).view().memory
    keys = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))
    read, padded = torch.tensor([[True, True, False, False]]), keys.clone()
    padded[:, 2:] = 1e3
    zeros = torch.zeros(1, 4, 16)
    assert torch.equal(copies.choose(keys, zeros, read), copies.choose(padded, zeros, read))


def test_no_entry_moves_beyond_the_bound(tiny_model) -> None:
    state, _ = edited(SETTINGS.model_copy(update={"bound": 0.01, "lr": 50.0}), tiny_model(), 1)
    assert float(state.dense["current"].abs().max()) == pytest.approx(0.01)


def test_a_loss_that_is_not_finite_ends_the_session(tiny_model) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.network.get_input_embeddings().weight.fill_(torch.nan)
    editor, prepared = WiseEditor(SETTINGS), prepared_for(tiny_model())
    with (
        editor.editing(model, prepared, editor.start(model, prepared)) as session,
        pytest.raises(Diverged, match="the loss of a side memory is not finite"),
    ):
        session.step(requests_of(1), None)


def test_a_request_that_does_not_fit_is_refused(tiny_model) -> None:
    model, editor = tiny_model(positions=6), WiseEditor(SETTINGS)
    prepared = prepared_for(tiny_model())
    with editor.editing(model, prepared, editor.start(model, prepared)) as session, pytest.raises(PromptTooLong):
        session.step(requests_of(1), None)


def test_released_columns() -> None:
    llama = resolve("wise", {}, "llama3-8b")
    assert (llama.layer, llama.steps, llama.lr, llama.alpha, llama.beta, llama.gamma) == (29, 30, 0.9, 2.0, 20.0, 10.0)
    assert (llama.act_ratio, llama.margins, llama.weight_decay, llama.masked_share) == (0.5, "absolute", 1e-5, 0.2)
    assert resolve("wise", {}, "gpt-j-6b").beta == 40.0 and resolve("wise", {}, "mini").margins == "output_norm"
    with pytest.raises(SettingsError, match="'wise' has no settings for models like 'gpt2-xl'"):
        resolve("wise", {}, "gpt2-xl")
