"""What about the data does the damage: rows that differ in their data alone, and regressions with a known answer."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from d4s.analysis.drivers import TARGET_PROPERTIES, DamageTable, damage_table, effects
from d4s.analysis.study_results import Results
from d4s.figures import fig_drivers
from d4s.figures.plot_elements import FigureSkipped, label_points
from d4s.figures.style import NARROW, RC, WIDE, Page
from d4s.tables import tab_drivers
from d4s.tables.table import TableSkipped
from tests.synthetic import FORM_CONTROLS, PERPLEXITY, Made, write_study

WHOLE = Made(lengths=(50, 150), controls=FORM_CONTROLS, summed=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(write_study(tmp_path_factory.mktemp("study"), WHOLE))


def made(rows: int, seed: int = 0) -> DamageTable:
    """Rows whose damage is 3 points per standard deviation of length and 1 of diversity, and nothing of perplexity."""
    rng = np.random.default_rng(seed)
    drawn = {name: rng.standard_normal(rows) for name in TARGET_PROPERTIES}
    frame = pd.DataFrame({name: (values - values.mean()) / values.std() for name, values in drawn.items()})
    frame["damage"] = 0.03 * frame["tokens"] + 0.01 * frame["diversity"] + 1e-4 * rng.standard_normal(rows)
    return DamageTable(frame, ["memit"], 100)


def test_rows_share_editors_and_length(results: Results) -> None:
    found = damage_table(results)
    assert found is not None
    assert (found.editors, found.length) == (["rome", "memit"], 150)
    assert sorted(found.rows["dataset"]) == sorted(PERPLEXITY)
    assert found.rows["damage"].to_numpy() == pytest.approx(found.rows[found.editors].mean(axis=1).to_numpy())
    by_set = found.rows.set_index("dataset")
    assert by_set.loc["mqd_dg", "damage"] > by_set.loc["mqd_tf", "damage"]
    assert np.exp(by_set.loc["long_predictable", "tokens"]) == pytest.approx(6, abs=0.1)


def test_a_data_set_without_the_common_length_is_left_out(tmp_path: Path) -> None:
    found = damage_table(Results(write_study(tmp_path, Made(lengths=(300,), controls=FORM_CONTROLS, summed=False))))
    assert found is not None and found.length == 150
    assert sorted(found.rows["dataset"]) == sorted(set(PERPLEXITY) - {"world_qa"})


def test_effects_are_those_that_were_made() -> None:
    together = {effect.predictor: effect for effect in effects(made(40)) if not effect.is_univariate}
    for name, value in {"perplexity": 0.0, "tokens": 0.03, "diversity": 0.01}.items():
        assert together[name].estimate.value == pytest.approx(value, abs=2e-4)
        assert together[name].estimate.low <= together[name].estimate.value <= together[name].estimate.high
    assert together["tokens"].r_squared == pytest.approx(1, abs=1e-3)
    is_univariate = {effect.predictor: effect for effect in effects(made(40)) if effect.is_univariate}
    assert is_univariate["tokens"].r_squared < together["tokens"].r_squared


def test_few_rows_or_equal_properties_are_not_enough() -> None:
    assert made(6).can_separate_predictors and not made(5).can_separate_predictors
    assert not DamageTable(made(9).rows.assign(tokens=1.0), ["memit"], 100).can_separate_predictors


def test_table_and_figure_say_the_same(results: Results) -> None:
    table = tab_drivers.table(results)
    assert list(table.frame["block"]) == ["alone"] * 3 + ["together"] * 3
    drawing = fig_drivers.figure(results)
    length = table.frame.query("block == 'together' and property == 'Log length'").iloc[0]
    assert f"{100 * length['coefficient']:+.1f}".replace("-", "−") in drawing.caption
    for page in (WIDE, NARROW):
        figure = drawing.draw(page)
        assert sum(len(axis.texts) for axis in figure.axes) == 3 * len(PERPLEXITY)


@pytest.mark.parametrize("page", [WIDE, NARROW], ids=lambda page: page.name)
def test_labels_are_placed_in_the_finished_layout(results: Results, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[tuple[Axes, list[float]]] = []

    def seen(ax: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
        label_points(ax, points)
        placed.append((ax, [*ax.get_window_extent().extents, *ax.get_xlim(), *ax.get_ylim()]))

    monkeypatch.setattr(fig_drivers, "label_points", seen)
    with matplotlib.rc_context(dict(RC)):  # type: ignore[arg-type]
        fig_drivers.figure(results).draw(page).draw_without_rendering()
    assert len(placed) == len(TARGET_PROPERTIES)
    for ax, extents in placed:
        assert [*ax.get_window_extent().extents, *ax.get_xlim(), *ax.get_ylim()] == pytest.approx(extents, abs=1)


def test_a_study_of_one_data_set_gets_neither(tmp_path: Path) -> None:
    small = Results(write_study(tmp_path, Made(lengths=(50,), forms=False, summed=False)))
    with pytest.raises(FigureSkipped, match="at least 6 data sets"):
        fig_drivers.figure(small)
    with pytest.raises(TableSkipped, match="at least 6 data sets"):
        tab_drivers.table(small)
