"""Files of facts: three formats say the same, and every defect of a broken one is named at once."""

import csv
import json
import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4s.apply.fact_files import FACT_COLUMNS, read_facts
from d4s.errors import D4SError, SettingsError

GOOD = {"subject": "Ada Moss", "prompt": "{} lives in", "target_new": "Oslo"}
FULL = GOOD | {"target_true": "Rome", "paraphrase": ["the home of {} is", "Ada Moss is at"], "locality": ["Ben Reed lives in"]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            names = [*dict.fromkeys(name for row in rows for name in row)]
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows({name: "|".join(cell) if isinstance(cell, list) else cell for name, cell in row.items()} for row in rows)
    return path


def problems(path: Path) -> list[tuple[int, str]]:
    return [(reject.problem.line, reject.problem.field) for reject in read_facts(path).rejects]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_facts(tmp_path: Path, suffix: str) -> None:
    found = read_facts(write(tmp_path / f"facts{suffix}", [FULL, GOOD | {"subject": "Ben Reed"}]))
    assert (found.total, found.rejects) == (2, [])
    first, second = (line.raw for line in found.valid)
    assert (first.template, first.target_true, first.fill_subject(first.paraphrase)) == (
        "{} lives in",
        "Rome",
        ("the home of Ada Moss is", "Ada Moss is at"),
    )
    assert (second.target_true, second.paraphrase, second.locality) == (None, [], [])


@pytest.mark.parametrize(("suffix", "expected"), [(".csv", ["a", "b c"]), (".jsonl", ["a| b c"]), (".parquet", ["a| b c"])])
def test_bars_separate_texts_in_csv_alone(tmp_path: Path, suffix: str, expected: list[str]) -> None:
    [line] = read_facts(
        write(tmp_path / f"facts{suffix}", [GOOD | {"target_new": "x|y", "paraphrase": "a| b c", "locality": "a| b c"}])
    ).valid
    assert (line.raw.target_new, line.raw.paraphrase, line.raw.locality) == ("x|y", expected, expected)


def test_a_prompt_may_hold_the_subject_itself(tmp_path: Path) -> None:
    found = read_facts(write(tmp_path / "facts.csv", [GOOD | {"prompt": "in the town of Ada Moss one eats"}]))
    assert found.valid[0].raw.template == "in the town of {} one eats"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_all_defects_are_named_with_their_line_and_field(tmp_path: Path, suffix: str) -> None:
    rows = [
        GOOD,
        GOOD | {"prompt": "nobody lives in"},
        GOOD | {"prompt": "{} and {} live in"},
        GOOD | {"subject": "  ", "target_new": ""},
        GOOD | {"target_true": "Oslo"},
        GOOD | {"prompt": "Ada Moss, says Ada Moss, lives in"},
    ]
    first = 1 if suffix != ".csv" else 2
    found = problems(write(tmp_path / f"facts{suffix}", rows))
    expected = [(1, "prompt"), (2, "prompt"), (3, "subject"), (3, "target_new"), (4, "target_new"), (5, "prompt")]
    assert found == [(first + row, field) for row, field in expected]


def test_lines_of_csv_count_line_breaks_within_cells(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text('subject,prompt,target_new\n"Ada\nMoss",nowhere,Oslo\nBen,nowhere,Rome\nBen,{} is,\n', encoding="utf-8")
    assert problems(path) == [(2, "prompt"), (4, "prompt"), (5, "target_new")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"subject,promt,target_new\nAda,{} is,Oslo\n", [(1, "'promt'"), (1, "prompt")]),
        (b"subject,subject,prompt,target_new\nAda,Ada,{} is,Oslo\n", [(1, "subject"), (1, "subject")]),
        (b"subject,prompt,target_new\nAda,{} is,Oslo,surplus\nBen,{} is\n\n", [(2, "(line)"), (3, "(line)")]),
        (b"subject,prompt,target_new\nAda,{} is,Oslo\nB\xe9n,{} is,Rome\n", [(3, "(line)")]),
        (b'subject,prompt,target_new\nAda,"{} is,Oslo\n', [(2, "(line)")]),
        (b"", [(1, "subject"), (1, "prompt"), (1, "target_new")]),
    ],
)
def test_broken_csv_says_where(tmp_path: Path, content: bytes, expected: list[tuple[int, str]]) -> None:
    path = tmp_path / "facts.csv"
    path.write_bytes(content)
    assert problems(path) == expected


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    (found,) = read_facts(write(tmp_path / "facts.csv", [GOOD | {"paraphrases": "x"}])).rejects
    assert "did you mean 'paraphrase'?" in str(found.problem)
    assert problems(write(tmp_path / "facts.jsonl", [GOOD | {"paraphrases": "x"}])) == [(1, "paraphrases")]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_cells_that_are_separated_otherwise_are_told(mark: str, tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text(mark.join(["subject", "prompt", "target_new"]) + "\n", encoding="utf-8")
    (found,) = read_facts(tmp_path / "facts.csv").rejects
    assert f"found names separated by {mark!r}, expected commas between cells" in str(found.problem)


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("target_new", [b"Rome", b"Oslo"], "binary"),
        ("target_new", [datetime(2021, 5, 6), datetime(2021, 5, 7)], r"timestamp\[us\]"),
        ("target_true", [date(2021, 5, 6), None], r"date32\[day\]"),
        ("target_true", [Decimal("1.50"), None], r"decimal128\(3, 2\)"),
        ("target_true", [timedelta(1), None], r"duration\[us\]"),
        ("target_true", [True, None], "bool"),
        ("subject", [["Ada"], ["Ben"]], "list<.*>"),
        ("paraphrase", [[1, 2], None], "list<.*int64>"),
        ("locality", [{"a": "b"}, None], "struct<.*>"),
    ],
)
def test_columns_of_other_types_than_text_are_refused_by_name(tmp_path: Path, column: str, values: list[Any], kind: str) -> None:
    rows: dict[str, Any] = {"subject": ["Ada", "Ben"], "prompt": ["{} is", "{} is"], "target_new": ["Rome", "Oslo"]} | {column: values}
    pq.write_table(pa.table(rows), tmp_path / "facts.parquet")
    found = read_facts(tmp_path / "facts.parquet")
    assert not found.valid
    [reject] = found.rejects
    assert re.search(f"{column}: found a column of {kind}, expected text.*; cast the column to strings", str(reject.problem))


@pytest.mark.parametrize("value", ["3", "2.5", "true", '["Rome"]', '{"a": "b"}', "NaN", "null", '"\\ud83d"'])
def test_values_of_json_that_are_no_text_are_refused_by_name(tmp_path: Path, value: str) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(f'{{"subject": "Ada", "prompt": "{{}} is", "target_new": {value}}}\n', encoding="utf-8")
    assert problems(path) == [(1, "(line)" if "ud83d" in value else "target_new")]


def test_an_index_of_pandas_and_columns_without_values_do_not_matter(tmp_path: Path) -> None:
    frame = pd.DataFrame([GOOD, GOOD | {"subject": "Ben"}, GOOD | {"subject": "Cleo"}]).assign(target_true=float("nan"))
    frame["target_new"] = frame["target_new"].astype("category")
    frame.iloc[[0, 2, 1]].to_parquet(tmp_path / "facts.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "facts.parquet").names
    found = read_facts(tmp_path / "facts.parquet")
    assert [line.raw.subject for line in found.valid] == ["Ada Moss", "Cleo", "Ben"] and not found.rejects
    frame.set_index("subject")[["prompt", "target_new"]].to_parquet(tmp_path / "named.parquet")
    assert len(read_facts(tmp_path / "named.parquet").valid) == 3


def test_text_columns_that_hold_no_text_are_refused(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"subject": ["Ada"], "prompt": ["{} is"], "target_new": broken}), tmp_path / "facts.parquet")
    with pytest.raises(D4SError, match=r"facts\.parquet cannot be read as Parquet: .*UTF8"):
        read_facts(tmp_path / "facts.parquet")


def test_what_is_no_file_of_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.csv, \*\.jsonl or \*\.parquet"):
        read_facts(tmp_path / "facts.xlsx")
    with pytest.raises(D4SError, match="cannot be read"):
        read_facts(tmp_path / "absent.csv")
    with pytest.raises(D4SError, match="holds no facts"):
        read_facts(write(tmp_path / "empty.parquet", [GOOD]).parent / write_header(tmp_path))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(D4SError, match="cannot be read as Parquet"):
        read_facts(tmp_path / "torn.parquet")


def write_header(folder: Path) -> str:
    (folder / "header.csv").write_text("subject,prompt,target_new\n", encoding="utf-8")
    return "header.csv"


def parts(texts: list[str]) -> list[str]:
    """Texts as CSV would have them, where a bar separates."""
    return [part.strip() for text in texts for part in text.split("|") if part.strip()]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=12)
ANY = st.one_of(CELL, st.sampled_from(["", "Ada", "{}", "{} is", "Ada is", "{", "a|b", '"', "Ada\r\nMoss"]))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(dict.fromkeys(FACT_COLUMNS, ANY)), min_size=1, max_size=5))
def test_any_row_is_a_fact_or_a_defect_and_formats_agree(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    as_csv, as_json = (read_facts(write(folder / f"facts{suffix}", rows)) for suffix in (".csv", ".jsonl"))
    for found in (as_csv, as_json):
        defective = {reject.problem.line for reject in found.rejects}
        assert len(found.valid) + len(defective) == found.total == len(rows)
        assert not defective & {line.number for line in found.valid}
    texts = [[(line.raw.template, line.raw.target_new, *parts(line.raw.paraphrase)) for line in found.valid] for found in (as_csv, as_json)]
    assert set(texts[1]) <= set(texts[0])  # an optional cell of nothing but spaces is left out in CSV, and a defect in JSON
