"""Figures: every one is drawn for paper and phone without overlaps, the same bytes twice, in colours that can be told apart."""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from d4s.analysis.curves import benchmark_curve
from d4s.analysis.display_names import method_name
from d4s.analysis.study_results import Panel, Results
from d4s.editors.presets import PRESETS
from d4s.figures import fig_form_matrix, fig_objectives
from d4s.figures.captions import title_suffix
from d4s.figures.figure_stage import FIGURES, GROUP_FIGURES, figures
from d4s.figures.plot_elements import FigureSkipped, curve, edits_axis, ratio_axis
from d4s.figures.style import HUES, NARROW, RC, SPARE_COLOURS, TASK_STYLES, WIDE, Page, method_style
from d4s.study_settings import FigureSettings
from tests.synthetic import METHODS, Made, Method, write_study

PAPER, DARK = "#ffffff", "#14171b"
SHARED = {**FIGURES, **GROUP_FIGURES["beliefs"]}
"""Figures that the made-up study of all tests has the data for."""


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "colour",
    sorted({style.colour for styles in HUES.values() for style in styles} | set(SPARE_COLOURS) | {colour for colour, _ in TASK_STYLES}),
)
def test_every_colour_reads_on_white_and_on_dark(colour: str) -> None:
    assert contrast(colour, PAPER) >= 2.9
    assert contrast(colour, DARK) >= 3.0


def test_methods_differ_in_colour_or_in_marker_and_dash() -> None:
    drawn = [(style.colour, style.marker, str(style.dash)) for styles in HUES.values() for style in styles]
    assert len(set(drawn)) == len(drawn)


def test_methods_without_a_look_get_the_same_one_every_time() -> None:
    assert method_style("my_method") == method_style("my_method")
    assert method_style("my_method").colour in SPARE_COLOURS
    assert {preset.hue for preset in PRESETS.values()} == {*HUES, ""}


GRIDS = [path for path in sorted(Path(__file__).parents[3].glob("grids/*.yaml")) if not path.stem.endswith("tuning")]  # those rank trials
MOST_IN_A_FIGURE = 20


@pytest.mark.parametrize("grid", GRIDS, ids=lambda path: path.stem)
def test_the_methods_of_a_study_are_told_apart(grid: Path) -> None:
    editors = sorted({editor for row in yaml.safe_load(grid.read_text())["grid"] for editor in row["editors"]})
    if len(editors) <= MOST_IN_A_FIGURE:
        drawn = Counter(map(str, map(method_style, editors)))
        assert [look for look, count in drawn.items() if count > 1] == []


def test_every_preset_has_a_name_of_its_own() -> None:
    assert len({method_name(name) for name in PRESETS}) == len(PRESETS)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def test_a_curve_has_a_band_only_where_intervals_are_known(ax: Axes) -> None:
    points = pd.DataFrame({"step": [2, 1], "mean": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7]})
    curve(ax, points, "rome")
    assert list(ax.lines[0].get_xdata()) == [1, 2]
    assert len(ax.collections) == 1
    curve(ax, points.assign(low=np.nan, high=np.nan), "memit")
    assert len(ax.collections) == 1


def test_edits_start_at_zero_and_ticks_are_round(ax: Axes) -> None:
    edits_axis(ax, 300)
    assert ax.get_xlim()[0] == 0
    assert [tick for tick in ax.get_xticks() if tick <= 300] == [0, 100, 200, 300]


def test_ratios_are_written_with_their_sign(ax: Axes) -> None:
    ax.plot([0, 1], [1, 8])
    ratio_axis(ax, "ratio")
    ax.figure.draw_without_rendering()
    assert "×2" in [label.get_text() for label in ax.get_yticklabels()]


# --- whole figures ----------------------------------------------------------------------------------------------------


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Extents of every text that is shown, by its content."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    texts = [text for ax in figure.axes for text in (ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            inside = [tick for tick in axis.get_major_ticks() if min(low, high) <= tick.get_loc() <= max(low, high)]
            texts += [tick.label1 for tick in inside if ax.axison]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("page", [WIDE, NARROW], ids=lambda page: page.name)
@pytest.mark.parametrize("name", SHARED)
def test_no_text_lies_on_another_or_outside_the_figure(name: str, page: Page, results: Results) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(dict(RC)):  # type: ignore[arg-type]
        figure = SHARED[name](results).draw(page)
        FigureCanvasAgg(figure).draw()
        found = boxes(figure)
    overlaps = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    assert overlaps == []
    whole = figure.bbox
    outside = [text for text, box in found if box.x0 < -1 or box.y0 < -1 or box.x1 > whole.x1 + 1 or box.y1 > whole.y1 + 1]
    assert outside == []
    assert figure.get_figwidth() == page.width


@pytest.mark.parametrize("name", SHARED)
def test_captions_say_what_is_shown_and_on_how_much(name: str, results: Results) -> None:
    drawing = SHARED[name](results)
    assert "seed" in drawing.caption
    assert len(drawing.caption) > 120
    assert drawing.caption.endswith(".")
    assert "  " not in drawing.caption
    assert drawing.title


@pytest.mark.parametrize("name", ["fig_bottleneck", "fig_curves", "fig_l1_norm"])
def test_edits_are_shown_up_to_the_longest_run_of_any_editor(name: str, study_dir: Path) -> None:
    results = Results(study_dir)
    index = results.index
    results.__dict__["index"] = index[~index["editor"].isin(["unedited", "rome"]) | (index["step"] <= 100)]
    axes = FIGURES[name](results).draw(WIDE).axes
    assert {ax.get_xlim() for ax in axes if "number" in ax.get_xlabel() or "position" in ax.get_xlabel()} == {(0, 300 * 1.03)}


@pytest.mark.parametrize(
    ("methods", "layers"),
    [
        ({"one_time_batch": METHODS["one_time_batch"]}, [0, 1, 2]),
        ({"rome": METHODS["rome"], "prune": replace(METHODS["memit"], layers=(0, 1))}, [0, 1, 2]),
    ],
    ids=["batch alone", "finished together"],
)
def test_every_layer_that_an_editor_changed_has_a_panel(methods: dict[str, Method], layers: list[int], tmp_path: Path) -> None:
    made = Made(methods={"unedited": METHODS["unedited"], **methods}, lengths=(10, 20), forms=False, summed=False)
    axes = FIGURES["fig_l1_norm"](Results(write_study(tmp_path, made))).draw(WIDE).axes
    assert [ax.get_title()[3:] for ax in axes if ax.axison] == [*(f"Layer {layer}" for layer in layers), "Benchmarks"]
    assert [sum(len(line.get_xydata()) > 0 for line in ax.lines) for ax in axes[: len(layers)]] == [1] * len(layers)


def test_damage_is_that_of_one_length_that_the_caption_names(study_dir: Path) -> None:
    results, panel = Results(study_dir), Panel("mini", "mqd_dg")
    benchmark = results.benchmark
    is_missing = benchmark["dataset"].eq("mqd_dg") & benchmark["editor"].eq("memit") & benchmark["step"].eq(150)
    results.__dict__["benchmark"] = benchmark[~is_missing]
    for editor, found in fig_objectives._damages(results, panel).items():
        points = benchmark_curve(results, panel, editor).set_index("step")["mean"]
        assert found.value == pytest.approx(points[0] - points[50])
    assert "after 300 / 150 / 150 / 50 / 150 / 150 / 150 / 150 edits" in FIGURES["fig_objectives"](results).caption
    results.__dict__["benchmark"] = benchmark[benchmark["editor"] == "unedited"]
    assert "Damage" not in FIGURES["fig_objectives"](results).caption


def test_all_figures_are_written_for_paper_and_phone(finished_dir: Path) -> None:
    folder = finished_dir / "figures"
    record = json.loads((folder / "figures.json").read_text())
    assert set(record) == set(FIGURES)
    assert [name for name, entry in record.items() if "skipped" in entry] == []
    for name in FIGURES:
        for suffix in ("svg", "narrow.svg"):
            text = (folder / f"{name}.{suffix}").read_text()
            assert "<svg" in text
            assert "dc:date" not in text


def test_the_same_data_give_the_same_bytes(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"fig_norm_vs_accuracy": FIGURES["fig_norm_vs_accuracy"]}
    monkeypatch.setattr("d4s.figures.figure_stage.FIGURES", chosen)
    content = []
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(results.folder)
        monkeypatch.setattr("d4s.figures.figure_stage.Results", lambda _: results)
        figures(tmp_path / f"{name}-drawn", FigureSettings())
        content.append({path.name: path.read_bytes() for path in sorted((tmp_path / f"{name}-drawn" / "figures").iterdir())})
    assert content[0] == content[1]
    assert {Path(file).suffix for file in content[0]} == {".pdf", ".svg", ".png", ".json"}


def test_formats_that_are_not_asked_for_are_not_written(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d4s.figures.figure_stage.FIGURES", {"fig_form_matrix": FIGURES["fig_form_matrix"]})
    monkeypatch.setattr("d4s.figures.figure_stage.Results", lambda _: results)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "fig_form_matrix.svg").write_text("of an earlier run")
    figures(tmp_path, FigureSettings(format=("png",), dpi=50))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["fig_form_matrix.png", "figures.json"]


def test_what_a_study_lacks_is_skipped_with_a_reason(tmp_path: Path) -> None:
    made = Made(methods={"unedited": METHODS["unedited"]}, lengths=(4,), forms=False)
    study = write_study(tmp_path, made)
    skipped = {}
    for name, make in FIGURES.items():
        try:
            make(Results(study))
        except FigureSkipped as reason:
            skipped[name] = str(reason)
    assert set(FIGURES) - set(skipped) == {"fig_curves", "fig_objectives"}
    assert all(len(reason) > 20 for reason in skipped.values())


def test_the_form_matrix_shows_known_changes(results: Results) -> None:
    panels = {results.form(panel.dataset): panel for panel in results.panels if results.form(panel.dataset)}
    matrix = fig_form_matrix._matrix(results, panels, "memit")  # type: ignore[arg-type]
    order = list(panels)
    asked = list(fig_form_matrix.COLUMNS)
    generated = matrix[order.index("directly_generated"), asked.index("directly_generated")]
    assert generated == pytest.approx(-0.3, abs=0.02)
    assert matrix[order.index("directly_generated"), asked.index("true_false")] == pytest.approx(-0.3, abs=0.02)
    assert "true_false" not in set(results.benchmark["task"]), "outside the mean over the six"


# --- words ------------------------------------------------------------------------------------------------------------


def test_titles_name_the_place_where_several_are_shown_and_the_model_where_those_have_several(results: Results) -> None:
    one, other, elsewhere = Panel("mini", "world_qa"), Panel("mini", "zsre"), Panel("gpt2-xl", "zsre")
    assert title_suffix(results, one, [one]) == ""
    assert title_suffix(results, one, [one, other]) == " · World QA"
    assert title_suffix(results, one, [one, elsewhere]).startswith("\nWorld QA")
