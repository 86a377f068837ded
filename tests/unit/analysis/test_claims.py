"""Every rule gives the verdict that the known effects of a made-up study call for, and says so when it has no data."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest

from d4s.analysis.claim import judge
from d4s.analysis.claim_groups import CLAIM_GROUPS, PAPERS
from d4s.analysis.claims import claims, claims_of
from d4s.analysis.claims_d4s import CLAIMS
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.norm_comparison import norm_points
from d4s.analysis.study_results import Results, RunKey
from d4s.analysis.verdicts import Condition, RuleResult, show, show_estimate
from d4s.study_settings import ClaimGroup
from tests.synthetic import FORM_CONTROLS, FORM_DAMAGE, METHODS, PERPLEXITY, Made, Method, write_study

BY_ID = {claim.claim_id: claim for claim in CLAIMS}
SEQUENTIAL = ("rome", "memit", "d4s")
SMALL = Made(methods={name: METHODS[name] for name in ("unedited", *SEQUENTIAL)}, lengths=(300,), forms=False, summed=False)
MORE = Made(
    methods={name: METHODS[name] for name in ("unedited", *SEQUENTIAL, "memit_seq", "one_time_batch")},
    lengths=(100, 300),
    forms=False,
    summed=False,
)


def verdict(claim_id: str, made: Made, folder: Path) -> dict[str, Any]:
    return judge(BY_ID[claim_id], Results(write_study(folder, made)))


def changed(made: Made, *editors: str, **changes: Any) -> Made:
    return made.having(**{editor: replace(made.methods[editor], **changes) for editor in editors})


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.1, 0.3, 0.0, "holds"),
        (0.1, 0.3, 0.2, "undecided"),
        (0.1, 0.3, 0.3, "does not hold"),
        (0.0, 0.3, 0.0, "undecided"),
        (-0.3, -0.1, 0.0, "does not hold"),
    ],
)
def test_a_condition_compares_its_interval_with_the_margin(low: float, high: float, margin: float, expected: str) -> None:
    assert Condition("x", IntervalEstimate((low + high) / 2, low, high, 10), margin).verdict == expected


@pytest.mark.parametrize(
    ("lows", "expected"),
    [((1.0, 1.0), "holds"), ((1.0, -1.0), "undecided"), ((1.0, -9.0), "does not hold"), ((-1.0, -9.0), "does not hold"), ((), "undecided")],
)
def test_a_claim_needs_all_its_conditions_and_falls_with_one(lows: tuple[float, ...], expected: str) -> None:
    conditions = [Condition(f"c{low}", IntervalEstimate(low + 1, low, low + 2, 10)) for low in lows]
    finding = RuleResult(conditions)
    assert finding.verdict == expected
    assert (finding.weakest is None) if not lows else (finding.weakest is conditions[lows.index(min(lows))])


def test_the_effect_shown_is_one_that_decides_the_verdict() -> None:
    fails = Condition("fails", IntervalEstimate(-1.0, -2.0, 0.0, 10))
    unsure = Condition("unsure", IntervalEstimate(1.0, -9.0, 11.0, 10))
    assert RuleResult([unsure, fails]).weakest is fails


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.123, "points", "+12.3 pp"),
        (-4.08, "percent", "−408 %"),
        (1.275, "nats", "+1.27 nats"),
        (-0.5, "correlation", "−0.50"),
        (-1e-9, "points", "+0.0 pp"),
    ],
)
def test_numbers_are_written_in_their_unit(value: float, unit: Any, text: str) -> None:
    assert show(value, unit) == text


def test_an_interval_is_written_without_repeating_the_unit() -> None:
    assert show_estimate(IntervalEstimate(0.1, -0.05, 0.25, 9), "points") == "+10.0 pp [−5.0, +25.0]"
    assert show_estimate(IntervalEstimate(0.1, -0.05, 0.25, 9), "correlation") == "+0.10 [−0.05, +0.25]"


# --- the data side ----------------------------------------------------------------------------------------------------


def forms(**changes: Any) -> Made:
    """A study of the three forms, with only as much beside them as gives the unedited model's scores."""
    some = {name: METHODS[name] for name in ("unedited", *SEQUENTIAL)}
    return Made(methods=some, lengths=(50,), form_lengths=(150,), summed=False, **changes)


def test_c1_holds_where_perplexity_rises_with_the_form(tmp_path: Path) -> None:
    entry = verdict("C1", forms(), tmp_path)
    assert entry["verdict"] == "holds"
    assert entry["effect"] == pytest.approx(math.log(43.3 / 12.3), abs=0.15)
    assert len(entry["conditions"]) == 2


def test_c1_does_not_hold_where_the_order_is_turned(tmp_path: Path) -> None:
    turned = {**PERPLEXITY, "mqd_tf": (2061.0, 1), "mqd_mc": (306.0, 1), "mqd_dg": (73.0, 3)}
    entry = verdict("C1", forms(perplexity=turned), tmp_path)
    assert entry["verdict"] == "does not hold"
    assert entry["effect"] < 0


def test_c1_is_undecided_where_two_forms_are_alike(tmp_path: Path) -> None:
    alike = {**PERPLEXITY, "mqd_mc": (12.3, 1)}
    assert verdict("C1", forms(perplexity=alike), tmp_path)["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (FORM_DAMAGE, "holds"),
        ({"mqd_tf": 0.3, "mqd_mc": 0.12, "mqd_dg": 0.02}, "does not hold"),
        ({"mqd_tf": 0.1, "mqd_mc": 0.1, "mqd_dg": 0.3}, "undecided"),
    ],
)
def test_c2_follows_the_order_of_damage(damage: dict[str, float], expected: str, tmp_path: Path) -> None:
    assert verdict("C2", forms(form_damage=damage), tmp_path)["verdict"] == expected


def test_c2_is_judged_by_the_editors_that_were_benchmarked(tmp_path: Path) -> None:
    results = Results(write_study(tmp_path, forms()))
    kn = results.index[results.index["editor"] == "rome"].assign(editor="kn", benchmark=None)
    results.__dict__["index"] = pd.concat([results.index, kn], ignore_index=True)
    assert results.runs_of(results.panels[-1], "kn")
    assert judge(BY_ID["C2"], results)["verdict"] == "holds"


def test_c3_is_undecided_with_few_data_sets_and_says_why(tmp_path: Path) -> None:
    entry = verdict("C3", forms(), tmp_path)
    assert entry["verdict"] == "undecided"
    assert entry["effect"] is None
    assert any("6 data sets × models are needed" in sentence for sentence in entry["why"])


TOKENS = {"world_qa": 1, "mqd_tf": 1, "mqd_mc": 2, "mqd_dg": 3, "long_predictable": 5, "short_surprising": 1, "uniform": 4, "diverse": 6}


@pytest.mark.parametrize(("per_nat", "expected"), [(0.08, "holds"), (-0.08, "does not hold")])
def test_c3_asks_for_length_and_diversity_at_equal_perplexity(per_nat: float, expected: str, tmp_path: Path) -> None:
    """Damage made to follow length, which the made-up targets' diversity goes with, whatever the perplexity."""
    perplexities = dict(zip(TOKENS, (120.0, 12.3, 297.4, 43.3, 20.0, 900.0, 60.0, 30.0), strict=True))
    damage = {name: 0.2 + per_nat * math.log(count + (count > 1)) for name, count in TOKENS.items()}  # longer ones vary by two
    made = forms(
        controls=FORM_CONTROLS, perplexity={name: (perplexities[name], count) for name, count in TOKENS.items()}, form_damage=damage
    )
    entry = verdict("C3", made, tmp_path)
    by_name = {condition["name"]: condition for condition in entry["conditions"]}
    assert by_name["Length of the targets, coefficient"]["verdict"] == expected
    assert any(sentence.startswith("Log length alone: ") for sentence in entry["why"])


@pytest.mark.parametrize("claim_id", ["C1", "C2"])
def test_forms_are_not_judged_where_there_are_none(claim_id: str, tmp_path: Path) -> None:
    entry = verdict(claim_id, SMALL, tmp_path)
    assert entry["verdict"] == "not measured"
    assert "all three forms" in entry["why"][0]


# --- the model side ---------------------------------------------------------------------------------------------------


def test_c4_holds_only_where_both_methods_fall(tmp_path: Path) -> None:
    assert verdict("C4", SMALL, tmp_path / "a")["verdict"] == "holds"
    steady = changed(SMALL, "memit", fall=0.0, start=1.0)
    entry = verdict("C4", steady, tmp_path / "b")
    assert entry["verdict"] == "does not hold"
    assert {c["name"]: c["verdict"] for c in entry["conditions"]} == {"ROME, World QA": "holds", "MEMIT, World QA": "does not hold"}


@pytest.mark.parametrize("claim", ["C4", "C5", "C7", "C10"])
def test_what_one_method_lacks_leaves_the_others_judged_and_lets_no_claim_hold(claim: str, tmp_path: Path) -> None:
    results = Results(write_study(tmp_path, SMALL))
    log = results.edit_log
    results.__dict__["edit_log"] = log[log["editor"] != "memit"]
    entry = judge(BY_ID[claim], results)
    assert entry["verdict"] == "undecided" and all("ROME" in condition["name"] for condition in entry["conditions"])
    assert any(line.startswith("Not measured in this study: ") and "MEMIT" in line for line in entry["why"])
    nothing = Results(results.folder)
    nothing.__dict__["edit_log"] = log[log["editor"] == "d4s"]
    assert judge(BY_ID[claim], nothing)["verdict"] == "not measured"


def test_c5_asks_for_five_percent_of_growth(tmp_path: Path) -> None:
    assert verdict("C5", SMALL, tmp_path / "a")["verdict"] == "holds"
    assert verdict("C5", changed(SMALL, "rome", growth=0.02), tmp_path / "b")["verdict"] == "does not hold"


def test_c6_takes_seeds_of_one_editor_for_copies(tmp_path: Path) -> None:
    along = {f"m{k}": Method(start=1.0, fall=0.0, forget=0.15 * (k % 5), growth=1.6**k) for k in range(1, 7)}
    once = Made(methods=along, lengths=(50, 100, 200, 300), forms=False, summed=False)
    alone, thrice = (verdict("C6", replace(once, seeds=seeds), tmp_path / str(len(seeds))) for seeds in ((1,), (1, 2, 3)))
    assert alone["n"] == thrice["n"] == 6
    width = [entry["ci"][1] - entry["ci"][0] for entry in (alone, thrice)]
    assert width[1] > 0.8 * width[0]


def test_c6_counts_editors_and_needs_a_strong_correlation(tmp_path: Path) -> None:
    along = {f"m{k}": Method(start=1.0, fall=0.0, forget=0.15 * k, growth=1.6**k) for k in range(1, 7)}
    study = Made(methods=along, lengths=(50, 100, 200, 300), forms=False, summed=False)
    holds = verdict("C6", study, tmp_path / "a")
    assert (holds["verdict"], holds["n"]) == ("holds", 6)
    against = {f"m{k}": Method(start=1.0, fall=0.0, forget=0.15 * k, growth=1.6 ** (7 - k)) for k in range(1, 7)}
    assert verdict("C6", replace(study, methods=against), tmp_path / "b")["verdict"] != "holds"
    assert verdict("C6", SMALL, tmp_path / "c")["verdict"] == "not measured"


@pytest.mark.parametrize(("growth", "expected"), [(1.8, "holds"), (4.0, "undecided"), (9.0, "does not hold")])
def test_c7_compares_growth_edit_by_edit(growth: float, expected: str, tmp_path: Path) -> None:
    entry = verdict("C7", changed(SMALL, "d4s", growth=growth), tmp_path)
    assert entry["verdict"] == expected
    assert entry["unit"] == "percent"


def test_c7_takes_a_run_that_diverged_to_grow_no_more(tmp_path: Path) -> None:
    results = Results(write_study(tmp_path, SMALL))
    log = results.edit_log
    results.__dict__["edit_log"] = log[(log["editor"] != "rome") | (log["step"] <= 100)]
    paths = {editor: results.norm_path(RunKey("mini", "world_qa", editor, 1)) for editor in ("rome", "d4s")}
    gap = {editor: path.iloc[-1].mean() for editor, path in paths.items()}
    entry = judge(BY_ID["C7"], results)
    [condition] = [condition for condition in entry["conditions"] if condition["name"].startswith("ROME − D4S, 300 edits")]
    assert condition["effect"] == pytest.approx(gap["rome"] - gap["d4s"])


def test_c6_counts_a_run_that_diverged_with_its_last_finite_state(tmp_path: Path) -> None:
    results = Results(write_study(tmp_path, replace(SMALL, lengths=(50, 300))))
    log = results.edit_log
    results.__dict__["edit_log"] = log[(log["editor"] != "rome") | (log["step"] <= 100)]
    points = norm_points(results, results.panels).set_index(["editor", "step"])["norm"]
    last = results.norm_path(RunKey("mini", "world_qa", "rome", 1)).loc[100].mean()
    assert points["rome", 300] == pytest.approx(last) and points["rome", 50] < last


def test_c8_is_decided_by_the_papers_methods_alone(tmp_path: Path) -> None:
    better = changed(MORE, "memit_seq", forget=0.0, start=1.0, paraphrase=1.0, locality_loss=0.0)
    entry = verdict("C8", better, tmp_path)
    assert entry["verdict"] == "holds"
    assert len(entry["conditions"]) == 2 * 2
    assert any("Not in the paper's table: D4S − MEMIT + history" in sentence and "−" in sentence for sentence in entry["why"])


def test_c8_falls_with_one_better_method(tmp_path: Path) -> None:
    entry = verdict("C8", changed(MORE, "memit", fall=0.0, forget=0.0, start=1.0, paraphrase=1.0, locality_loss=0.0), tmp_path)
    assert entry["verdict"] == "does not hold"


@pytest.mark.parametrize(("damage", "expected"), [(0.01, "holds"), (0.19, "undecided"), (0.5, "does not hold")])
def test_c9_compares_benchmarks_at_the_longest_length(damage: float, expected: str, tmp_path: Path) -> None:
    assert verdict("C9", changed(SMALL, "d4s", damage=damage), tmp_path)["verdict"] == expected


@pytest.mark.parametrize(("forget", "expected"), [(0.5, "holds"), (0.2, "undecided"), (0.02, "does not hold")])
def test_c10_asks_for_ten_points_of_forgetting(forget: float, expected: str, tmp_path: Path) -> None:
    assert verdict("C10", changed(SMALL, "rome", forget=forget), tmp_path)["verdict"] == expected


def test_x1_is_not_measured(tmp_path: Path) -> None:
    assert verdict("X1", SMALL, tmp_path)["verdict"] == "not measured"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start": 0.98, "forget": 0.03, "paraphrase": 0.88, "locality_loss": 0.25, "fall": 0.0}, "holds"),
        ({"locality_loss": 0.6}, "does not hold"),
    ],
)
def test_x2_is_an_equivalence_test(changes: dict[str, float], expected: str, tmp_path: Path) -> None:
    entry = verdict("X2", changed(MORE, "d4s", **changes), tmp_path)
    assert entry["verdict"] == expected
    assert entry["effect"] <= 0.05


def test_x2_compares_what_preserves_alike_alone(tmp_path: Path) -> None:
    path = write_study(tmp_path, MORE) / "provenance.json"
    provenance = json.loads(path.read_text())
    provenance["editors"]["mini / one_time_batch"]["preservation"]["weight"] = 30.0
    path.write_text(json.dumps(provenance))
    entry = judge(BY_ID["X2"], Results(tmp_path))
    assert entry["verdict"] == "not measured"
    assert "D4S preserves by" in entry["why"][0] and "not compared" in entry["why"][0]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_holds_every_claim_in_order_with_plain_numbers(judged_dir: Path) -> None:
    entries = json.loads((judged_dir / "claims.json").read_text())
    assert [entry["id"] for entry in entries] == [f"C{n}" for n in range(1, 11)] + ["X1", "X2"]
    for entry in entries:
        assert set(entry) == {
            "id",
            "statement",
            "rule",
            "shown_in",
            "verdict",
            "effect",
            "ci",
            "n",
            "seeds",
            "unit",
            "margin",
            "why",
            "conditions",
        }
        if entry["effect"] is not None:
            assert entry["ci"][0] <= entry["effect"] <= entry["ci"][1]
            assert entry["seeds"] == 1


def test_the_weakest_condition_is_the_one_shown(judged_dir: Path) -> None:
    for entry in json.loads((judged_dir / "claims.json").read_text()):
        for condition in entry["conditions"]:
            assert entry["ci"][0] - entry["margin"] <= condition["ci"][0] - condition["margin"]


def test_judging_twice_gives_the_same_bytes(judged_dir: Path) -> None:
    before = (judged_dir / "claims.json").read_bytes()
    claims(judged_dir)
    assert (judged_dir / "claims.json").read_bytes() == before


def test_several_seeds_are_judged_by_intervals_over_seeds(tmp_path: Path) -> None:
    entry = verdict("C10", replace(SMALL, seeds=(1, 2, 3)), tmp_path)
    assert (entry["seeds"], entry["verdict"]) == (3, "holds")


def test_every_rule_has_a_section_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "claims.md").read_text(encoding="utf-8")
    assert [claim.claim_id for claim in CLAIMS if f"## {claim.claim_id} · " not in text] == []


def test_a_study_can_name_the_groups_that_there_are_and_ids_are_told_apart() -> None:
    assert set(get_args(ClaimGroup)) == set(CLAIM_GROUPS) == set(PAPERS)
    ids = [claim.claim_id for claim in claims_of(CLAIM_GROUPS)]
    assert len(set(ids)) == len(ids)
