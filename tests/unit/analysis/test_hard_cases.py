"""Hard cases: a function of single edits alone; perplexities of each edit, ranks, and the two sets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from d4s.analysis.hard_cases import choose_cases, hard_cases, perplexity_changes, ranked, text_perplexities
from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import FactsSettings, HardCasesJobSettings
from d4s.editors.single_blocks import EDITED, singles_role
from d4s.errors import ArtifactError, SettingsError
from d4s.facts.record import Fact, to_rows
from d4s.metrics.perplexity_aggregates import TEXT_NLL, TEXT_TOKENS
from d4s.schemas import CASES, FACTS, HARD, SINGLES

REQUESTS, TOKENS = 10, 5.0


def singles(rise: dict[int, float], lost: int = 0, requests: int = REQUESTS) -> pd.DataFrame:
    """Rows of SINGLES with three rows of text, of one nat per token, on one of which an edit raises the loss."""
    rows = []
    for order in range(1, requests + 1):
        of = {"request_id": f"{order:06d}:f{order}", "fact_id": f"f{order}", "order": order, "layer": None}
        of |= {"status": "diverged" if order == lost else "done"}
        rows.append({**of, "quantity": EDITED, "prompt_id": None, "value": float(order != lost)})
        for number in range(3) if order != lost else ():
            nll = TOKENS * (1.0 + (rise.get(order, 0.0) if number == 0 else 0.0))
            rows += [
                {**of, "quantity": TEXT_NLL, "prompt_id": number, "value": nll},
                {**of, "quantity": TEXT_TOKENS, "prompt_id": number, "value": TOKENS},
            ]
    return pd.DataFrame(rows).astype({"prompt_id": "Int64", "layer": "Int64"})


def inputs(folder: Path, **cells: pd.DataFrame) -> dict[str, Path]:
    found = {"facts": folder / "facts"}
    facts = [Fact(f"f{n}", "made", "even" if n % 2 == 0 else "odd", f"s{n}", "{} is", "a", "b") for n in range(1, REQUESTS + 1)]
    write_table(found["facts"] / "facts.parquet", to_rows(facts), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, found["facts"]).write_manifest(["facts.parquet"])
    for editor, rows in cells.items():
        role = singles_role(1, editor)
        found[role] = folder / role
        write_table(found[role] / "b0.singles.parquet", rows, SINGLES)
        StageJob("singles", FactsSettings(source="tiny"), {}, found[role]).write_manifest(["b0.singles.parquet"], "b0.json")
    return found


def job(given: dict[str, Path], folder: Path, count: int = 3) -> StageJob[HardCasesJobSettings]:
    return StageJob("cases", HardCasesJobSettings(count=count, requests=REQUESTS), given, folder)


def test_the_row_mean_sees_one_ruined_row_that_the_corpus_and_the_median_do_not() -> None:
    base = text_perplexities(singles({}))
    np.testing.assert_allclose(base.to_numpy(), np.e)
    changes = perplexity_changes(singles({4: 6.0}), base, 10.0)
    edit = changes[changes["order"] == 4].iloc[0]
    assert edit["perplexity_row_mean_ratio"] == pytest.approx((np.e**7 + 2 * np.e) / (3 * np.e)) and edit["collapsed"]
    assert edit["perplexity_ratio"] == pytest.approx(np.e**2) and edit["perplexity_row_median_ratio"] == pytest.approx(1.0)
    assert not edit["above_1000"] and changes["collapsed"].sum() == 1


def test_a_diverged_edit_ranks_first_and_has_collapsed() -> None:
    base = text_perplexities(singles({}))
    parts = [perplexity_changes(singles({2: 1.0}, lost=7), base, 10.0).assign(editor="rome", seed=1)]
    edits = ranked(pd.concat(parts))
    assert edits["fact_id"][0] == "f7" and np.isinf(edits["perplexity_row_mean"][0]) and edits["collapsed"][0]
    assert edits["fact_id"][1] == "f2" and edits["rank"].tolist() == list(range(1, REQUESTS + 1))


def test_hard_facts_come_by_rank_and_normal_ones_stand_beside_them(tmp_path: Path) -> None:
    given = inputs(tmp_path, unedited=singles({}), rome=singles({5: 3.0, 8: 6.0}), memit=singles({6: 5.0}))
    hard_cases(job(given, tmp_path / "cases"))
    artifact = Artifact.open(tmp_path / "cases", "cases")
    edits, cases = artifact.table("hard.parquet", HARD), artifact.table("cases.parquet", CASES)
    assert len(edits) == 2 * REQUESTS and set(edits["editor"]) == {"rome", "memit"}
    hard, normal = (cases[cases["cases"] == name] for name in ("hard", "normal"))
    assert hard["fact_id"].tolist() == ["f8", "f6", "f5"] and hard["partner"].tolist() == ["f10", "f4", "f3"]
    assert normal["fact_id"].tolist() == hard["partner"].tolist() and normal["relation"].tolist() == hard["relation"].tolist()


def test_the_same_single_edits_give_the_same_files(tmp_path: Path) -> None:
    given = inputs(tmp_path, unedited=singles({}), rome=singles({5: 3.0}))
    for name in ("a", "b"):
        hard_cases(job(given, tmp_path / name / "cases"))
    for file in ("hard.parquet", "cases.parquet"):
        assert (tmp_path / "a" / "cases" / file).read_bytes() == (tmp_path / "b" / "cases" / file).read_bytes()


def test_too_few_facts_and_a_draw_that_ended_early_are_told(tmp_path: Path) -> None:
    given = inputs(tmp_path, unedited=singles({}), rome=singles({5: 3.0}))
    with pytest.raises(SettingsError, match="only 4 of 10 facts are normal"):
        hard_cases(job(given, tmp_path / "cases", count=6))
    short = inputs(tmp_path / "short", unedited=singles({}), rome=singles({}, requests=9))
    with pytest.raises(ArtifactError, match="holds 9 requests, expected 10"):
        hard_cases(job(short, tmp_path / "cases"))


def test_a_partner_of_another_relation_is_taken_where_its_own_has_none_left() -> None:
    edits = ranked(perplexity_changes(singles({1: 3.0, 3: 2.0}), text_perplexities(singles({})), 10.0).assign(editor="rome", seed=1))
    relations = {f"f{n}": "same" if n in (1, 3) else "other" for n in range(1, REQUESTS + 1)}
    assert [row["fact_id"] for row in choose_cases(edits, relations, 2)] == ["f1", "f3", "f2", "f4"]
