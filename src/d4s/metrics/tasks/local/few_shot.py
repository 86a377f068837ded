"""Prompts of the real tasks, and their few-shot examples.

Examples are the first items other than the one evaluated, of the same subject where items have one. Prompts are functions
because the harness compiles a template again for every item and every example.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from datasets import Dataset
from lm_eval.api.samplers import ContextSampler

Doc = dict[str, Any]


def test_split(items: Dataset) -> Dataset:
    """The items that are evaluated."""
    return items.select([place for place, is_asked in enumerate(items["asked"]) if is_asked])


def fewshot_split(items: Dataset) -> Dataset:
    """The items that examples come from: those that are not evaluated, or all where every item is."""
    kept = [place for place, is_asked in enumerate(items["asked"]) if not is_asked]
    return items.select(kept or range(len(items)))


class FirstOtherSampler(ContextSampler):
    """A sampler that takes the first items whose content is not that of the evaluated one; no draw, no state."""

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
