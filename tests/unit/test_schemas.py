"""Schemas: dataclasses and tables agree, versions travel, gathered tables carry their cell."""

from dataclasses import fields

import pyarrow as pa
import pytest

from d4s import schemas
from d4s.errors import RecordProblem
from d4s.facts.record import Fact, Portability, Probe

TABLES = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}


def names(record):
    return [item.name for item in fields(record)]


def test_tables_have_the_fields_of_their_records():
    assert schemas.FACTS.names == names(Fact)
    assert schemas.REJECTS.names == [*names(RecordProblem), "record"]
    assert [item.name for item in schemas.PROBE] == names(Probe)
    assert [item.name for item in schemas.PORTABILITY] == names(Portability)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_states_its_version_and_distinct_columns(name):
    table = TABLES[name]
    assert table.metadata == {b"d4s_schema_version": str(schemas.SCHEMA_VERSION).encode()}
    assert len(set(table.names)) == len(table.names)


@pytest.mark.parametrize("name", ["SCORES", "ANSWERS", "NORMS", "PERPLEXITY", "BENCHMARK", "EDIT_LOG", "OBJECTIVES"])
def test_gathered_tables_begin_with_their_cell(name):
    gathered = schemas.with_cell_columns(TABLES[name])
    assert gathered.names == [*schemas.CELL, *TABLES[name].names]
    assert gathered.field("seed").type == pa.int64()
    assert gathered.metadata == TABLES[name].metadata


def test_no_table_of_results_holds_time():
    timed = {name for name, table in TABLES.items() if any("second" in column or column.endswith("_s") for column in table.names)}
    assert timed == {"COSTS"}
