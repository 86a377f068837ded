r"""What a model is asked after a single edit: probabilities and hits of every question, and negative log-likelihoods of text.

A question's `p_new` is the probability of the new target, `p_true` that of the answer that held before: its answer and its
alternative for questions about the edited fact (efficacy, paraphrase), the other way round for probes whose answer must stay. Each
comes in two forms that are never mixed: `_joint`, exp(Σ log p of the target's tokens), and `_mean`, exp(mean log p per token).
"""

from collections.abc import Collection, Iterator, Sequence

from d4s.metrics.perplexity_aggregates import TEXT_NLL, TEXT_TOKENS
from d4s.metrics.probes import Kind, Question
from d4s.metrics.scoring import FactEvaluation, Prediction, metrics_of
from d4s.models.edited_model import EditedModel, Scores

FOLLOWS_EDIT: Collection[Kind] = ("efficacy", "paraphrase", "portability")
Value = tuple[str, int, float]
"""A quantity, the number of its prompt or row of text, and its value."""


def question_values(model: EditedModel, evaluation: FactEvaluation, fact_id: str, kinds: Collection[str]) -> Iterator[Value]:
    """Probabilities and teacher-forced metrics of the questions of some kinds about a fact, by prompt."""
    asked = [item for item in evaluation.questions.get(fact_id, ()) if item.kind in kinds]
    pairs = [(item, target) for item in asked for target in (item.answer, item.alternative) if target]
    if not pairs:
        return
    scores = model.score([item.prompt for item, _ in pairs], [target for _, target in pairs])
    joint, mean = ((-nll.double()).exp().tolist() for nll in (scores.joint_nll(), scores.mean_nll()))
    row = 0
    for item in asked:
        rows = range(row, row + 1 + bool(item.alternative))
        names = ("p_new", "p_true") if item.kind in FOLLOWS_EDIT else ("p_true", "p_new")
        for name, place in zip(names, rows, strict=False):
            yield f"{item.kind}_{name}_joint", item.prompt_id, joint[place]
            yield f"{item.kind}_{name}_mean", item.prompt_id, mean[place]
        before = evaluation.before[item] if item.kind == "locality" else None
        for metric, value in metrics_of(item, _prediction(item, scores, rows), before).items():
            yield metric, item.prompt_id, value
        row = rows.stop


def _prediction(item: Question, scores: Scores, rows: Sequence[int]) -> Prediction:
    """The prediction for a question whose answer, and alternative if it has one, have these rows of scores."""
    nll = scores.mean_nll()[list(rows)].tolist()
    length = int(scores.mask[rows[0]].sum())
    correct, predicted = scores.correct[rows[0], :length].tolist(), scores.predicted[rows[0], :length].tolist()
    return Prediction(nll[0], nll[1] if item.alternative else None, tuple(correct), tuple(predicted), None)


def text_values(model: EditedModel, rows: Sequence[Sequence[int]]) -> Iterator[Value]:
    """Summed negative log-likelihood (nats) and number of predicted tokens of rows of token ids; the first token is context only."""
    for number, (row, nll) in enumerate(zip(rows, model.text_nll(rows).double().tolist(), strict=True)):
        yield TEXT_NLL, number, nll
        yield TEXT_TOKENS, number, float(len(row) - 1)
