"""The same words in other characters or with other spaces are the same fact."""

import unicodedata
from pathlib import Path

import pytest

from d4s.apply.change import merge, replace
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.fact_files import read_facts
from d4s.apply.history import Conflict, EditSpec, OnConflict, RecordedEdit, plan_edits
from d4s.errors import SettingsError
from tests.applying import applied
from tests.tiny import bpe_tokenizer, tiny_model

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Zoë Müller lives in") for form in ("NFC", "NFD"))
SUBJECTS = [unicodedata.normalize(form, "Zoë Müller") for form in ("NFC", "NFD")]
TARGETS = [unicodedata.normalize(form, "Orléans") for form in ("NFC", "NFD")]


def file_of(path: Path, *rows: tuple[str, str, str]) -> Path:
    path.write_text("subject,prompt,target_new\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def plan_of(path: Path, mode: OnConflict, present: list[RecordedEdit] | None = None) -> tuple[list[EditSpec], int]:
    return plan_edits(read_facts(path).valid, present or [], mode)


def test_composed_and_decomposed_prompts_conflict(tmp_path: Path) -> None:
    facts = file_of(tmp_path / "facts.csv", (SUBJECTS[0], "{} lives in", "Rome"), (SUBJECTS[1], "{} lives in", "Oslo"))
    with pytest.raises(Conflict, match=r"facts\.csv:2: .* is to be 'Rome', but line 3 says 'Oslo'"):
        plan_of(facts, "refuse")
    [spec], repeated = plan_of(facts, "replace")
    assert (spec.prompt, spec.target, repeated) == (DECOMPOSED, "Oslo", 1)  # edited as it is written
    assert plan_of(facts, "average")[0][0].averaged_targets == ("Rome", "Oslo")
    before = [RecordedEdit(7, EditSpec(subject=SUBJECTS[1], template="{} lives in", target="Rome"))]
    with pytest.raises(Conflict, match="line 3 says 'Oslo'"):
        plan_of(facts, "refuse", before)
    with pytest.raises(Conflict, match="but edit 7 made it 'Rome'"):
        plan_of(file_of(tmp_path / "other.csv", (SUBJECTS[0], "{} lives in", "Lima")), "refuse", before)


def test_composed_and_decomposed_targets_are_one(tmp_path: Path) -> None:
    rows = [(subject, "{} lives in", target) for subject, target in zip(SUBJECTS, TARGETS, strict=True)]
    facts = file_of(tmp_path / "facts.csv", *rows)
    for mode in ("refuse", "replace"):
        assert len(plan_of(facts, mode)[0]) == 1
        assert plan_of(facts, mode, [RecordedEdit(1, EditSpec(subject=SUBJECTS[0], template="{} lives in", target=TARGETS[0]))]) == ([], 2)
    [spec], _ = plan_of(facts, "average")
    assert (spec.target, spec.averaged_targets) == (TARGETS[0], ())
    assert plan_of(facts, "average", [RecordedEdit(1, spec)]) == ([], 2)


def test_a_subject_in_other_characters_than_its_prompt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(f'{{"subject": "{SUBJECTS[1]}", "prompt": "{COMPOSED}", "target_new": "Rome"}}\n', encoding="utf-8")
    [reject] = read_facts(path).rejects
    assert "in the same characters; one is composed, the other is not" in str(reject.problem)
    path.write_text(f'{{"subject": "Ada", "prompt": "{{}} is", "target_new": "{TARGETS[0]}", "target_true": "{TARGETS[1]}"}}\n', "utf-8")
    assert [reject.problem.field for reject in read_facts(path).rejects] == ["target_new"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer takes any bytes and normalises nothing."""
    folder, model = tmp_path_factory.mktemp("base") / "bytes", tiny_model(tokenizer=bpe_tokenizer())
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def test_merge_and_replace_hold_them_for_the_same(base: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    applied(base, file_of(tmp_path / "one.csv", (SUBJECTS[0], "{} lives in", TARGETS[0])), one, "rome")
    applied(base, file_of(tmp_path / "other.csv", (SUBJECTS[1], "{} lives in", TARGETS[1])), other, "rome")
    merge(one, other, tmp_path / "both", prefer_second=False, device="cpu")
    assert [edit.spec.prompt for edit in EditedFolder.open(tmp_path / "both").active_edits()] == [COMPOSED]
    for same in (TARGETS[1], f" {TARGETS[0]}", f"{TARGETS[0]}\n"):
        with pytest.raises(SettingsError, match=r"edit 1 has the target .* already"):
            replace(one, 1, same, "cpu")
    with pytest.raises(SettingsError, match="the new target is empty"):
        replace(one, 1, " \n", "cpu")
    replace(one, 1, "  Rome ", "cpu")
    assert [edit.spec.target for edit in EditedFolder.open(one).active_edits()] == ["Rome"]
    again = file_of(tmp_path / "again.csv", (SUBJECTS[0], "{} lives in", "Rome"))
    assert applied(base, again, one, "rome")[1] is None
    with pytest.raises(Conflict, match="1 conflicts"):
        merge(one, other, tmp_path / "more", prefer_second=False, device="cpu")
