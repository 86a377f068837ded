"""Write the table of docs/datasets.md that says what our readers made of real records: python -m tools.datasets_page.

The records lie in the folder that `D4S_DATA` names; data sets that it does not hold have no row.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from d4s.facts.facts_stage import ReadResult, RecordSource, count_records, repeats
from d4s.facts.readers import MADE_UP, READERS, STYLE_FILES, files_of
from d4s.facts.record import Fact
from d4s.study_settings import data_folder
from tools.performance_page import insert_between

PAGE = Path(__file__).resolve().parents[1] / "docs" / "datasets.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = """| source | style | records | kept | refused | left out | facts | to edit | repeats, conflicts | paraphrases | probes | portability | targets begin Aa / aa / other |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501 - one row of a table


def main() -> None:
    """Write the table into the page, between its marks."""
    found = table(data_folder(None))
    try:
        PAGE.write_text(insert_between(PAGE.read_text(encoding="utf-8"), found, BEGIN, END), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))


def table(data: Path) -> str:
    """A row per data set and style that the folder holds."""
    rows = [_row(name, style, READERS.load(name)(source)) for name, style, source in sources(data)]
    return "".join([HEAD, *rows])


def sources(data: Path) -> Iterator[tuple[str, str, RecordSource]]:
    """The readings of records whose files are all in the folder."""
    for name in READERS:
        for style in STYLE_FILES.get(name, ("",)) if name not in MADE_UP else ():
            files = {role: data / file for role, file in files_of(name, style).items()}
            if all(path.is_file() for path in files.values()):
                yield name, style, RecordSource(files.pop("records"), style, extra_files=files)


def _row(name: str, style: str, result: ReadResult) -> str:
    account, twice = count_records(result), repeats(result.facts)
    edited = [fact for fact in result.facts if fact.editable]
    cells = [
        f"`{name}`",
        f"`{style}`" if style else "–",
        *(account[key] for key in ("seen", "kept", "rejected", "left_out", "facts")),
        len(edited),
        f"{len(twice['duplicates'])}, {len(twice['conflicts'])}",
        sum(len(fact.paraphrases) for fact in result.facts),
        _kinds(probe.kind for fact in result.facts for probe in fact.neighborhood),
        _kinds(chain.kind for fact in result.facts for chain in fact.portability),
        _cases(edited),
    ]
    return f"| {' | '.join(map(str, cells))} |\n"


def _kinds(kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in Counter(kinds).items()) or "0"


def _cases(facts: Iterable[Fact]) -> str:
    found = Counter("Aa" if fact.target_new[0].isupper() else "aa" if fact.target_new[0].islower() else "other" for fact in facts)
    return " / ".join(str(found[case]) for case in ("Aa", "aa", "other"))


if __name__ == "__main__":
    main()
