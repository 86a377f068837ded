"""Studies whose cells are not all alike: several models, several seeds, one long run, parts without benchmarks."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d4s.analysis.claim import judge
from d4s.analysis.claims_d4s import CLAIMS
from d4s.analysis.drivers import damage_table
from d4s.analysis.shortcomings import shortcomings
from d4s.analysis.study_results import Results
from d4s.figures import fig_benchmarks_by_dataset, fig_bottleneck, fig_curves, fig_form_matrix, fig_l1_norm, fig_protocols
from d4s.figures import fig_retention_by_age as fig_age
from d4s.figures.style import RC, WIDE
from d4s.tables import tab_main, tab_protocols
from tests.synthetic import METHODS, Made, write_study

BY_ID = {claim.claim_id: claim for claim in CLAIMS}
FEW = Made(methods={name: METHODS[name] for name in ("unedited", "rome", "memit", "d4s")}, lengths=(100, 200, 300))
FACTS_ONLY = replace(FEW, forms=False)


def changed(folder: Path, made: Made, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Results:
    """The results of a made-up study whose tables of runs were changed."""
    write_study(folder, made)
    for path in [*folder.glob("data/*.parquet"), folder / "summary.parquet", folder / "index.parquet"]:
        if "editor" in pq.read_schema(path).names:
            rewritten(path, change)
    return Results(folder)


def rewritten(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change a table and keep its schema."""
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pandas(change(pd.read_parquet(path)), schema, preserve_index=False).cast(schema), path)


def drawn(module, results: Results) -> matplotlib.figure.Figure:
    with matplotlib.rc_context(RC):
        return module.figure(results).draw(WIDE)


def titles(figure: matplotlib.figure.Figure) -> list[str]:
    """The titles of its panels; a method's name may stand in the middle."""
    return [title for ax in figure.axes if (title := ax.get_title("left") or ax.get_title())]


def two_models(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.assign(model="other")])


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [fig_l1_norm, fig_bottleneck])
def test_curves_of_norms_fill_their_panels_though_a_band_reaches_below_zero(module, tmp_path: Path) -> None:
    def apart(table: pd.DataFrame) -> pd.DataFrame:
        """Seeds whose norms differ so much that the interval of their mean holds zero."""
        if "quantity" not in table or "layer" not in table:
            return table
        is_norm = table["quantity"].isin(["l1", "l1_per_element_weight"]) & (table["editor"] == "rome")
        return table.assign(value=table["value"].where(~is_norm, table["value"] * table["seed"] ** 3))

    results = changed(tmp_path, replace(FACTS_ONLY, seeds=(1, 2, 3)), apart)
    axes = [ax for ax in drawn(module, results).axes if ax.get_yscale() == "log"]
    assert axes
    for ax in axes:
        low, high = ax.get_ylim()
        assert 0 < low < 1.05 and high > 1
    values = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines])
    assert max(ax.get_ylim()[1] for ax in axes) == pytest.approx(1.08 * values.max())


@pytest.mark.parametrize("module", [fig_curves, fig_bottleneck, fig_protocols, fig_age, fig_benchmarks_by_dataset])
def test_panels_name_the_model_where_there_are_several(module, tmp_path: Path) -> None:
    results = changed(tmp_path, FACTS_ONLY, two_models)
    found = titles(drawn(module, results))
    assert len(found) > 1 and len(set(found)) == len(found)
    assert sum("(mini)" in title for title in found) == sum("(other)" in title for title in found) == len(found) / 2


def test_letters_go_on_after_z(tmp_path: Path) -> None:
    models = [f"m{number}" for number in range(10)]
    results = changed(tmp_path, FACTS_ONLY, lambda table: pd.concat([table.assign(model=model) for model in models]))
    letters = [title.split()[0] for title in titles(drawn(fig_curves, results))]
    assert len(letters) == 30 and letters[25:28] == ["z", "aa", "ab"] and all(re.fullmatch("[a-z]+", letter) for letter in letters)


def test_the_form_matrix_is_drawn_where_one_form_has_no_benchmarks(tmp_path: Path) -> None:
    write_study(tmp_path, Made(summed=False))

    def uneven(table: pd.DataFrame) -> pd.DataFrame:
        gone = (table["dataset"] == "mqd_tf") | ((table["dataset"] == "mqd_mc") & (table["step"] > 50))
        return table[~(gone & (table["editor"] != "unedited"))]

    rewritten(tmp_path / "data" / "benchmark.parquet", uneven)
    drawing = fig_form_matrix.figure(Results(tmp_path))
    assert "after 50 or 150 edits" in drawing.caption


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
@pytest.mark.parametrize("module", [fig_l1_norm, fig_benchmarks_by_dataset])
def test_captions_name_the_interval_that_is_drawn(module, seeds: tuple[int, ...], tmp_path: Path) -> None:
    caption = module.figure(Results(write_study(tmp_path, replace(FACTS_ONLY, seeds=seeds)))).caption
    assert ("tasks' standard errors" in caption) == (len(seeds) == 1)
    assert ("t-intervals over 3 seeds" in caption) == (len(seeds) == 3)


# --- tables -----------------------------------------------------------------------------------------------------------


def longer(table: pd.DataFrame) -> pd.DataFrame:
    """D4S alone goes on to 3,000 edits."""
    if "step" not in table or "request_id" in table:
        return table
    last = table[(table["editor"] == "d4s") & (table["step"] == 300)]
    return pd.concat([table, last.assign(step=3000)])


def test_the_main_table_shows_the_lengths_that_most_runs_have(tmp_path: Path) -> None:
    found = tab_main.table(changed(tmp_path, FACTS_ONLY, longer))
    assert [column.group for column in found.columns][::4] == ["100 edits", "200 edits", "300 edits"]


def test_protocols_are_compared_at_one_length(tmp_path: Path) -> None:
    rows = tab_protocols.table(changed(tmp_path, FACTS_ONLY, longer)).frame
    assert dict(zip(rows["method"], rows["edits"], strict=True)) == {"ROME": 300, "MEMIT": 300, "D4S": 3000}
    blocks = dict(zip(rows["method"], rows["block"], strict=True))
    assert blocks["ROME"] == blocks["MEMIT"] != blocks["D4S"] and blocks["D4S"].endswith(", 3000 edits")


# --- claims -----------------------------------------------------------------------------------------------------------


def test_what_does_not_vary_is_not_measured_and_no_number(tmp_path: Path) -> None:
    always = lambda table: table.assign(value=1.0) if "fact_id" in table and "value" in table else table  # noqa: E731
    results = changed(tmp_path, replace(FACTS_ONLY, methods=METHODS), always)
    found = judge(BY_ID["C6"], results)
    assert found["verdict"] == "not measured" and "the same retained efficacy" in found["why"][0]
    json.dumps(found, allow_nan=False)


def test_one_edit_has_no_slope(tmp_path: Path) -> None:
    first = lambda table: table[table["step"] <= 1] if {"step", "request_id"} <= set(table) else table  # noqa: E731
    found = judge(BY_ID["C4"], changed(tmp_path, FACTS_ONLY, first))
    assert found["verdict"] == "not measured" and "no slope" in str(found["why"])
    json.dumps(found, allow_nan=False)


def test_the_correlation_counts_its_seeds(tmp_path: Path) -> None:
    found = judge(BY_ID["C6"], Results(write_study(tmp_path, replace(FACTS_ONLY, methods=METHODS, seeds=(1, 2, 3)))))
    assert found["seeds"] == 3


def test_length_and_diversity_that_go_together_decide_nothing(tmp_path: Path) -> None:
    """Three models and two forms: with one tokenizer length and diversity take two values each."""
    made = Made(forms=True, controls=(), summed=False)

    def jittered(table: pd.DataFrame) -> pd.DataFrame:
        kept = table[table["dataset"] != "mqd_mc"]
        return pd.concat([_jitter(kept, number) for number in range(3)])

    found = damage_table(
        changed(tmp_path, made, lambda table: jittered(table[(table["dataset"] != "world_qa") | (table["editor"] == "unedited")]))
    )
    assert found is not None and len(found.rows) == 6
    assert found.rows["tokens"].nunique() == 2 and not found.can_separate_predictors
    assert judge(BY_ID["C3"], Results(tmp_path))["verdict"] == "undecided"


def _jitter(table: pd.DataFrame, number: int) -> pd.DataFrame:
    columns = [column for column in ("nll_per_token", "accuracy") if column in table]
    return table.assign(model=f"m{number}", **{column: table[column] * (1 + 0.01 * number) for column in columns})


# --- what a reader should know ----------------------------------------------------------------------------------------


def test_methods_that_are_the_same_are_told(tmp_path: Path) -> None:
    made = replace(FACTS_ONLY, methods={**FACTS_ONLY.methods, "ft_l": METHODS["ft_l"]})

    def twin(table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([table, table[table["editor"] == "ft_l"].assign(editor="ft_m")])

    told = shortcomings(changed(tmp_path, made, twin), [])
    assert any("FT-L and FT-M give the very same scores on World QA" in sentence for sentence in told)
    assert sum("the very same scores" in sentence for sentence in told) == 1
