"""Norm or direction: controls are found by their settings, X1 is judged by known effects, and no table ranks them as methods."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d4s.analysis.claim import judge
from d4s.analysis.claims_d4s import CLAIMS
from d4s.analysis.norm_comparison import norm_at, norm_points
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.editors.control_editors import EditorControl, find_controls
from d4s.figures import fig_norm_cause
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import WIDE
from tests.synthetic import METHODS, Made, write_study

WORLD = Panel("mini", "world_qa")
X1 = next(claim for claim in CLAIMS if claim.claim_id == "X1")
PLAIN = {name: METHODS[name] for name in ("unedited", "memit")}
SCRAMBLED = Made(methods={**PLAIN, "memit_scrambled": METHODS["memit_scrambled"]}, lengths=(100, 300), forms=False, summed=False)


def verdict(made: Made, folder: Path) -> dict[str, Any]:
    return judge(X1, Results(write_study(folder, made)))


def scrambled(**changes: float) -> Made:
    return SCRAMBLED.having(memit_scrambled=replace(METHODS["memit_scrambled"], **changes))


# --- which editors are controls ---------------------------------------------------------------------------------------


def test_a_control_differs_in_its_finish_alone() -> None:
    plain = {"family": "locate_then_edit", "history": "none", "delta_transform": None}
    editors = {
        "a": plain,
        "a_random": {**plain, "delta_transform": {"kind": "scramble", "seed": 0}},
        "a_half": {**plain, "delta_transform": {"kind": "rescale", "factor": 0.5}},
        "a_pruned": {**plain, "delta_transform": {"kind": "prune"}},
        "b_random": {**plain, "history": "keys", "delta_transform": {"kind": "scramble", "seed": 0}},
        "unknown": {},
    }
    assert find_controls(editors) == [EditorControl("a_random", "a", "scramble", 1.0), EditorControl("a_half", "a", "rescale", 0.5)]


def test_controls_are_no_methods(results: Results) -> None:
    found = {control.editor: control.base for control in results.controls(WORLD)}
    assert found == {"memit_scrambled": "memit", "memit_halved": "memit", "d4s_scrambled": "d4s", "d4s_doubled": "d4s"}
    assert not set(found) & set(results.editors(WORLD))
    assert not set(found) & set(norm_points(results, [WORLD])["editor"])


def test_without_stored_settings_there_are_no_controls(tmp_path: Path) -> None:
    study = write_study(tmp_path, SCRAMBLED)
    (study / "provenance.json").unlink()
    assert Results(study).controls(WORLD) == []
    assert "memit_scrambled" in Results(study).editors(WORLD)


def test_the_norm_of_a_finished_change_is_measured_after_it(results: Results) -> None:
    assert results.norm_path(RunKey(*WORLD, "memit_halved", 1)).empty
    halved, whole = (norm_at(results, WORLD, editor, 300) for editor in ("memit_halved", "memit"))
    assert (halved and halved.value, whole and whole.value) == (pytest.approx(2.7), pytest.approx(5.0))
    assert norm_at(results, WORLD, "memit", 7) is None


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"locality_loss": 0.58, "damage": 0.19}, "holds"),
        ({"locality_loss": 0.3, "damage": 0.1}, "undecided"),
        ({"locality_loss": 0.1, "damage": 0.02}, "does not hold"),
    ],
)
def test_x1_asks_for_half_of_the_loss(changes: dict[str, float], expected: str, tmp_path: Path) -> None:
    entry = verdict(scrambled(**changes), tmp_path)
    assert (entry["verdict"], entry["unit"], entry["margin"]) == (expected, "percent", 0.5)
    known = (changes["locality_loss"] + changes["damage"]) / (METHODS["memit"].locality_loss + METHODS["memit"].damage)
    assert entry["effect"] == pytest.approx(known, abs=0.08)
    assert entry["ci"][0] < known < entry["ci"][1]


def test_x1_is_not_measured_without_a_scrambled_change(tmp_path: Path) -> None:
    rescaled = replace(SCRAMBLED, methods={**PLAIN, "memit_halved": METHODS["memit_halved"]})
    for number, made in enumerate((replace(SCRAMBLED, methods=PLAIN), rescaled)):
        entry = verdict(made, tmp_path / str(number))
        assert entry["verdict"] == "not measured"
        assert "delta_transform `scramble`" in entry["why"][0]


def test_x1_is_undecided_where_there_is_no_decline_to_explain(tmp_path: Path) -> None:
    harmless = SCRAMBLED.having(memit=replace(METHODS["memit"], locality_loss=0.02, damage=0.0))
    entry = verdict(harmless, tmp_path)
    assert (entry["verdict"], entry["effect"], entry["conditions"]) == ("undecided", None, [])
    assert any("not judged" in sentence for sentence in entry["why"])


def test_a_rescaled_change_is_told_beside_the_verdict_and_decides_nothing(judged_dir: Path) -> None:
    entry = next(entry for entry in json.loads((judged_dir / "claims.json").read_text()) if entry["id"] == "X1")
    assert [condition["name"].split(",")[1] for condition in entry["conditions"]] == [" D4S", " MEMIT"]
    assert any("lost times 0.5 (norm ×2.70)" in sentence for sentence in entry["why"])


def test_several_seeds_give_an_interval_over_seeds(tmp_path: Path) -> None:
    entry = verdict(replace(SCRAMBLED, seeds=(1, 2, 3)), tmp_path)
    assert (entry["seeds"], entry["verdict"]) == (3, "does not hold")


# --- the figure -------------------------------------------------------------------------------------------------------


def test_the_figure_shows_every_editor_with_its_controls(results: Results) -> None:
    points = fig_norm_cause._points(results, WORLD)
    assert [(point.base, point.kind, point.factor) for point in points] == [
        ("d4s", "edited", 1.0),
        ("memit", "edited", 1.0),
        ("d4s", "rescale", 2.0),
        ("d4s", "scramble", 1.0),
        ("memit", "rescale", 0.5),
        ("memit", "scramble", 1.0),
    ]
    edited, random = points[1], points[-1]
    assert edited.norm == pytest.approx(random.norm)
    assert edited.scores["locality_accuracy"].value < random.scores["locality_accuracy"].value
    axes = fig_norm_cause.figure(results).draw(WIDE).axes
    assert [ax.get_title() for ax in axes] == ["a  Specificity", "b  Benchmarks"]
    assert sorted(text.get_text() for text in axes[0].texts) == ["D4S", "MEMIT", "×0.5", "×2"]


def test_nothing_is_drawn_without_controls(tmp_path: Path) -> None:
    study = write_study(tmp_path, replace(SCRAMBLED, methods=PLAIN, lengths=(4,)))
    with pytest.raises(FigureSkipped, match="scrambled or rescaled"):
        fig_norm_cause.figure(Results(study))
