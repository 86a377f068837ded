"""The chain of `d4s apply`: what is written reloads bit for bit, and a stop, a second file or a conflict do what they should."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from d4s.apply import apply_pipeline as chain
from d4s.apply.apply_pipeline import apply
from d4s.apply.change import undo
from d4s.apply.chat import render_chat
from d4s.apply.edited_folder import DELTA, HISTORY, MODEL, EditedFolder, exclusive_access
from d4s.apply.fact_files import read_facts
from d4s.apply.history import Conflict, RecordedEdit, plan_edits
from d4s.apply.input_preparation import TextSource
from d4s.apply.outcome import to_state_dict
from d4s.apply.prompt_builder import PromptBuilder
from d4s.artifacts import library_versions
from d4s.editors.protocol import Diverged, StepLog, run_step
from d4s.errors import ArtifactError, D4SError, RecordError, SettingsError
from d4s.models.loading import load
from d4s.models.tokens import encode, subject_last_index
from d4s.resources.capacity import DoesNotFit, Machine
from d4s.resources.requirements import MIB
from tests.applying import CHAT, FACTS, SMALL, applied, delta_of, fact_file, gap, options, reloaded, saved_model, stopped_after
from tests.tiny import tiny_model

PROMPT = FACTS[0].prompt


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("base") / "gpt2")


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six facts edited at once."""
    folder = tmp_path_factory.mktemp("done")
    applied(model, fact_file(folder / "facts.csv"), folder / "out")
    return folder / "out"


def probability(folder: Path, prompt: str, target: str) -> float:
    """Of a target of one token, by the network alone; after a line break there is no space before it."""
    model = load(folder)
    logits = model.network(input_ids=torch.tensor([encode(model, prompt)])).logits[0, -1]
    return float(logits.softmax(0)[model.tokenizer.convert_tokens_to_ids(target)])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_measured_is_what_reloads(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    base = saved_model(tmp_path / "base", family, dtype)
    folder, found = applied(base, fact_file(tmp_path / "facts.csv"), tmp_path / "out")
    assert found is not None and [one.edit.number for one in found.recent] == [1, 2, 3, 4, 5, 6]
    edited, original = load(tmp_path / "out" / MODEL, dtype=dtype), load(base, dtype=dtype)
    assert edited.network.config.dtype == dtype
    with folder.edited() as view:
        logits = view.model.network(input_ids=torch.tensor([encode(edited, PROMPT)])).logits[0, -1]
        parameters = {name: tensor.clone() for name, tensor in view.model.network.named_parameters()}
    for name, tensor in edited.network.named_parameters():
        assert torch.equal(tensor, parameters[name])
    text, plain = reloaded(tmp_path / "out", PROMPT)
    assert torch.equal(plain, logits)
    assert text.split()[:1] == found.results[0].after.split()[:1]
    delta = load_file(tmp_path / "out" / DELTA)
    assert {tensor.dtype for tensor in delta.values()} == {torch.float32}
    for name, change in delta.items():
        before, after = original.network.get_parameter(name), edited.network.get_parameter(name)
        assert torch.allclose((before.float() + change).to(dtype), after, atol=1e-7) and not torch.equal(before, after)


def test_the_history_says_what_was_measured(model: Path, done: Path) -> None:
    lines = [json.loads(line) for line in (done / HISTORY).read_text(encoding="utf-8").splitlines()]
    assert [(line["edit"], line["status"], line["target_new"]) for line in lines] == [
        (number, "present", fact.target_new) for number, fact in enumerate(FACTS, start=1)
    ]
    for line, fact in zip(lines, FACTS, strict=True):
        for name, where in {"before": model, "after": done / MODEL}.items():
            assert line[f"probability_{name}"] == pytest.approx(probability(where, fact.prompt, fact.target_new), rel=1e-4)
    assert all(line["probability_after"] != line["probability_before"] for line in lines)


def test_the_same_command_again_does_nothing(model: Path, done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    _, found = applied(model, done.parent / "facts.csv", done)
    assert found is None
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


@pytest.mark.parametrize("editor", ["d4s", "memit", "rome", "ft_l", "grace", "kn"])
def test_two_files_one_after_another_are_one(model: Path, tmp_path: Path, editor: str) -> None:
    whole, first = fact_file(tmp_path / "whole.csv"), fact_file(tmp_path / "first.csv", FACTS[:3])
    applied(model, whole, tmp_path / "once", editor)
    applied(model, first, tmp_path / "twice", editor)
    folder, found = applied(model, whole, tmp_path / "twice", editor)
    assert found is not None and [one.edit.number for one in found.recent] == [4, 5, 6]
    assert len(folder.active_edits()) == 6
    if folder.settings.is_beside_model:
        assert not (tmp_path / "twice" / MODEL).exists()
        with folder.edited() as twice, EditedFolder.open(tmp_path / "once").edited() as once:
            assert twice.generate([PROMPT], 3) == once.generate([PROMPT], 3)
            assert twice.score([PROMPT], [FACTS[0].target_new]).exact().all()
        return
    assert gap(delta_of(tmp_path / "twice"), delta_of(tmp_path / "once")) < 1e-3  # targets of other blocks differ by rounding


@pytest.mark.parametrize(("editor", "pause", "kept"), [("d4s", 1e9, 3), ("ft_l", 0, 3), ("ft_l", 1e9, 1)])
def test_a_stop_in_the_middle_loses_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editor: str, pause: float, kept: int
) -> None:
    monkeypatch.setattr("d4s.editors.ledger.PAUSE", pause)
    facts = fact_file(tmp_path / "facts.csv")
    applied(model, facts, tmp_path / "straight", editor)
    with stopped_after(3, monkeypatch):
        applied(model, facts, tmp_path / "stopped", editor)
    assert len(EditedFolder.open(tmp_path / "stopped").active_edits()) == kept and not EditedFolder.open(tmp_path / "stopped").is_written
    folder, _ = applied(model, facts, tmp_path / "stopped", editor)
    assert folder.is_written
    for name, change in delta_of(tmp_path / "straight").items():
        assert torch.equal(delta_of(tmp_path / "stopped")[name], change)


@pytest.mark.parametrize("editor", ["d4s", "ft_l"])
def test_an_edit_that_diverges_leaves_the_others_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editor: str) -> None:
    monkeypatch.setattr("d4s.editors.ledger.PAUSE", 1e9)
    tried: list[int] = []

    def fail_at_fourth(session, requests, targets) -> StepLog:
        tried.append(1)
        if len(tried) == 4:
            raise Diverged("no number")
        return run_step(session, requests, targets)

    monkeypatch.setattr("d4s.runs.edit_sequence.run_step", fail_at_fourth)
    with pytest.raises(D4SError, match=r"edit 4 diverged \(no number\); it and 2 more were not made"):
        applied(model, fact_file(tmp_path / "facts.csv"), tmp_path / "out", editor)
    assert [edit.number for edit in EditedFolder.open(tmp_path / "out").active_edits()] == [1, 2, 3]
    assert (tmp_path / "out" / MODEL).is_dir()
    applied(model, fact_file(tmp_path / "three.csv", FACTS[:3]), tmp_path / "straight", editor)
    # targets of six facts and of three are optimised in batches of other sizes, whose sums some processors round otherwise
    assert gap(delta_of(tmp_path / "out"), delta_of(tmp_path / "straight")) < 1e-5


# --- conflicts --------------------------------------------------------------------------------------------------------


def contradicting(folder: Path) -> Path:
    """A file whose last row contradicts its first."""
    return fact_file(folder / "facts.csv", [*FACTS[:3], FACTS[0]], n3="Oslo")


def test_conflicts_are_refused_with_all_of_them_named(model: Path, done: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=r"facts\.csv:2: .* is to be 'Lima', but line 5 says 'Oslo'") as told:
        applied(model, contradicting(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out" / MODEL).exists() and "--on-conflict replace or average" in str(told.value)
    with pytest.raises(Conflict) as told:
        applied(model, fact_file(tmp_path / "other.csv", n1="Oslo", n4="Oslo"), done)
    assert "edit 2 made it" in str(told.value) and "edit 5 made it" in str(told.value)


def test_a_conflict_can_replace_what_was_there(model: Path, tmp_path: Path) -> None:
    applied(model, fact_file(tmp_path / "facts.csv", FACTS[:3]), tmp_path / "out")
    folder, found = applied(model, contradicting(tmp_path), tmp_path / "out", on_conflict="replace")
    assert [(edit.number, edit.inactive_reason) for edit in folder.edits()] == [(1, "replaced by 4"), (2, ""), (3, ""), (4, "")]
    assert found is not None and found.recent[0].edit.spec.target == "Oslo"
    assert len(folder.state().records) == 3


def test_the_last_of_contradicting_rows_counts(tmp_path: Path) -> None:
    fact = FACTS[0]
    lines = read_facts(fact_file(tmp_path / "facts.csv", [fact, fact, fact], n0="Oslo", n1="Lima", n2="Oslo")).valid
    [spec], present = plan_edits(lines, [], "replace")
    assert (spec.target, spec.replaces, present) == ("Oslo", (), 2)
    assert plan_edits(lines, [RecordedEdit(4, spec)], "replace") == ([], 3)
    [other], _ = plan_edits(lines, [RecordedEdit(4, spec.model_copy(update={"target": "Lima"}))], "replace")
    assert (other.target, other.replaces) == ("Oslo", (4,))


def test_a_conflict_can_be_averaged(model: Path, tmp_path: Path) -> None:
    folder, _ = applied(model, contradicting(tmp_path), tmp_path / "out", on_conflict="average")
    assert folder.active_edits()[0].spec.averaged_targets == ("Lima", "Oslo") and len(folder.active_edits()) == 3
    each = {}
    for name, targets in {"first": {}, "last": {"n0": "Oslo"}}.items():
        other, _ = applied(model, fact_file(tmp_path / f"{name}.csv", FACTS[:1], **targets), tmp_path / name)
        each[name] = other.state().records[0]["residuals"]
    assert torch.allclose(folder.state().records[0]["residuals"], (each["first"] + each["last"]) / 2, atol=1e-4)
    with pytest.raises(SettingsError, match="averaging is not possible with memit"):
        applied(model, contradicting(tmp_path), tmp_path / "memit", "memit", on_conflict="average")


def test_a_dense_state_cannot_replace(model: Path, tmp_path: Path) -> None:
    applied(model, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "ft_l")
    with pytest.raises(SettingsError, match="replacing an edit is not possible with ft_l: every step replaced its state"):
        applied(model, fact_file(tmp_path / "facts.csv", FACTS[:1], n0="Oslo"), tmp_path / "out", "ft_l", on_conflict="replace")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_other_options_for_the_same_folder_are_refused(model: Path, done: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="was made otherwise") as told:
        applied(model, done.parent / "facts.csv", done, "memit", seed=2)
    assert all(name in str(told.value) for name in ("editor:", "settings:", "seed:", "moments:"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("x")
    with pytest.raises(SettingsError, match="is no edited folder"):
        applied(model, done.parent / "facts.csv", tmp_path / "full")


def test_a_folder_without_edits_is_begun_anew(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        applied(model, contradicting(tmp_path), tmp_path / "out")
    folder, _ = applied(model, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    assert folder.manifest.editor == "rome" and len(folder.active_edits()) == 1
    assert folder.manifest.versions == library_versions()


def test_rows_that_do_not_fit_the_model_are_named_or_set_aside(model: Path, tmp_path: Path) -> None:
    facts = fact_file(tmp_path / "facts.csv", FACTS[:3], n1="Atlantis")
    with pytest.raises(RecordError, match=r"facts\.csv:3: target_new: found 'Atlantis', expected words that the tokenizer knows") as told:
        applied(model, facts, tmp_path / "out")
    assert "(fix them, or pass --skip-bad to set them aside)" in str(told.value)
    folder, _ = applied(model, facts, tmp_path / "out", skip_bad=True)
    assert len(folder.active_edits()) == 2 and (tmp_path / "out" / "rejects.parquet").is_file()
    for skip_bad in (True, False):  # with no sound row it would not help
        with pytest.raises(RecordError, match=r"1 defects in the records \(fix them\)"):
            applied(model, fact_file(tmp_path / "bad.csv", FACTS[:1], n0="Atlantis"), tmp_path / "none", skip_bad=skip_bad)


@pytest.mark.parametrize(
    ("editor", "overrides", "message"),
    [
        ("d4s", {"overrides": {}, "hparams_for": "gpt2-xl"}, r"edit layers \[13, 14, 15, 16, 17\], but the model has layers 0 to 2"),
        ("d5s", {}, "did you mean 'd4s'"),
        ("unedited", {"overrides": {}}, "changes nothing"),
        ("d4s", {"chat": True}, "no chat template"),
    ],
)
def test_settings_that_cannot_be_are_refused(model: Path, tmp_path: Path, editor: str, overrides: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        apply(options(model, fact_file(tmp_path / "facts.csv"), tmp_path / "out", editor, **overrides), lambda plan: None)
    assert not (tmp_path / "out").exists()


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    base = saved_model(tmp_path / "base")
    applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="is not the file that was edited"):
        delta_of(tmp_path / "out")


# --- chat and text ----------------------------------------------------------------------------------------------------


def test_chat_templates_wrap_prompts_and_keep_the_subject(tmp_path: Path) -> None:
    base = saved_model(tmp_path / "base", "llama", chat=CHAT)
    model = load(base)
    builder = PromptBuilder(model, render_chat(model.tokenizer))
    template, prompt = builder.text(FACTS[0].template), builder.text(PROMPT)
    assert prompt == f"You : {PROMPT}\nBecause :\n"  # the tokenizer adds its own beginning of text
    assert encode(model, prompt).count(model.tokenizer.bos_token_id) == 1
    place = subject_last_index(model, prompt, FACTS[0].subject, template)
    assert model.tokenizer.convert_ids_to_tokens(encode(model, prompt)[place]) == FACTS[0].subject.split()[-1]
    folder, found = applied(base, fact_file(tmp_path / "facts.csv"), tmp_path / "chat", chat=True)
    assert found is not None
    expected = probability(tmp_path / "chat" / MODEL, prompt, FACTS[0].target_new)
    assert found.results[0].probability_after == pytest.approx(expected, rel=1e-4)
    applied(base, fact_file(tmp_path / "facts.csv"), tmp_path / "plain")
    assert gap(delta_of(tmp_path / "chat"), delta_of(tmp_path / "plain")) > 0.01
    assert folder.manifest.chat == render_chat(model.tokenizer)


def test_moments_come_from_a_text_file(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Ada Moss works as a baker.\n\nBen Reed lives in the city of Oslo. " * 40, encoding="utf-8")
    folder, _ = applied(model, fact_file(tmp_path / "facts.csv"), tmp_path / "out", text=TextSource(file=text, tokens=500))
    assert folder.prepared.moments[0].n_tokens == 512 and folder.manifest.moments.startswith("text text.txt ")
    confined, _ = applied(
        model, fact_file(tmp_path / "facts.csv"), tmp_path / "confined", "alphaedit", text=TextSource(file=text, tokens=500)
    )
    assert not confined.prepared.moments and {*confined.prepared.extras} == {
        f"{layer}.basis" for layer in confined.manifest.settings.layers
    }
    text.write_text("too short", encoding="utf-8")
    with pytest.raises(D4SError, match="too few for one row of 64"):
        applied(model, fact_file(tmp_path / "facts.csv"), tmp_path / "short", text=TextSource(file=text))


def test_a_change_is_named_as_the_network_names_its_weights() -> None:
    for family, name in {"gpt2": "transformer.h.1.mlp.c_proj.weight", "llama": "model.layers.1.mlp.down_proj.weight"}.items():
        model = tiny_model(family)
        ((found, change),) = to_state_dict(model, {1: torch.ones_like(model.weight(1))}).items()
        assert found == name and change.shape == model.network.get_parameter(name).shape


def test_settings_of_the_command_line() -> None:
    from d4s.cli.edit_commands import _parse_overrides

    assert _parse_overrides(["layers=[0, 1]", "target.layer=1", "preservation.weight=3e1"])["layers"] == SMALL["layers"]
    with pytest.raises(SettingsError, match=r"key=value, such as preservation\.weight=300; found 'weight', '=3'"):
        _parse_overrides(["weight", "=3", "a.b=1"])


def test_two_commands_do_not_change_one_folder(model: Path, tmp_path: Path) -> None:
    facts = fact_file(tmp_path / "facts.csv", FACTS[:2])
    with exclusive_access(tmp_path / "out", is_new=True):
        with pytest.raises(D4SError, match="another command is at work in"):
            applied(model, facts, tmp_path / "out")
        assert (tmp_path / "out").is_dir()  # which the one refused must leave to the one at work
    assert not (tmp_path / "out").exists()
    applied(model, facts, tmp_path / "out")
    with exclusive_access(tmp_path / "out"), pytest.raises(D4SError, match="another command is at work in"):
        undo(tmp_path / "out", [1], "cpu")
    assert [edit.inactive_reason for edit in EditedFolder.open(tmp_path / "out").edits()] == ["", ""]


def test_a_folder_that_came_to_nothing_leaves_no_trace(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ArtifactError, match="holds no manifest"):
        undo(tmp_path / "mistyped" / "out", [1], "cpu")
    for out in (tmp_path / "mine", tmp_path / "new" / "parents" / "out"):
        with pytest.raises(SettingsError):
            applied(model, fact_file(tmp_path / "facts.csv"), out, "unedited", overrides={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.csv", "mine"]


def test_an_error_within_a_folder_is_not_taken_for_its_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), exclusive_access(tmp_path / "out", is_new=True):
        raise BlockingIOError


@pytest.mark.parametrize(
    ("there", "named"),
    [(400, ["loading the model", "lower --dtype"]), (480, ["3 job(s)", "targets needs", "edits needs", "what comes out needs"])],
)
def test_what_cannot_fit_is_refused_before_it_is_computed(
    there: int, named: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "this_machine", lambda: Machine(there * MIB))
    with pytest.raises(DoesNotFit) as refused:
        applied(model, fact_file(tmp_path / "facts.csv"), tmp_path / "out")
    assert all(name in str(refused.value) for name in named)
