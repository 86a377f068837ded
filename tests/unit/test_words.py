"""Words and phrases that the package and its pages do not use; tools/words.txt has those that codespell finds in any context."""

import re
from pathlib import Path

import pytest

from tests.unit.test_house import tracked
from tools.lock import ROOT

WORDS = ROOT / "tools" / "words.txt"
SUFFIXES = {".py", ".md", ".html", ".yaml", ".smk", ".toml", ""}
# Records of decisions are not edited; the changelog names former settings.
EXEMPT = ("tests/", "benchmarks/", "docs/decisions/0", "tools/words.txt", "CHANGELOG.md", "results/", "src/d4s/world/word_lists.py")
PHRASES = {
    r"\bso many\b": "give the number its name: `at most n`, `this number of`",
    r"\bmend\b": "fix",  # MEND, in capitals, is an editor
    r"\bin any case\b": "always",
    r"\btime and again\b": "repeatedly",
    r"\bis to be had\b|\bcan(?:not| ?n't)? be had\b": "is available",
    r"\blookup token\b": "the subject's last token",
    r"\bbare (?:prompt|key)s?\b": "unprefixed",
    r"\bessence prompts?\b": "KL prompt",
    r"\b(?:is|was|are|were) taught\b": "is trained on",
}


def lines() -> list[tuple[str, str]]:
    """Place and text of every line of the package, its pages, the workflow and its files of settings."""
    paths = [path for path in tracked() if path.suffix in SUFFIXES and not str(path.relative_to(ROOT)).startswith(EXEMPT)]
    return [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    ]


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_line_has_a_phrase_of_the_list(phrase: str) -> None:
    found = [f"{place} {line.strip()[:100]}" for place, line in lines() if re.search(phrase, line)]
    assert found == [], f"write instead: {PHRASES[phrase]}"


def test_every_word_of_the_list_has_a_replacement() -> None:
    entries = [entry.partition("->") for entry in Path(WORDS).read_text(encoding="utf-8").splitlines()]
    assert all(word and arrow and replacement for word, arrow, replacement in entries)
    assert [word for word, _, _ in entries] == sorted({word for word, _, _ in entries})
