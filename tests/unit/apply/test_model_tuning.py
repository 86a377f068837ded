"""A model of unknown shape: settings measured by `d4s apply` and `d4s tune`, shown, kept, taken again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import d4s
from d4s.apply import apply_pipeline
from d4s.apply.edited_folder import EditedFolder
from d4s.cli import app
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import resolve
from d4s.editors.settings_file import read_settings_file, settings_file_text
from d4s.errors import SettingsError
from d4s.facts.record import Fact
from d4s.models.language_model import LanguageModel
from d4s.tuning import tuning_parts
from d4s.tuning.layer_sweep import score_target
from d4s.tuning.tune import SETTINGS_FILE
from tests.applying import CHAT, FACTS, applied, fact_file, saved_model
from tests.tiny import tiny_model

UNKNOWN = {"hparams_for": None, "overrides": {"target": {"steps": 3}}}


def call(*words: object, fails: int = 0) -> str:
    """What a command prints; `fails` is the exit status expected."""
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == fails, found.output
    return " ".join(found.output.split())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("base"))


def test_applying_measures_once_and_takes_the_same_choice_again(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    folder, _ = applied(base, fact_file(tmp_path / "facts.csv", FACTS[:3]), out, **UNKNOWN)
    found = read_settings_file(out / SETTINGS_FILE)
    assert folder.manifest.settings.layers == resolve("d4s", {}, found).layers
    assert found.sweep and found.key_leverage and "the facts that are to be edited" in found.facts

    def fail(*_args: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(apply_pipeline, "choose_settings", fail)
    more, _ = applied(base, fact_file(tmp_path / "more.csv", FACTS[3:5]), out, **UNKNOWN)
    assert len(more.active_edits()) == 5 and more.manifest.settings == folder.manifest.settings


def test_without_paraphrases_the_error_says_what_to_do(base: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.csv"
    facts.write_text("subject,prompt,target_new\nAda Moss,{} lives in the city of,Oslo\n")
    with pytest.raises(SettingsError, match=r"no settings are known for a gpt2 of 3 layers.*d4s tune.*--hparams-for"):
        applied(base, facts, tmp_path / "out", **UNKNOWN)
    assert not (tmp_path / "out").exists()


def test_a_chat_is_measured_as_it_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, out, drawn = saved_model(tmp_path / "base", chat=CHAT), tmp_path / "out", list[tuple[EditRequest, Fact]]()

    def note(model: LanguageModel, some: Sequence[tuple[EditRequest, Fact]], *more: Any) -> dict[str, float]:
        drawn.extend(some)
        return score_target(model, some, *more)

    monkeypatch.setattr(tuning_parts, "score_target", note)
    folder, _ = applied(base, fact_file(tmp_path / "facts.csv", FACTS[:3]), out, chat=True, **UNKNOWN)
    chat = folder.manifest.chat
    assert chat is not None and drawn and "in its chat" in read_settings_file(out / SETTINGS_FILE).facts
    edited = {folder.prompts.request(edit.spec, edit.number).template for edit in folder.active_edits()}
    assert {request.template for request, _ in drawn} == edited
    for request, fact in drawn:
        assert request.opening == chat.before and request.template == chat.turn(request.template[len(chat.before) : -len(chat.after)])
        assert all(text.startswith(chat.before) and text.endswith(chat.after) for text in (*fact.paraphrases, fact.prompt))


def test_tuning_writes_what_applying_takes(base: Path, tmp_path: Path) -> None:
    facts, tuned = fact_file(tmp_path / "facts.csv"), tmp_path / "tuned"
    asked = ["tune", "--model", base, "--out", tuned, "--facts", facts, "--edits", 3, "--moment-tokens", 300, "--budget", 0.5]
    shown = call(*asked, "--editor", "d4s")
    assert "sequences of edits" in shown and (tuned / "score_by_layer.png").is_file()
    before = (tuned / SETTINGS_FILE).read_text()
    call(*asked, "--editor", "d4s")
    assert (tuned / SETTINGS_FILE).read_text() == before
    assert "choose among d4s" in call(*asked, "--editor", "grace", fails=2)
    file = tuned / SETTINGS_FILE
    call("apply", "--model", base, "--facts", facts, "--out", tmp_path / "out", "--settings", file, "--moment-tokens", 300)
    assert EditedFolder.open(tmp_path / "out").manifest.settings == resolve("d4s", {}, str(file))
    assert not (tmp_path / "out" / SETTINGS_FILE).exists(), "the file that was given is not measured again"
    other = read_settings_file(file).model_copy(update={"model": read_settings_file(file).model.model_copy(update={"layers": 9})})
    (tmp_path / "other.yaml").write_text(settings_file_text(other))
    with pytest.raises(SettingsError, match=r"other\.yaml was made for a gpt2 of 9 layers"):
        applied(base, facts, tmp_path / "third", hparams_for=str(tmp_path / "other.yaml"))


def test_a_study_takes_the_content_of_the_file_and_an_editor_one_of_its_own(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    applied(base, fact_file(tmp_path / "facts.csv", FACTS[:3]), out, **UNKNOWN)
    file = out / SETTINGS_FILE
    copy = tmp_path / "copy.yaml"
    copy.write_text(file.read_text())
    assert resolve("memit", {}, str(file)) == resolve("memit", {}, str(copy)), "the path enters nothing"
    mine = resolve("mine", {"preset": "memit", "hparams_for": str(file), "batch": 2}, "gpt2-xl")
    assert mine.layers == resolve("memit", {}, str(file)).layers and mine.batch == 2
    assert resolve("rome_identity", {}, str(file)).preservation.kind == "identity"
    with pytest.raises(SettingsError, match="the settings file has none for 'pmet'"):
        resolve("pmet", {}, str(file))
    with pytest.raises(SettingsError, match="goes with a preset"):
        resolve("mine", {"family": "unedited", "hparams_for": str(file)}, "mini")


def test_a_loaded_model_of_unknown_shape_is_measured_too() -> None:
    model = tiny_model()
    rows = [
        {"subject": fact.subject, "prompt": fact.template, "target_new": fact.target_new, "paraphrase": list(fact.paraphrases)}
        for fact in FACTS[:3]
    ]
    edited = d4s.edit(model.network, model.tokenizer, rows, settings={"target": {"steps": 2}})
    assert len(edited) == 3
