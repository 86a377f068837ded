"""What a model believes: the probability of the answer to every question of a Bayesian reader about a request.

Probabilities are joint, exp(Σ log p of the answer's tokens); an answer is exact where all of its tokens are the likeliest ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from d4s.models.edited_model import EditedModel


@dataclass(frozen=True, slots=True)
class BeliefQuestion:
    """A prompt with the answer that the belief is about; `question` says which of a request's questions it is."""

    question: str
    prompt: str
    answer: str


def belief_questions(beliefs: pd.DataFrame) -> dict[str, list[BeliefQuestion]]:
    """The questions of a frame of BELIEFS, by the fact that is requested."""
    found: dict[str, list[BeliefQuestion]] = {}
    rows: Sequence[Mapping[Any, Any]] = beliefs[["fact_id", "question", "prompt", "answer"]].to_dict(orient="records")
    for row in rows:
        found.setdefault(row["fact_id"], []).append(BeliefQuestion(row["question"], row["prompt"], row["answer"]))
    return found


def joint_quantity(question: str) -> str:
    """The quantity under which a probability is recorded."""
    return f"belief_{question}_joint"


def exact_quantity(question: str) -> str:
    """The quantity under which is recorded whether an answer is exact."""
    return f"belief_{question}_exact"


def belief_values(model: EditedModel, asked: Sequence[BeliefQuestion]) -> Iterator[tuple[str, int, float]]:
    """Quantities with the number of their prompt, always 0, and their values."""
    scores = model.score([one.prompt for one in asked], [one.answer for one in asked])
    probabilities = (-scores.joint_nll().double()).exp().tolist()
    for one, probability, is_exact in zip(asked, probabilities, scores.exact().tolist(), strict=True):
        yield joint_quantity(one.question), 0, probability
        yield exact_quantity(one.question), 0, float(is_exact)
