"""A data set of which some facts are kept."""

from pathlib import Path

import pytest

from d4s.artifacts import StageJob, write_table
from d4s.config import FactsSettings, HardCasesJobSettings, SubsetSettings
from d4s.errors import SettingsError
from d4s.facts.record import to_rows
from d4s.facts.subset_stage import subset
from d4s.schemas import CASES, FACTS
from tests.tiny import tiny_facts

FACTS_OF = tiny_facts(6)


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    write_table(tmp_path / "facts" / "facts.parquet", to_rows(FACTS_OF), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / "facts").write_manifest(["facts.parquet"])
    return tmp_path / "facts"


def listed(facts: Path, folder: Path, *ids: str) -> Path:
    (folder / "list.txt").write_text("\n".join(ids) + "\n\n", encoding="utf-8")
    subset(StageJob("facts", SubsetSettings(), {"facts": facts, "list": folder / "list.txt"}, folder / "kept"))
    return folder / "kept" / "facts.parquet"


def test_a_list_of_all_ids_is_the_data_set(facts: Path, tmp_path: Path) -> None:
    kept = listed(facts, tmp_path, *reversed([fact.fact_id for fact in FACTS_OF]))
    assert kept.read_bytes() == (facts / "facts.parquet").read_bytes()


def test_an_unknown_id_is_told(facts: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="1 ids are in no fact of the data set, such as 'nobody'"):
        listed(facts, tmp_path, FACTS_OF[0].fact_id, "nobody")


@pytest.mark.parametrize(("cases", "number"), [("hard", 4), ("normal", 1)])
def test_a_set_of_cases_is_kept(facts: Path, tmp_path: Path, cases: str, number: int) -> None:
    rows = [
        {"cases": name, "fact_id": FACTS_OF[place].fact_id, "relation": "any", "rank": 1, "partner": ""}
        for name, place in (("hard", 4), ("normal", 1))
    ]
    write_table(tmp_path / "cases" / "cases.parquet", rows, CASES)
    StageJob("cases", HardCasesJobSettings(count=1, requests=2), {}, tmp_path / "cases").write_manifest(["cases.parquet"])
    subset(StageJob("facts", SubsetSettings(cases=cases), {"facts": facts, "cases": tmp_path / "cases"}, tmp_path / "kept"))  # type: ignore[arg-type]
    write_table(tmp_path / "expected.parquet", to_rows([FACTS_OF[number]]), FACTS)
    assert (tmp_path / "kept" / "facts.parquet").read_bytes() == (tmp_path / "expected.parquet").read_bytes()
