"""Running text: articles with the part of the work they serve, so that no text both feeds statistics and measures perplexity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d4s.facts.jsonl import Raw, Text, sound_lines

Split = Literal["stats", "ppl"]


class RawArticle(Raw):
    """An article as it stands in the file."""

    article: int
    title: Text
    split: Split
    text: Text


@dataclass(frozen=True, slots=True)
class Article:
    """One article: `stats` articles feed training and statistics, `ppl` articles only ever measure."""

    number: int
    title: str
    split: Split
    text: str


def articles(path: Path) -> list[Article]:
    """Articles of a JSON-lines file, in its order.

    Raises:
        RecordError: naming every defect of the file.
    """
    return [Article(line.raw.article, line.raw.title, line.raw.split, line.raw.text) for line in sound_lines(path, RawArticle)]
