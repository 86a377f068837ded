"""Localisation as a study: cells of scores beside effects, the verdicts that known effects call for, its table and its figures."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from d4s.analysis.claim import judge
from d4s.analysis.claims_localisation import CLAIMS
from d4s.analysis.localisation import Localisation, Method, SweepKey
from d4s.analysis.localisation_fits import problem_fits
from d4s.analysis.study_results import Results
from d4s.figures import fig_localisation, fig_rewrite_effect, fig_tracing
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, RC, WIDE
from d4s.tables import tab_localisation
from tests.swept import Swept, early, traced, write_swept

BY_ID = {claim.claim_id: claim for claim in CLAIMS}
FORCE, ERASE = {"noise_subject": {"copies": 3}}, {"objective": "erase"}
INJECTION = [Swept("rome", "rome", early), Swept("ft_bound", "ft_m", early), Swept("memit_near", "memit", early, window=3)]
FORCING = Swept("ft_force", "ft_m", lambda *parts: 0.6 * early(*parts) + 0.3 * traced(*parts), "amplified", 1, FORCE)
ERASURE = Swept("ft_erase", "ft_m", early, "amplified", 1, ERASE)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What the paper found."""
    return Results(write_swept(tmp_path_factory.mktemp("swept"), [*INJECTION, FORCING, ERASURE, Swept("rome", "rome", early, "amplified")]))


def verdict(claim_id: str, results: Results) -> dict[str, Any]:
    return judge(BY_ID[claim_id], results)


def promised(folder: Path, **more: Any) -> Results:
    """What tracing promised."""
    return Results(write_swept(folder, [Swept("rome", "rome", traced), Swept("ft_bound", "ft_m", traced)], **more))


def test_cells_have_the_scores_and_the_effects_of_their_window(results: Results) -> None:
    located = Localisation(results)
    problems = {(key.problem, key.method) for key in located.cells}
    ft, rome = Method("ft_m", 1), Method("rome", 1)
    expected = {("injection", rome), ("injection", ft), ("injection", Method("memit", 3)), ("forcing", ft), ("erasure", ft)}
    assert problems == expected | {("amplification", rome)}
    for key, window in ((SweepKey("mini", "injection", rome, 1), 1), (SweepKey("mini", "injection", Method("memit", 3), 1), 3)):
        cells = located.cells[key].sort_values(["fact_id", "layer"])
        effects = np.random.default_rng([1, window]).uniform(0, 1, (60, 6))
        wide = cells.pivot_table(index="fact_id", columns="layer", values="effect").loc[[f"f{n}" for n in range(60)]]
        np.testing.assert_allclose(wide.to_numpy(), effects)
        assert cells.groupby("layer")["score"].mean().to_numpy() == pytest.approx(0.9 - 0.15 * np.arange(6), abs=0.02)


def test_scores_of_every_problem_are_read_from_its_own_probabilities(results: Results) -> None:
    located = Localisation(results)
    for problem, preset in (("erasure", "ft_m"), ("amplification", "rome")):
        cells = located.cells[SweepKey("mini", problem, Method(preset, 1), 1)]
        assert cells.groupby("layer")["score"].mean().to_numpy() == pytest.approx(0.9 - 0.15 * np.arange(6), abs=0.02)


def test_the_usual_layer_is_that_of_the_models_settings(results: Results) -> None:
    located = Localisation(results)
    assert located.usual_layer("mini", "rome") == 2 and located.usual_layer("mini", "encore") == 2
    assert located.usual_layer("another", "nothing") is None


@pytest.mark.parametrize(("claim_id", "expected"), [("LO1", "holds"), ("LO2", "holds"), ("LO4", "holds"), ("LO5", "holds")])
def test_claims_hold_where_the_layer_decides(results: Results, claim_id: str, expected: str) -> None:
    found = verdict(claim_id, results)
    assert found["verdict"] == expected
    assert len(found["conditions"]) == (1 if claim_id == "LO4" else 3)


def test_claims_do_not_hold_where_tracing_says_where_to_edit(tmp_path: Path) -> None:
    results = promised(tmp_path)
    assert verdict("LO1", results)["verdict"] == verdict("LO2", results)["verdict"] == verdict("LO5", results)["verdict"] == "does not hold"
    relation = verdict("LO3", results)
    assert relation["verdict"] == "does not hold" and relation["effect"] == pytest.approx(0.1 - 1, abs=0.05)
    assert "at its usual layer, ROME" in relation["conditions"][0]["name"]


def test_a_relation_that_is_not_there_needs_facts_to_be_ruled_out(tmp_path: Path) -> None:
    assert verdict("LO3", Results(write_swept(tmp_path / "few", INJECTION[:1], facts=20)))["verdict"] == "undecided"
    reverse = Swept("rome", "rome", lambda layer, effect, noise: 0.8 - 0.2 * effect + 0.01 * noise)
    assert verdict("LO3", Results(write_swept(tmp_path / "reverse", [reverse])))["verdict"] == "holds"


def test_forcing_as_little_related_as_injection_is_no_finding(tmp_path: Path) -> None:
    alike = Swept("ft_force", "ft_m", early, "amplified", 1, FORCE)
    found = verdict("LO4", Results(write_swept(tmp_path, [INJECTION[1], alike])))
    assert found["verdict"] in ("does not hold", "undecided") and abs(found["effect"]) < 0.01
    assert verdict("LO4", Results(write_swept(tmp_path / "none", INJECTION)))["verdict"] == "not measured"


def test_scores_at_their_ceiling_are_not_measured(tmp_path: Path) -> None:
    flat = Swept("rome", "rome", lambda layer, effect, noise: 1 - 0.001 * np.abs(noise))
    for claim_id in ("LO1", "LO2"):
        found = verdict(claim_id, Results(write_swept(tmp_path / claim_id, [flat])))
        assert found["verdict"] == "not measured" and "vary too little" in found["why"][0]


def test_a_method_without_spread_leaves_the_others_judged(tmp_path: Path) -> None:
    flat = Swept("ft_bound", "ft_m", lambda layer, effect, noise: np.ones_like(effect))
    found = verdict("LO2", Results(write_swept(tmp_path, [INJECTION[0], flat])))
    assert found["verdict"] == "undecided" and [one["verdict"] for one in found["conditions"]] == ["holds"]


def test_several_seeds_give_intervals_over_seeds(tmp_path: Path) -> None:
    found = verdict("LO2", Results(write_swept(tmp_path, INJECTION[:1], seeds=(1, 2, 3))))
    assert found["seeds"] == 3 and found["verdict"] == "holds"


def test_nothing_is_measured_without_sweeps_or_traces(tmp_path: Path) -> None:
    nothing = Results(write_swept(tmp_path, [Swept("rome", "rome", early, window=1)], facts=0))
    assert {verdict(claim_id, nothing)["verdict"] for claim_id in BY_ID} == {"not measured"}


def test_readings_beside_the_verdict_are_told(results: Results) -> None:
    why = " ".join(verdict("LO1", results)["why"])
    assert "in feasible layers, ROME" in why and "below the ceiling, MEMIT, 3 layers" in why


# --- table and figures ------------------------------------------------------------------------------------------------


def test_the_table_has_a_block_per_problem_and_a_row_per_method_and_reading(results: Results) -> None:
    table = tab_localisation.table(results)
    blocks = dict(table.blocks())
    assert [*blocks] == ["injection", "erasure", "amplification", "forcing"]
    assert [row.labels[0] for row in blocks["injection"] if not row.reference] == ["FT-M", "ROME", "MEMIT, 3 layers"]
    fits = {(fit.problem, fit.method, fit.reading): fit for fit in problem_fits(Localisation(results))}
    rome = table.frame[(table.frame["block"] == "injection") & (table.frame["method"] == "ROME")].iloc[0]
    assert rome["layer"] == fits["injection", Method("rome", 1), ""].layer.value > 0.9 and abs(rome["gain"]) < 0.01 and rome["n"] == 360


def test_figures_are_drawn_for_paper_and_phone(results: Results) -> None:
    for module in (fig_tracing, fig_rewrite_effect, fig_localisation):
        drawing = module.figure(results)
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC}):
            for page in (WIDE, NARROW):
                assert drawing.draw(page).axes
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC}):
        profile = fig_tracing.figure(results).draw(WIDE)
        assert [ax.get_title(loc="left") for ax in profile.axes] == ["a  1 layer", "b  3 layers"]
        line = profile.axes[0].lines[0].get_ydata()
        np.testing.assert_allclose(line, np.random.default_rng([1, 1]).uniform(0, 1, (60, 6)).mean(0))
        bars = fig_localisation.figure(results).draw(WIDE).axes[0].patches
        assert bars[0].get_width() == pytest.approx(tab_localisation.table(results).frame["layer"].iloc[0])


def test_figures_without_data_say_what_is_missing(tmp_path: Path) -> None:
    nothing = Results(write_swept(tmp_path, INJECTION[:1], facts=0))
    for module in (fig_tracing, fig_rewrite_effect, fig_localisation):
        with pytest.raises(FigureSkipped):
            module.figure(nothing)
