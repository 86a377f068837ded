"""Text without facts: the world's filler lines, or running text from real articles."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from d4s.errors import D4SError
from d4s.facts.articles import Article, articles
from d4s.pretraining.sentences import pick
from d4s.world.filler import LEAD_INS

SHORTEST_PARAGRAPH = 120
_MARKS = re.compile(r" @([-,.])@ ")


@dataclass(frozen=True)
class FreeText(ABC):
    """Text for training and held-out text; `fills_rows` says whether it comes in whole rows."""

    lines: Sequence[str]
    heldout: Sequence[str]
    fills_rows: ClassVar[bool]
    lead_ins: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def piece(self, rng: np.random.Generator) -> str:
        """A piece of text."""

    @abstractmethod
    def lead_in(self, rng: np.random.Generator, is_clause: bool) -> str:
        """Words to put before a sentence, or none; only a clause may follow an unfinished phrase."""


class WorldText(FreeText):
    """Filler lines of the world: whole sentences, mixed among those with facts."""

    fills_rows = False
    lead_ins = LEAD_INS

    @classmethod
    def read(cls, filler: Path, heldout: Path) -> "WorldText":
        """The lines of a world's two text files."""
        return cls(filler.read_text(encoding="utf-8").splitlines(), heldout.read_text(encoding="utf-8").splitlines())

    def piece(self, rng: np.random.Generator) -> str:
        """One line."""
        return pick(rng, self.lines)

    def lead_in(self, rng: np.random.Generator, is_clause: bool) -> str:
        """A phrase that a clause can follow."""
        return pick(rng, LEAD_INS) if is_clause else ""


class RunningText(FreeText):
    """Paragraphs of articles: some rows hold nothing else, and fragments introduce facts."""

    fills_rows = True

    @classmethod
    def read(cls, path: Path) -> "RunningText":
        """Paragraphs of a JSON-lines file of articles; those of split `ppl` are held out.

        Raises:
            D4SError: if none is left to train on.
        """
        parts: dict[str, list[str]] = {"stats": [], "ppl": []}
        for article in articles(path):
            parts[article.split] += paragraphs(article)
        if not parts["stats"]:
            raise D4SError(
                f"{path} holds no paragraph to train on: expected articles of split `stats` with lines of more than {SHORTEST_PARAGRAPH}"
                " characters, which are its paragraphs; shorter lines are left out, so join the lines of a paragraph"
            )
        return cls(parts["stats"], parts["ppl"])

    def piece(self, rng: np.random.Generator) -> str:
        """A paragraph from a random word on."""
        words = pick(rng, self.lines).split(" ")
        return " ".join(words[int(rng.integers(max(1, len(words) - 40))) :])

    def lead_in(self, rng: np.random.Generator, is_clause: bool) -> str:
        """A fragment of a few words, closed like a sentence."""
        words = pick(rng, self.lines).split(" ")
        start = int(rng.integers(max(1, len(words) - 12)))
        return " ".join(words[start : start + int(rng.integers(3, 11))]).rstrip(" .,;") + "."


def paragraphs(article: Article) -> list[str]:
    """The paragraphs of an article without headings and short lines, with split punctuation rejoined."""
    lines = (re.sub(r" +", " ", _MARKS.sub(r"\1", line)).strip() for line in article.text.split("\n"))
    return [line for line in lines if len(line) > SHORTEST_PARAGRAPH and not line.startswith("=")]
