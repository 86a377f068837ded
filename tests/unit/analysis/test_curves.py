"""Curves and the view of a study's results: bins, ages, norms, benchmarks, names."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from d4s.analysis.curves import age_curve, benchmark_curve, binned_curve, norm_curve, summary_curve
from d4s.analysis.display_names import dataset_name, form_of, method_name, sorted_editors
from d4s.analysis.norm_comparison import norm_points
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.target_statistics import target_statistics
from tests.synthetic import FORM_CONTROLS, METHODS, Made, Method, write_study

WORLD = Panel("mini", "world_qa")


def test_panels_are_facts_first_then_forms_in_their_fixed_order(results: Results) -> None:
    assert [panel.dataset for panel in results.panels] == ["world_qa", "mqd_tf", "mqd_mc", "mqd_dg", *FORM_CONTROLS]
    assert results.main_panels == [WORLD]


def test_forms_come_from_the_study_before_the_name() -> None:
    assert form_of("mqd_tf") == "true_false"
    assert form_of("mqd_tf", {"mqd_tf": {"source": "world"}}) is None
    assert form_of("mine", {"mine": {"form": "directly_generated"}}) == "directly_generated"
    assert form_of("tf") is None


def test_methods_have_one_name_and_one_order() -> None:
    assert sorted_editors(["zebra", "d4s", "unedited", "rome", "d4s"]) == ["unedited", "rome", "d4s", "zebra"]
    assert method_name("memit_seq") == "MEMIT + history"
    assert method_name("my_own") == "my own"
    assert dataset_name("mqd_mc") == "Multiple choice"


def test_a_summary_curve_has_every_length_and_its_interval(results: Results) -> None:
    points = summary_curve(results, WORLD, "rome", "retained", "efficacy_accuracy")
    assert points["step"].tolist() == [10, 100, 300]
    assert (points["low"] <= points["mean"]).all()
    assert (points["mean"] <= points["high"]).all()
    assert summary_curve(results, WORLD, "rome", "retained", "no_such").empty


def test_bins_hold_equally_many_edits_and_show_the_fall(results: Results) -> None:
    points = binned_curve(results, WORLD, "memit", "target_probability_after", 5)
    assert points["n"].tolist() == [60] * 5
    assert points["mean"].is_monotonic_decreasing
    assert points["step"].tolist() == pytest.approx([30.5, 90.5, 150.5, 210.5, 270.5])


def test_old_edits_are_forgotten_first_where_the_method_forgets(tmp_path: Path) -> None:
    made = Made(methods={"rome": Method(start=1.0, fall=0.0, forget=0.9)}, lengths=(300,), forms=False)
    results = Results(write_study(tmp_path, made))
    points = age_curve(results, WORLD, "rome", 300, metric="efficacy_accuracy", bins=3).sort_values("step")
    assert points["step"].tolist() == pytest.approx([49.5, 149.5, 249.5])
    assert points["mean"].tolist() == pytest.approx([1 - 0.9 * age / 300 for age in (50.5, 150.5, 250.5)], abs=0.12)


def test_norm_paths_start_at_one_and_cover_edited_layers_only(results: Results) -> None:
    rome, memit = (results.norm_path(RunKey(*WORLD, editor, 1)) for editor in ("rome", "memit"))
    assert list(rome.columns) == [2]
    assert list(memit.columns) == [0, 1, 2]
    assert memit.loc[0].tolist() == [1.0, 1.0, 1.0]
    assert len(memit) == 301
    assert memit.loc[300].mean() == pytest.approx(1 + METHODS["memit"].growth, rel=0.1)


def test_a_method_without_a_log_of_norms_is_drawn_at_its_lengths(results: Results) -> None:
    points = norm_curve(results, WORLD, "one_time_batch")
    assert points["step"].tolist() == [10, 100, 300]
    assert points["mean"].iloc[-1] == pytest.approx(2.5)
    assert norm_curve(results, WORLD, "unedited").empty


def test_benchmarks_start_at_the_unedited_model_of_any_panel(results: Results) -> None:
    form = Panel("mini", "mqd_dg")
    points = benchmark_curve(results, form, "rome")
    assert points["step"].tolist() == [0, 50, 150]
    base = results.unedited_tasks("mini")["value"]
    assert points["mean"].iloc[0] == pytest.approx(base.mean())
    assert benchmark_curve(results, form, "rome", "mmlu")["mean"].iloc[0] == pytest.approx(base["mmlu"])
    assert "truthfulqa_mc2" not in base


def test_points_of_norm_and_accuracy_leave_references_out(results: Results) -> None:
    points = norm_points(results, [WORLD])
    assert set(points["editor"]) == {"rome", "memit", "memit_seq", "d4s", "d4s_frozen"}
    assert len(points) == 5 * 3
    at_end = points[(points["editor"] == "rome") & (points["step"] == 300)].iloc[0]
    assert at_end["norm"] == pytest.approx(results.norm_path(RunKey(*WORLD, "rome", 1)).loc[300].mean())


def test_target_numbers_count_texts_in_bits(results: Results) -> None:
    numbers = target_statistics(results.targets(Panel("mini", "mqd_mc"), "new"))
    assert numbers.distinct == 4
    assert numbers.entropy == pytest.approx(2.0, abs=0.05)
    assert numbers.perplexity == pytest.approx(43.3, rel=0.1)
    assert np.exp(numbers.log_perplexity.low) < numbers.perplexity < np.exp(numbers.log_perplexity.high)


def test_several_seeds_give_intervals_over_seeds(tmp_path: Path) -> None:
    made = Made(methods={"rome": METHODS["rome"]}, lengths=(50,), forms=False, seeds=(1, 2, 3))
    results = Results(write_study(tmp_path, made))
    assert results.seeds == [1, 2, 3]
    one = [float(results.retained(RunKey(*WORLD, "rome", seed), 50)["efficacy_accuracy"].mean()) for seed in (1, 2, 3)]
    point = summary_curve(results, WORLD, "rome", "retained", "efficacy_accuracy").iloc[0]
    assert point["mean"] == pytest.approx(np.mean(one))
    assert point["high"] - point["mean"] == pytest.approx(4.303 * np.std(one, ddof=1) / np.sqrt(3), rel=1e-3)


def test_ages_are_of_facts_that_have_the_score(results: Results) -> None:
    some = Results(results.folder)
    scores = results.scores
    oldest = set(results.edit_positions(RunKey(*WORLD, "rome", 1), 300).nsmallest(40).index)
    some.__dict__["scores"] = scores[~(scores["metric"].str.startswith("paraphrase") & scores["fact_id"].isin(oldest))]
    points = age_curve(some, WORLD, "rome", 300, metric="paraphrase_accuracy", bins=6)
    assert len(points) == 6 and points["step"].max() < 260 and points["mean"].notna().all()


def test_few_positions_are_binned_once_each(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    log = pd.DataFrame({"step": range(1, 8), "efficacy_accuracy": [1.0, 0, 1, 0, 1, 0, 1]})
    monkeypatch.setattr(Results, "immediate", lambda self, run: log)
    points = binned_curve(results, WORLD, "rome", "efficacy_accuracy", bins=10)
    assert points["step"].is_unique and points["step"].max() < 7.01 and points["mean"].mean() == pytest.approx(4 / 7, abs=0.15)
