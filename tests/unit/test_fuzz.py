"""Broken records and settings of every kind: what they end in is a result or one clear error, never a traceback or a lost record.

The same 150 examples each in every run of the suite; `D4S_FUZZ=10000` draws so many new ones.
"""

import json
import os
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from d4s.errors import D4SError
from d4s.facts.facts_stage import RecordSource, count_records
from d4s.facts.readers import MADE_UP, READERS, STYLE_FILES, files_of
from d4s.facts.record import to_rows
from d4s.schemas import FACTS
from d4s.study.resolve import resolve
from d4s.study_settings import load_study
from d4s.testing.reader_conformance import fact_complaints
from tests.workflow.conftest import ROOT, TINY

DATA = ROOT / "tests" / "fixtures" / "data"
READINGS_OF = [(name, style) for name in READERS if name not in MADE_UP for style in STYLE_FILES.get(name, ("",))]
STUDIES = [yaml.safe_dump(TINY), *(path.read_text() for path in [ROOT / "params.yaml", ROOT / "grids" / "records.yaml"])]
FUZZ = settings(
    max_examples=int(os.environ.get("D4S_FUZZ", "150")),
    derandomize="D4S_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
NASTY = [
    "",
    " ",
    "{}",
    "{",
    "{} {}",
    "\ud800",
    "\x00",
    "\u2028",
    "a" * 5000,
    "../up",
    "NaN",
    "null",
    "-1",
    "1e400",
    "!!python/name:os.system",
    "&a [*a]",
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**30), st.floats(), st.text(max_size=12), st.sampled_from(NASTY)
)  # fmt: skip
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=4
)
Draw = Callable[[st.SearchStrategy[Any]], Any]


def spots(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below the top."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from spots(value, (*path, key))


def bent(draw: Draw, tree: Any) -> Any:
    """A tree with one value exchanged, taken out, said twice, or under another name."""
    found = json.loads(json.dumps(tree))
    path = draw(st.sampled_from([*spots(found)]))
    place = found
    for key in path[:-1]:
        place = place[key]
    match draw(st.sampled_from(["exchange", "take out", "say twice", "rename"])):
        case "exchange":
            place[path[-1]] = draw(JUNK)
        case "take out":
            del place[path[-1]]
        case "say twice" if isinstance(place, list):
            place.append(place[path[-1]])
        case _ if isinstance(place, dict):
            place[draw(st.text(max_size=8))] = place.pop(path[-1])
        case _:
            place.reverse()
    return found


def cut(draw: Draw, content: bytes) -> bytes:
    """Bytes with some of them taken out, and others put there."""
    start = draw(st.integers(0, len(content)))
    stop = min(len(content), start + draw(st.integers(0, 40)))
    put = draw(st.one_of(st.binary(max_size=8), st.text(string.printable, max_size=8).map(str.encode)))
    return content[:start] + put + content[stop:]


def broken_lines(draw: Draw, content: bytes) -> bytes:
    """A file of records with one of them bent, or with bytes exchanged, or with a record twice."""
    lines = content.rstrip(b"\n").split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    match draw(st.sampled_from(["bend", "bend", "bend", "cut", "repeat"])):
        case "bend":
            lines[number] = json.dumps(bent(draw, json.loads(lines[number]))).encode()
        case "repeat":
            lines.insert(number, lines[number])
        case _:
            return cut(draw, content)
    return b"\n".join(lines) + b"\n"


@FUZZ
@given(data=st.data(), chosen=st.sampled_from(READINGS_OF))
def test_broken_records_are_read_or_named_and_never_lost(data: st.DataObject, chosen: tuple[str, str], tmp_path: Path) -> None:
    name, style = chosen
    paths = {role: DATA / path for role, path in files_of(name, style).items()}
    role = data.draw(st.sampled_from(sorted(paths)))
    content = broken_lines(data.draw, paths[role].read_bytes())
    paths[role] = tmp_path / paths[role].name
    paths[role].write_bytes(content)
    records = paths.pop("records")
    try:
        reading = READERS.load(name)(RecordSource(records, style, extra_files=paths))
    except D4SError as error:
        event("refused")
        assert str(error).strip()
        return
    event("read, with defects named" if reading.rejects else "read")
    assert reading.total == sum(bool(line.strip()) for line in records.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    assert count_records(reading)["seen"] == reading.total
    assert all(reject.problem.line and reject.problem.field and reject.problem.expected for reject in reading.rejects)
    assert [complaint for fact in reading.facts for complaint in fact_complaints(fact)] == []
    pa.Table.from_pylist(to_rows(reading.facts), schema=FACTS)


@FUZZ
@given(data=st.data(), text=st.sampled_from(STUDIES))
def test_broken_settings_are_resolved_or_refused(data: st.DataObject, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4S_DATA", str(DATA))
    if data.draw(st.booleans()):
        content = yaml.safe_dump(bent(data.draw, yaml.safe_load(text)), allow_unicode=True).encode(errors="surrogatepass")
    else:
        content = cut(data.draw, text.encode())
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    try:
        plan = resolve(load_study(path))
    except D4SError as error:
        event("refused")
        assert str(error).strip()
        return
    event("resolved")
    assert plan.nodes
