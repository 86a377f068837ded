"""Everything that a fact asks of a model must fit its context before an edit is made: what is measured later, and what is asked."""

from dataclasses import replace
from pathlib import Path

import pytest

from d4s.apply import change
from d4s.apply.ask import ask
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.input_preparation import TextSource
from d4s.errors import RecordError, SettingsError
from d4s.facts.record import Probe
from tests.applying import FACTS, applied, fact_file, saved_model
from tests.tiny import tiny_model

LONG = " ".join(["The city of"] * 21)  # 64 tokens with BOS, all that the tiny model takes
LOCAL = " ".join(["The city of"] * 19)  # 58 tokens: no room for a short answer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("base") / "gpt2")


def probes(*prompts: str) -> tuple[Probe, ...]:
    return tuple(Probe("unrelated", prompt, None) for prompt in prompts)


@pytest.mark.parametrize(
    ("field", "changed"),
    [("paraphrase", {"paraphrases": (LONG,)}), ("locality", {"neighborhood": probes(LOCAL)}), ("target_true", {"target_true": LONG})],
)
def test_what_is_only_measured_must_fit_the_model_too(model: Path, tmp_path: Path, field: str, changed: dict) -> None:
    facts = fact_file(tmp_path / "facts.csv", [FACTS[0], replace(FACTS[1], **changed), FACTS[2]], n1="Oslo Rome")
    with pytest.raises(RecordError, match=rf"facts\.csv:3: {field}: found .* expected at most the 64 tokens that the model takes"):
        applied(model, facts, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder, _ = applied(model, facts, tmp_path / "out", skip_bad=True)
    assert len(folder.active_edits()) == 2 and folder.is_written


def test_what_just_fits_is_measured(model: Path, tmp_path: Path) -> None:
    fact = replace(FACTS[0], paraphrases=(LONG,), neighborhood=probes(f"Ben {LOCAL.removesuffix(' The city of')}"))
    _, found = applied(model, fact_file(tmp_path / "facts.csv", [fact]), tmp_path / "out")
    assert found is not None and len(found.means) == 3
    with pytest.raises(SettingsError, match="paraphrase: found 'The city of"):
        change.replace(tmp_path / "out", 1, "Oslo Rome", "cpu")
    assert [edit.spec.target for edit in EditedFolder.open(tmp_path / "out").active_edits()] == [FACTS[0].target_new]


def test_a_mean_with_an_earlier_target_must_fit_the_new_paraphrases(model: Path, tmp_path: Path) -> None:
    applied(model, fact_file(tmp_path / "first.csv", FACTS[:1], n0="Oslo Rome"), tmp_path / "out")
    again = fact_file(tmp_path / "again.csv", [replace(FACTS[0], paraphrases=(LONG,))], n0="Lima")
    with pytest.raises(SettingsError, match="paraphrase: found 'The city of"):
        applied(model, again, tmp_path / "out", on_conflict="average")
    assert len(EditedFolder.open(tmp_path / "out").edits()) == 1


def test_questions_that_do_not_fit_are_all_named(model: Path, tmp_path: Path) -> None:
    applied(model, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out")
    prompt = FACTS[0].prompt
    assert len(ask(tmp_path / "out", [LONG, prompt], 3, "cpu")) == 2
    with pytest.raises(SettingsError, match="must have 1 to 64 tokens") as told:
        ask(tmp_path / "out", [f"Ada {LONG}", prompt, f"Ben {LONG}"], 3, "cpu")
    assert "'Ada The city" in str(told.value) and "'Ben The city" in str(told.value) and prompt not in str(told.value)


def test_a_text_that_is_too_short_for_second_moments_is_refused(tmp_path: Path) -> None:
    wide = tiny_model("gpt2", mlp_width=96)
    wide.network.save_pretrained(tmp_path / "wide")
    wide.tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(SettingsError, match="keys of 96 entries need more than 64 tokens"):
        applied(tmp_path / "wide", fact_file(tmp_path / "facts.csv"), tmp_path / "out", text=TextSource(tokens=16))


def test_second_moments_come_from_one_place() -> None:
    with pytest.raises(ValueError, match="not from both"):
        TextSource(file=Path("text.txt"), name="wikitext")
