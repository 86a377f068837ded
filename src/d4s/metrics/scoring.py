r"""Evaluation of an edited model on facts: up to four metrics for each kind of question.

Let nll(a) be the mean negative log-likelihood per token of a, joined to the prompt and teacher-forced, and let the arg-max
tokens be the likeliest ones at the same positions.

| reading | efficacy, paraphrase (a = new, b = true target) | neighborhood, same_subject, unrelated (a = gold answer, b = new target) |
|---|---|---|
| `_score` | nll(a) < nll(b); absent without b | nll(a) < nll(b); absent where a is b, and for unrelated |
| `_accuracy` | share of tokens of a that are the arg-max | the same |
| `_exact` | all tokens of a are the arg-max | the same |
| `_generated` | the free answer (first sentence, greedy) begins with exactly the words of a | the same |

`locality` has the unrelated and neighbouring prompts and compares with the frozen unedited model, whether it is right or not:
`locality_accuracy` is the share of positions of the probe's answer whose arg-max token is the unedited model's,
`locality_exact` that all are, `locality_generated` that the free answer is the same words. `portability` is scored on
the first of its answers and, freely written, on any; once more by kind, as in `portability_reasoning_accuracy`. Where a
probe has no answer of its own, the unedited model's free answer takes its place. A comparison with a number that is not
finite does not hold.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d4s.facts.record import Fact
from d4s.metrics.generation import (
    NO_WORD_LIMIT,
    begins_with,
    free_answers,
    is_same,
    normalise_words,
    sentences,
    stop_after_words,
    words_needed,
)
from d4s.metrics.probes import Question, questions_of
from d4s.models.edited_model import EditedModel, Scores

N_EXAMPLE_FACTS = 20
SHORT_ANSWER = 8  # tokens of the unedited model's answer that replaces a missing one where free answers are off
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's prediction for one question; `text` is the free answer as far as its metrics need it, None where there is none."""

    nll: float
    alternative_nll: float | None
    correct: tuple[bool, ...]
    predicted: tuple[int, ...]
    text: str | None


class FactEvaluation:
    """The questions about facts with the unedited model's predictions, `before`; facts are evaluated in its order.

    `max_new_tokens` of 0 leaves free answers out.
    """

    def __init__(self, before: Mapping[Question, Prediction], *, max_new_tokens: int) -> None:
        self.before, self.max_new_tokens = before, max_new_tokens
        self.questions: dict[str, list[Question]] = {}
        for item in before:
            self.questions.setdefault(item.fact_id, []).append(item)
        shown = [item for items in [*self.questions.values()][:N_EXAMPLE_FACTS] for item in items] if max_new_tokens else []
        self.texts = {item: before[item].text for item in shown}

    @classmethod
    def of(cls, unedited: EditedModel, facts: Sequence[Fact], *, probes_per_fact: int, max_new_tokens: int) -> "FactEvaluation":
        """The evaluation based on an unedited model's predictions, computed now."""
        before = unedited_predictions(unedited, facts, probes_per_fact=probes_per_fact, max_new_tokens=max_new_tokens)
        return cls(before, max_new_tokens=max_new_tokens)

    def scores(self, model: EditedModel, step: int, edited_at: Mapping[str, int]) -> tuple[list[Row], list[Row]]:
        """Rows of SCORES and of ANSWERS for a model after `step` edits; `edited_at` gives the facts and their steps."""
        asked = [item for fact_id in edited_at for item in self.questions[fact_id]]
        return self.rows(
            dict(zip(asked, predict(model, asked, self.max_new_tokens, full_answers=self.texts), strict=True)), step, edited_at
        )

    def rows(self, predictions: Mapping[Question, Prediction], step: int, edited_at: Mapping[str, int]) -> tuple[list[Row], list[Row]]:
        """Rows of SCORES and of ANSWERS from the predictions for every question about the facts; `before` gives the unedited model's."""
        asked = [item for fact_id in edited_at for item in self.questions[fact_id]]
        scores = [
            {
                "step": step,
                "protocol": "retained",
                "fact_id": item.fact_id,
                "edited_at": edited_at[item.fact_id],
                "metric": metric,
                "prompt_id": item.prompt_id,
                "value": value,
            }
            for item in asked
            for metric, value in metrics_of(item, predictions[item], self._reference(item)).items()
        ]
        return scores, [self._answer(step, item, predictions[item]) for item in asked if item in self.texts]

    def means(self, model: EditedModel, fact_ids: Iterable[str], metrics: Collection[str] = ()) -> dict[str, dict[str, float]]:
        """Teacher-forced scores by fact and metric, averaged over prompts; used right after an edit.

        With `metrics`, only these are computed: other questions are left out, and alternatives where no metric compares with them.
        """
        asked = [item for fact_id in fact_ids for item in self.questions[fact_id] if not metrics or _names(item, metrics)]
        put = [item if not metrics or f"{item.kind}_score" in metrics else replace(item, alternative=None) for item in asked]
        found: dict[str, dict[str, list[float]]] = {}
        for item, prediction in zip(asked, predict(model, put, 0), strict=True):
            for metric, value in metrics_of(item, prediction, self._reference(item)).items():
                if not metrics or metric in metrics:
                    found.setdefault(item.fact_id, {}).setdefault(metric, []).append(value)
        return {fact_id: {metric: float(np.mean(values)) for metric, values in by.items()} for fact_id, by in found.items()}

    def _reference(self, item: Question) -> Prediction | None:
        """The unedited model's prediction for questions of locality, which compare with it; else None."""
        return self.before[item] if item.kind == "locality" else None

    def _answer(self, step: int, item: Question, prediction: Prediction) -> Row:
        return {
            "step": step,
            "fact_id": item.fact_id,
            "kind": item.kind,
            "prompt_id": item.prompt_id,
            "prompt": item.prompt,
            "expected": item.answer,
            "before": self.texts[item],
            "after": prediction.text,
        }


def unedited_predictions(
    unedited: EditedModel, facts: Sequence[Fact], *, probes_per_fact: int, max_new_tokens: int
) -> dict[Question, Prediction]:
    """The unedited model's predictions for all questions about facts, with free answers as whole sentences.

    A probe without an answer gets the unedited model's free answer as its answer, and is left out if that is empty.
    """
    items = [item for fact in facts for item in questions_of(fact, probes_per_fact)]
    open_ended = [item for item in items if not item.answer]
    texts = free_answers(unedited, [item.prompt for item in open_ended], max_new_tokens or SHORT_ANSWER)
    substitute_answers = dict(zip(open_ended, texts, strict=True))
    known = [item for item in (replace(item, answer=item.answer or substitute_answers[item]) for item in items) if item.answer]
    return dict(zip(known, predict(unedited, known, max_new_tokens, full_answers=known), strict=True))


def _names(question: Question, metrics: Collection[str]) -> bool:
    """Whether one of the metrics belongs to a kind of question."""
    return any(metric.startswith(f"{question.kind}_") for metric in metrics)


def predict(
    model: EditedModel, questions: Sequence[Question], max_new_tokens: int, full_answers: Container[Question] = ()
) -> list[Prediction]:
    """A model's predictions for questions with answers, all scored together and all generated together.

    Free answers are generated as far as their metrics need; those of `full_answers` to the end of the sentence.
    """
    if not questions:
        return []
    alternatives = [item for item in questions if item.alternative]
    targets = [*(item.answer or "" for item in questions), *(item.alternative or "" for item in alternatives)]
    asked, prompts = [item.prompt for item in questions], [item.prompt for item in (*questions, *alternatives)]
    needed = (
        words_needed(asked, [NO_WORD_LIMIT if item in full_answers else _words_read(item) for item in questions]) if max_new_tokens else {}
    )
    scores, written = model.score_and_generate(prompts, targets, [*needed], max_new_tokens, stop_after_words(needed))
    texts = sentences(asked, needed, written) if max_new_tokens else [None] * len(questions)
    nll, lengths = scores.mean_nll().tolist(), scores.mask.sum(1).tolist()
    alternative_nll = dict(zip(alternatives, nll[len(questions) :], strict=True))
    correct, predicted = _cut(scores, lengths)
    return [Prediction(nll[k], alternative_nll.get(item), correct[k], predicted[k], texts[k]) for k, item in enumerate(questions)]


def _words_read(question: Question) -> int:
    """The number of words of a free answer that its metrics need; answers of symbols alone are compared as whole sentences."""
    counts = [len(normalise_words(answer)) for answer in (question.answer or "", *question.aliases)]
    return NO_WORD_LIMIT if question.kind == "locality" or 0 in counts else max(counts)


def _cut(scores: Scores, lengths: Sequence[int]) -> tuple[list[tuple[bool, ...]], list[tuple[int, ...]]]:
    """Rows without their padding: whether each token is the arg-max, and the arg-max tokens."""
    correct = [tuple(row[:length]) for row, length in zip(scores.correct.tolist(), lengths, strict=True)]
    predicted = [tuple(row[:length]) for row, length in zip(scores.predicted.tolist(), lengths, strict=True)]
    return correct, predicted


def metrics_of(question: Question, prediction: Prediction, before: Prediction | None) -> dict[str, float]:
    """The metrics of one prediction by name; against the unedited model's prediction where `before` is given (locality)."""
    found = _against_answer(question, prediction) if before is None else _against_before(prediction, before)
    names = [question.kind, *([f"{question.kind}_{question.part}"] if question.part else [])]
    return {f"{name}_{suffix}": float(value) for name in names for suffix, value in found.items()}


def _against_answer(question: Question, prediction: Prediction) -> dict[str, float]:
    found: dict[str, float] = {"accuracy": float(np.mean(prediction.correct)), "exact": all(prediction.correct)}
    if prediction.alternative_nll is not None:
        found["score"] = prediction.nll < prediction.alternative_nll
    if prediction.text is not None:
        found["generated"] = any(begins_with(prediction.text, answer) for answer in (question.answer or "", *question.aliases))
    return found


def _against_before(prediction: Prediction, before: Prediction) -> dict[str, float]:
    same = [now == then for now, then in zip(prediction.predicted, before.predicted, strict=True)]
    found: dict[str, float] = {"accuracy": float(np.mean(same)), "exact": all(same)}
    if prediction.text is not None and before.text is not None:
        found["generated"] = is_same(prediction.text, before.text)
    return found
