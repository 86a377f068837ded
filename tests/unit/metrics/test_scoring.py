"""Scores of edits: every reading against a model whose probabilities and texts are written down."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from d4s.artifacts import write_table
from d4s.facts.record import Fact, Portability, Probe
from d4s.metrics.probes import questions_of
from d4s.metrics.scoring import N_EXAMPLE_FACTS, FactEvaluation, Prediction, metrics_of, predict
from d4s.models.views import LiveModel
from d4s.schemas import ANSWERS, SCORES
from tests.scripted import Told

FACT = Fact(
    fact_id="f",
    dataset="d",
    relation="city",
    subject="Ada",
    template="{} lives in",
    target_true="Oslo",
    target_new="New Paris",
    paraphrases=("home of Ada :", "Ada is at home in"),
    neighborhood=(
        Probe("neighborhood", "Ben lives in", "Oslo"),
        Probe("unrelated", "sky is", "blue", "pre_edit"),
        Probe("same_subject", "Ada works as a", "baker"),
        Probe("neighborhood", "Eva lives in", "Rome"),
        Probe("neighborhood", "Dan lives in", None, "pre_edit"),
    ),
    portability=(Portability("reasoning", "Ada speaks", ("French", "français")),),
)


BEFORE = Told({
    "Ada lives in": "Oslo", "home of Ada :": "Oslo", "Ada is at home in": "Oslo", "Ben lives in": "Oslo", "Eva lives in": "Rome",
    "Dan lives in": "Cairo", "sky is": "grey", "Ada works as a": "baker", "Ada speaks": "Norse",
})  # fmt: skip


def values_after(model: Told, fact: Fact = FACT, max_new_tokens: int = 12, probes: int = 3) -> dict[tuple[str, int], float]:
    evaluation = FactEvaluation.of(BEFORE, [fact], probes_per_fact=probes, max_new_tokens=max_new_tokens)
    rows, _ = evaluation.scores(model, 7, {fact.fact_id: 3})
    assert {(row["step"], row["edited_at"], row["protocol"], row["fact_id"]) for row in rows} == {(7, 3, "retained", "f")}
    return {(row["metric"], row["prompt_id"]): row["value"] for row in rows}


def test_the_unedited_model_holds_on_to_everything():
    values = values_after(BEFORE)
    for metric in ("efficacy_score", "efficacy_accuracy", "efficacy_exact", "efficacy_generated"):
        assert values[metric, 0] == 0.0
    for reading in ("score", "accuracy", "exact", "generated"):
        assert values[f"neighborhood_{reading}", 0] == values[f"same_subject_{reading}", 2] == 1.0
    assert {key for key in values if key[0].startswith("locality")} == {
        (f"locality_{reading}", place) for reading in ("accuracy", "exact", "generated") for place in (0, 1, 3, 4)
    }
    assert all(value == 1.0 for (metric, _), value in values.items() if metric.startswith("locality"))


def test_unrelated_questions_are_held_against_their_gold_answer_too():
    probe = Probe("unrelated", "sky is", "blue")
    values = values_after(BEFORE, replace(FACT, neighborhood=(probe,)))
    assert values["unrelated_accuracy", 0] == 0.0 and values["locality_accuracy", 0] == 1.0
    assert ("unrelated_score", 0) not in values
    assert not any(metric.startswith("unrelated") for metric, _ in values_after(BEFORE))


def test_portability_is_told_by_kind():
    chains = (Portability("reasoning", "Ada speaks", ("French",)), Portability("Subject Aliasing", "Ben lives in", ("Oslo",)))
    values = values_after(BEFORE, replace(FACT, portability=chains))
    assert (values["portability_accuracy", 0], values["portability_accuracy", 1]) == (0.0, 1.0)
    assert values["portability_reasoning_accuracy", 0] == 0.0 and values["portability_subject_aliasing_accuracy", 1] == 1.0


def test_a_perfect_edit_scores_one_and_paraphrases_are_their_own_prompts():
    edited = Told({**BEFORE.believes, "Ada lives in": "New Paris", "home of Ada :": "New Paris", "Ada speaks": "French"})
    values = values_after(edited)
    for reading in ("score", "accuracy", "exact", "generated"):
        assert values[f"efficacy_{reading}", 0] == values[f"paraphrase_{reading}", 0] == 1.0
        assert values[f"paraphrase_{reading}", 1] == 0.0
    assert values["portability_accuracy", 0] == values["portability_exact", 0] == values["portability_generated", 0] == 1.0
    assert ("portability_score", 0) not in values


def test_half_a_target_counts_half_in_accuracy_alone():
    values = values_after(Told({**BEFORE.believes, "Ada lives in": "New York"}))
    assert values["efficacy_accuracy", 0] == 0.5
    assert values["efficacy_exact", 0] == values["efficacy_generated", 0] == 0.0
    assert values["efficacy_score", 0] == 1.0, "(.1 + 2) / 2 < 2: the comparison is per token"


def test_probability_is_compared_per_token_not_jointly():
    question = questions_of(FACT, 3)[0]
    worse = Prediction(nll=0.9, alternative_nll=1.0, correct=(True,), predicted=(1,), text=None)
    assert metrics_of(question, worse, None)["efficacy_score"] == 1.0
    assert metrics_of(question, replace(worse, nll=1.0), None)["efficacy_score"] == 0.0


def test_a_free_answer_is_judged_by_what_it_says_not_by_what_is_likely():
    values = values_after(
        Told({**BEFORE.believes, "Ada lives in": "New Paris"}, {"Ada lives in": "in New Paris", "Ada speaks": "Français !"})
    )
    assert values["efficacy_exact", 0] == 1.0
    assert values["efficacy_generated", 0] == 0.0
    assert values["portability_generated", 0] == 1.0
    assert values["portability_accuracy", 0] == 0.0


def test_locality_is_agreement_with_the_unedited_model_not_with_the_gold_answer():
    values = values_after(Told({**BEFORE.believes, "sky is": "blue", "Ben lives in": "New Paris", "Dan lives in": "Cairo"}))
    assert values["locality_accuracy", 1] == values["locality_generated", 1] == 0.0, "blue is gold, but was not said before"
    assert values["locality_accuracy", 0] == values["neighborhood_accuracy", 0] == values["neighborhood_score", 0] == 0.0
    assert values["locality_accuracy", 4] == 1.0, "without an answer, the unedited model's stands in"
    assert values["locality_accuracy", 3] == values["neighborhood_accuracy", 3] == 1.0
    assert ("neighborhood_accuracy", 4) not in values


def test_without_a_true_target_there_is_no_comparison():
    values = values_after(BEFORE, replace(FACT, target_true=""))
    assert ("efficacy_score", 0) not in values
    assert ("neighborhood_score", 0) in values


def test_a_neighbour_that_has_the_new_target_is_not_compared():
    fact = replace(FACT, neighborhood=(Probe("neighborhood", "Ben lives in", "New Paris"),))
    assert ("neighborhood_score", 0) not in values_after(BEFORE, fact)
    assert values_after(BEFORE, fact)["neighborhood_accuracy", 0] == 0.0


def test_probes_are_capped_by_kind():
    kinds = [(item.kind, item.prompt_id) for item in questions_of(FACT, 1)]
    assert kinds == [
        ("efficacy", 0), ("paraphrase", 0), ("paraphrase", 1), ("neighborhood", 0), ("locality", 0), ("locality", 1), ("same_subject", 2),
        ("portability", 0),
    ]  # fmt: skip


def test_attribute_probes_are_not_asked():
    assert [item.kind for item in questions_of(replace(FACT, neighborhood=(Probe("attribute", "Cleo lives in", "Paris"),)), 3)].count(
        "locality"
    ) == 0


def test_without_generation_nothing_is_written_but_missing_answers():
    BEFORE.written.clear()
    values = values_after(BEFORE, max_new_tokens=0)
    assert set(BEFORE.written) == {"Dan lives in"}
    assert not [metric for metric, _ in values if metric.endswith("generated")]


def test_a_probe_without_any_answer_is_dropped():
    silent = Told(BEFORE.believes, {"Dan lives in": ". "})
    evaluation = FactEvaluation.of(silent, [FACT], probes_per_fact=3, max_new_tokens=12)
    assert "Dan lives in" not in {item.prompt for item in evaluation.questions["f"]}


def test_numbers_that_are_not_finite_win_nothing():
    class Broken(Told):
        def score(self, prompts, targets):
            scores = super().score(prompts, targets)
            return replace(scores, nll=torch.full_like(scores.nll, float("nan")))

    values = values_after(Broken(BEFORE.believes))
    assert {value for (metric, _), value in values.items() if metric.endswith("_score")} == {0.0}


def test_rows_fit_their_schemas_and_examples_are_bounded(tiny_model, tiny_facts, tmp_path):
    facts, view = tiny_facts(N_EXAMPLE_FACTS + 4), LiveModel(tiny_model())
    evaluation = FactEvaluation.of(view, facts, probes_per_fact=3, max_new_tokens=5)
    scores, answers = evaluation.scores(view, len(facts), {fact.fact_id: place for place, fact in enumerate(facts, 1)})
    write_table(tmp_path / "scores.parquet", scores, SCORES)
    write_table(tmp_path / "answers.parquet", answers, ANSWERS)
    assert {row["fact_id"] for row in answers} == {fact.fact_id for fact in facts[:N_EXAMPLE_FACTS]}
    assert all(row["before"] == row["after"] for row in answers)
    frame = pd.DataFrame(scores)
    assert frame.groupby("metric")["value"].mean().loc[["locality_accuracy", "locality_exact", "locality_generated"]].tolist() == [1.0] * 3
    assert not frame.duplicated(["fact_id", "metric", "prompt_id"]).any()


def test_an_edited_model_differs_and_the_exam_notices(tiny_model, tiny_facts):
    model, facts = tiny_model(), tiny_facts(8)
    evaluation = FactEvaluation.of(LiveModel(model), facts, probes_per_fact=3, max_new_tokens=0)
    with model.patched({1: 0.5 * torch.randn(16, 64, generator=torch.Generator().manual_seed(1))}):
        scores, _ = evaluation.scores(LiveModel(model), 8, {fact.fact_id: 1 for fact in facts})
    frame = pd.DataFrame(scores)
    assert 0 <= frame[frame["metric"] == "locality_accuracy"]["value"].mean() < 1


def test_means_are_those_of_the_rows(tiny_model, tiny_facts):
    facts, view = tiny_facts(3), LiveModel(tiny_model())
    evaluation = FactEvaluation.of(view, facts, probes_per_fact=3, max_new_tokens=0)
    rows, _ = evaluation.scores(view, 3, {fact.fact_id: 1 for fact in facts})
    expected = pd.DataFrame(rows).groupby(["fact_id", "metric"])["value"].mean()
    found = evaluation.means(view, [fact.fact_id for fact in facts])
    assert {(fact, metric): value for fact, by in found.items() for metric, value in by.items()} == pytest.approx(expected.to_dict())


def test_means_of_some_metrics_ask_for_these_alone(tiny_model, tiny_facts):
    facts, view = tiny_facts(3), LiveModel(tiny_model())
    evaluation = FactEvaluation.of(view, facts, probes_per_fact=3, max_new_tokens=0)
    names = [fact.fact_id for fact in facts]
    metrics = ("efficacy_score", "paraphrase_accuracy", "locality_accuracy", "neighborhood_generated")
    whole, asked = evaluation.means(view, names), []

    class Asked(LiveModel):
        def score_and_generate(self, prompts, targets, *more):
            asked.extend(zip(prompts, targets, strict=True))
            return super().score_and_generate(prompts, targets, *more)

    found = evaluation.means(Asked(view.model), names, metrics)
    assert found == {fact: {name: pytest.approx(by[name]) for name in metrics if name in by} for fact, by in whole.items()}
    rivals = {(fact.prompt, fact.target_true) for fact in facts}
    paraphrases = {(prompt, fact.target_new) for fact in facts for prompt in fact.paraphrases}
    assert rivals | paraphrases <= {*asked}
    assert not {(prompt, fact.target_true) for fact in facts for prompt in fact.paraphrases} & {*asked}
    assert not {prompt for fact in facts for prompt in (chain.prompt for chain in fact.portability)} & {prompt for prompt, _ in asked}


def test_asking_nothing_is_nothing():
    assert predict(BEFORE, [], 12) == []
