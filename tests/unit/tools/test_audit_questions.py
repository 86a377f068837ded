"""The audit reads Parquet alone, finds nothing in sound data sets, and everything that is seeded into them."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d4s.artifacts import read_table, write_table
from d4s.config import FORMS
from d4s.facts.record import to_rows
from d4s.questions.question_facts import form_facts, valid_drafts
from d4s.questions.question_items import plan_items
from d4s.questions.writers import TemplateWriter
from d4s.schemas import FACTS, PROVENANCE
from tests.events import frame
from tools import audit_questions
from tools.audit_questions import audit, main

COUNT = 400
Row = dict[str, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with the three forms of made-up events."""
    events = frame(*((f"PersonX does thing {k}", ("xWant", "xEffect")[k % 2], f"find {k % 31}") for k in range(COUNT)))
    items = plan_items(events, 0)
    drafts = valid_drafts(items, TemplateWriter(0))
    assert len(drafts) == COUNT
    store = tmp_path_factory.mktemp("sound")
    for form in FORMS:
        facts = form_facts(items, {key: found[form] for key, found in drafts.items()}, 0)
        sources = [
            {"fact_id": f"mqd:{item.event_id}", "event_id": item.event_id, "head": item.head, "relation": item.relation, "tail": item.tail,
             "writer": "template", "prompt_version": "template-2", "response_sha256": "", "attempts": 0, "fell_back": ""}
            for item in items
        ]  # fmt: skip
        write_table(store / form / "facts.parquet", to_rows(facts), FACTS)
        write_table(store / form / "provenance.parquet", sources, PROVENANCE)
    return store


def changed(sound: Path, at: Path, form: str, change: Callable[[list[Row], list[Row]], None]) -> list[str]:
    """Findings in a copy of a sound data set after a change of its rows."""
    schemas = {"facts": FACTS, "provenance": PROVENANCE}
    tables = {name: (read_table(sound / form / f"{name}.parquet", schema), schema) for name, schema in schemas.items()}
    rows = {name: table.to_dict("records") for name, (table, _) in tables.items()}
    change(rows["facts"], rows["provenance"])
    for name, (_, schema) in tables.items():
        write_table(at / f"{name}.parquet", [{str(key): _listed(value) for key, value in row.items()} for row in rows[name]], schema)
    return audit(at)


def _listed(value: Any) -> Any:
    return list(value) if hasattr(value, "tolist") else value


def put(number: int, **values: Any) -> Callable[[list[Row], list[Row]], None]:
    def change(facts: list[Row], sources: list[Row]) -> None:
        facts[number].update({name: value(facts[number]) if callable(value) else value for name, value in values.items()})

    return change


def many(**values: Any) -> Callable[[list[Row], list[Row]], None]:
    def change(facts: list[Row], sources: list[Row]) -> None:
        for number in range(60):
            put(number, **values)(facts, sources)

    return change


def no_source(facts: list[Row], sources: list[Row]) -> None:
    del sources[5]


def same_question(facts: list[Row], sources: list[Row]) -> None:
    facts[7].update(subject=facts[8]["subject"], template=facts[8]["template"])


def second_right(fact: Row) -> str:
    right, other = fact["target_true"], fact["target_new"]
    options = audit_questions.OPTIONS.search(fact["template"])
    assert options
    return fact["template"].replace(f"{other}) {options['abcd'.index(other) + 1]}", f"{other}) {options['abcd'.index(right) + 1]}")


CORRUPTIONS: dict[str, tuple[str, Callable[[list[Row], list[Row]], None], str]] = {
    "subject missing": ("true_false", put(3, template="Is it true?"), "names the subject 0 times"),
    "subject twice": ("true_false", put(3, template=lambda fact: f"{{}}, {fact['template']}"), "names the subject 2 times"),
    "placeholder lost": ("directly_generated", put(3, wordings=lambda fact: [fact["subject"]]), "holds {} 0 times"),
    "two right choices": ("multiple_choice", put(3, template=second_right), "the right option stands at"),
    "wrong letter": ("multiple_choice", put(3, target_true=lambda fact: "abcd"["abcd".index(fact["target_true"]) - 1]), "the answer is"),
    "illegal label": ("true_false", put(3, target_new="maybe"), "no answer of the form"),
    "label for a phrase": ("directly_generated", put(3, target_new="yes"), "no answer of the form"),
    "new target true": ("directly_generated", put(3, target_new=lambda fact: fact["target_true"]), "is true already"),
    "leak": ("directly_generated", put(3, template=lambda fact: f"{{}}, {fact['target_new'].upper()}, so"), "leaks an answer"),
    "label turned": ("true_false", put(3, target_true=lambda fact: fact["target_new"]), "does not go with"),
    "unbalanced labels": ("true_false", many(target_true="yes", target_new="no"), "the answer 'yes' is right in"),
    "unbalanced places": ("multiple_choice", many(target_true="a", target_new="b"), "the answer 'a' is right in"),
    "question twice": ("directly_generated", same_question, "occurs 2 times"),
    "wording twice": ("directly_generated", put(3, wordings=lambda fact: [fact["template"].upper().replace("PERSON", "person")]), "same"),
    "paraphrase lost": ("true_false", put(3, paraphrases=lambda fact: list(fact["paraphrases"])[:1]), "1 paraphrases, expected 2"),
    "markup": ("directly_generated", put(3, template="**{}** and then"), "markup"),
    "control character": ("directly_generated", put(3, template="{} and\u200b then"), "control characters"),
    "too long": ("directly_generated", put(3, template="{} and " + "so " * 200), "characters, expected 1 to 400"),
    "provenance lost": ("directly_generated", no_source, "stands in only one of"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_found_in_a_sound_data_set(form: str, sound: Path, tmp_path: Path) -> None:
    assert audit(sound / form) == []
    assert changed(sound, tmp_path, form, lambda facts, sources: None) == []


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_seeded_corruption_is_found(corruption: str, sound: Path, tmp_path: Path) -> None:
    form, change, finding = CORRUPTIONS[corruption]
    found = changed(sound, tmp_path, form, change)
    assert any(finding in text for text in found), found


def test_all_findings_are_told_and_the_status_says_so(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in ((3, "one"), (4, "two")):
        changed(sound, tmp_path / name, "true_false", put(number, target_new="maybe"))
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), str(sound / "true_false")]) == 1
    told = capsys.readouterr().out
    assert "one: mqd:e3: " in told and "two: mqd:e4: " in told and "400 facts, 0 findings" in told
    assert main([str(sound / "true_false")]) == 0
    assert main([str(tmp_path)]) == main([]) == 2


def test_a_torn_file_is_told_in_one_line(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("facts", "provenance"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1junk")
    assert main([str(sound / "true_false"), str(tmp_path)]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_audit_uses_nothing_of_the_package(sound: Path) -> None:
    tree = ast.parse(Path(audit_questions.__file__).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imports = {name for node in found for name in (getattr(node, "module", None), *(alias.name for alias in node.names))}
    assert not [name for name in imports if name and name.startswith(("d4s", "tools", "tests"))]
    run = subprocess.run([sys.executable, audit_questions.__file__, str(sound / "true_false")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
