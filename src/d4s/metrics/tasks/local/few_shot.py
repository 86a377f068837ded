"""Wordings of the real tasks, and the examples before a question.

Examples are always the first items that are not the one asked, of the same subject where items have one. Wordings are
functions because the harness compiles a template anew for every item and every example.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from datasets import Dataset
from lm_eval.api.samplers import ContextSampler

Doc = dict[str, Any]


def test_split(items: Dataset) -> Dataset:
    """The items that are asked."""
    return items.select([place for place, is_asked in enumerate(items["asked"]) if is_asked])


def fewshot_split(items: Dataset) -> Dataset:
    """The items that examples are drawn from: those that are never asked, or all where every one is asked."""
    kept = [place for place, is_asked in enumerate(items["asked"]) if not is_asked]
    return items.select(kept or range(len(items)))


class FirstOtherSampler(ContextSampler):
    """Takes the first items that are not the one asked, by their content; no draw, no state."""

    def sample(self, n: int, eval_doc: Doc | None = None, df: Sequence[Doc] | None = None, **_: Any) -> list[Doc]:
        """The first `n` other items.

        Raises:
            ValueError: if there are fewer.
        """
        question = eval_doc or {}
        others = (doc for doc in self.df if doc.get("subject") == question.get("subject") and _content(doc) != _content(question))
        found = [*islice(others, n)]
        if len(found) < n:
            raise ValueError(f"{n} examples are asked for, and {len(found)} other items are there")
        return found


def _content(doc: Doc) -> dict[str, Any]:
    return {key: value for key, value in doc.items() if key not in ("id", "asked")}


def question(doc: Doc) -> str:
    """A question to be answered, as in ARC and GSM8K."""
    return f"Question: {doc['question']}\nAnswer:"


def hellaswag_prompt(doc: Doc) -> str:
    """What HellaSwag's endings end."""
    return f"{doc['activity_label']}: {doc['ctx']}"


def mmlu_prompt(doc: Doc) -> str:
    """A question of MMLU with its choices by letter."""
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", doc["choices"], strict=True))
    return f"{doc['question'].strip()}\n{choices}Answer:"
