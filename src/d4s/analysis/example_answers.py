"""Example prompts for the report: the expected answer, and free answers before and after the edits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d4s.analysis.display_names import REFERENCES, dataset_name, method_name
from d4s.analysis.study_results import Panel, Results, RunKey

SHOWN = ("rome", "memit", "d4s")
ITEMS = 3
KINDS = {"efficacy": "the edit", "paraphrase": "other wording", "locality": "left alone?"}
GENERATED = "_generated"
AS_BEFORE = "as before"
Key = tuple[str, str, int]
Row = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class ExampleAnswer:
    """A free answer after the edits, and whether it is the expected one."""

    text: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt: the expected answer, the unedited model's answer, and each editor's."""

    kind: str
    prompt: str
    expected: str
    before: str
    after: tuple[ExampleAnswer, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of one panel at one length."""

    place: str
    length: int
    methods: tuple[str, ...]
    items: tuple[Example, ...]


def examples(results: Results) -> list[Examples]:
    """Examples of every panel from the first facts of the sequence, whose edits are the oldest."""
    found = [_panel_examples(results, panel) for panel in results.panels]
    return [item for item in found if item is not None and item.items]


def _panel_examples(results: Results, panel: Panel) -> Examples | None:
    editors = [editor for editor in SHOWN if results.runs_of(panel, editor)]
    editors = editors or results.editors(panel, references=False)[:3] or [e for e in results.editors(panel) if e in REFERENCES]
    length = results.shared_length(panel, editors)
    if length is None:
        return None
    runs = [results.runs_of(panel, editor)[0] for editor in editors]
    answers = [_answers(results, run, length) for run in runs]
    keys = [key for key in answers[0] if all(key in found for found in answers)]
    items = tuple(_example(key, [found[key] for found in answers]) for key in _choose_prompts(keys))
    return Examples(f"{dataset_name(panel.dataset)}, {panel.model}", length, tuple(map(method_name, editors)), items)


def _answers(results: Results, run: RunKey, length: int) -> dict[Key, Row]:
    """Free answers of a run by fact, kind and prompt, each with its score."""
    rows = results.answers[results.rows_of(results.answers, run) & (results.answers["step"] == length)]
    scores = results.scores[results.rows_of(results.scores, run) & (results.scores["step"] == length)]
    scores = scores[scores["metric"].str.endswith(GENERATED) & scores["fact_id"].isin(rows["fact_id"])]
    kinds = scores["metric"].str.removesuffix(GENERATED)
    right = dict(zip(zip(scores["fact_id"], kinds, scores["prompt_id"], strict=True), scores["value"] > 0, strict=True))
    keys = zip(rows["fact_id"], rows["kind"], rows["prompt_id"], strict=True)
    found = zip(keys, rows.to_dict(orient="records"), strict=True)
    return {key: {**row, "right": right.get(key, False)} for key, row in found if key[1] in KINDS}


def _choose_prompts(keys: Sequence[Key]) -> list[Key]:
    """The first prompt of each kind for the first few facts."""
    facts = list(dict.fromkeys(fact for fact, _, _ in keys))[:ITEMS]
    first: dict[tuple[str, str], Key] = {}
    for key in keys:
        first.setdefault(key[:2], key)
    return [first[fact, kind] for fact in facts for kind in KINDS if (fact, kind) in first]


def _example(key: Key, rows: Sequence[Row]) -> Example:
    expected = AS_BEFORE if key[1] == "locality" else str(rows[0]["expected"])
    after = tuple(ExampleAnswer(_answer_text(row["after"]), bool(row["right"])) for row in rows)
    return Example(KINDS[key[1]], str(rows[0]["prompt"]), expected, _answer_text(rows[0]["before"]), after)


def _answer_text(text: str | None) -> str:
    return text or "(nothing)"
