"""Running text: articles with the part of the work they serve, so that no text both feeds statistics and measures perplexity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d4s.facts.jsonl import Raw, RecordLine, Text, valid_lines

Split = Literal["stats", "ppl"]
SPLITS: tuple[Split, Split] = ("stats", "ppl")


class RawArticle(Raw):
    """An article as it stands in the file; where it has no number or no split, these follow from its place."""

    article: int | None = None
    title: Text
    split: Split | None = None
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

    One without a number has that of its line, from 0 on; one without a split serves statistics if its number is even, and
    perplexity if it is odd.

    Raises:
        RecordError: naming every defect of the file.
    """
    return [_article(line) for line in valid_lines(path, RawArticle)]


def _article(line: RecordLine[RawArticle]) -> Article:
    raw = line.raw
    number = line.number - 1 if raw.article is None else raw.article
    return Article(number, raw.title, raw.split or SPLITS[number % 2], raw.text)
