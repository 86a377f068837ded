"""Two editors side by side: paired differences, facts that only one retains, and requests that cannot be answered."""

import numpy as np
import pytest
from typer.testing import CliRunner

from d4s.analysis.editor_comparison import Comparison, compare
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.cli import app
from d4s.errors import SettingsError

WORLD = Panel("mini", "world_qa")


@pytest.fixture
def world(results: Results) -> Comparison:
    """D4S and MEMIT on the facts of the world, after the longest sequence."""
    return compare(results, ("d4s", "memit"))[0]


def test_every_panel_with_both_is_compared_at_the_longest_shared_length(results: Results) -> None:
    places = [found.place for found in compare(results, ("d4s", "memit"))]
    assert places[0].endswith("300 edits") and len(places) > 1
    assert compare(results, ("d4s", "memit"), 100)[0].place.endswith("100 edits")


def test_the_difference_is_the_difference_of_the_means_and_changes_its_sign(results: Results, world: Comparison) -> None:
    ours, theirs = (results.retained(RunKey(*WORLD, name, 1), 300)["efficacy_accuracy"] for name in ("d4s", "memit"))
    gap = world.differences[0].gap
    assert gap.value == pytest.approx(ours.mean() - theirs.mean())
    assert gap.low < gap.value < gap.high
    swapped = compare(results, ("memit", "d4s"))[0].differences
    assert [-one.gap.value for one in swapped] == pytest.approx([one.gap.value for one in world.differences])


def test_flips_are_the_facts_on_which_only_one_is_right(results: Results, world: Comparison) -> None:
    ours, theirs = (results.retained(RunKey(*WORLD, name, 1), 300)["efficacy_accuracy"] >= 0.5 for name in ("d4s", "memit"))
    kept = {name: {flip.fact_id for flip in world.flips if flip.kept_by == name} for name in ("d4s", "memit")}
    assert kept["d4s"] == set(ours.index[ours & ~theirs])
    assert kept["memit"] == set(ours.index[~ours & theirs])
    balance = (len(kept["d4s"]) - len(kept["memit"])) / len(ours)
    assert balance == pytest.approx(np.mean(ours) - np.mean(theirs))


def test_what_is_left_out_is_counted(world: Comparison) -> None:
    text = "\n".join(world.lines(1))
    kept = sum(flip.kept_by == "d4s" for flip in world.flips)
    assert f"retained by D4S alone: {kept}" in text and f"and {kept - 1} more: --facts {kept}" in text
    assert "answered by D4S" in text


@pytest.mark.parametrize(
    ("editors", "length", "message"),
    [
        (("d4s", "mend"), None, "'mend': not among the editors of the study, which are d4s, "),
        (("d4s", "d4s"), None, "'d4s' is named twice"),
        (("d4s", "memit"), 77, "have no scores in common after 77 edits; lengths measured: "),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(results: Results, editors: tuple[str, str], length: int | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        compare(results, editors, length)


def test_the_command_prints_it(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d4s.study.resolve.results_folder", lambda study: results.folder)
    found = CliRunner().invoke(app, ["compare", "d4s", "memit", "--edits", "100", "--facts", "0"])
    assert found.exit_code == 0, found.output
    assert "100 edits: D4S − MEMIT, retained" in found.stdout and "Specificity" in found.stdout
