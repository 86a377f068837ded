"""How models answer shifted prompts: about facts that no request edits (`general`), and about edited ones (`edited`)."""

from collections.abc import Iterator, Sequence
from typing import Any

from d4s.facts.record import Fact
from d4s.metrics.shifts import ShiftedPrompt, shifted_prompts
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel

GENERAL, EDITED = "general", "edited"
Row = dict[str, Any]


def general_facts(facts: Sequence[Fact], drawn: Sequence[Fact], most: int) -> list[Fact]:
    """Facts that no request edits: the first that only serve as probes, or, where there are none, the last of the drawn sequence."""
    apart = [fact for fact in facts if fact.target_true and not fact.editable]
    return (apart or [fact for fact in reversed(drawn) if fact.target_true])[:most]


GroupedPrompt = tuple[str, ShiftedPrompt]


def prompts_about(model: LanguageModel, general: Sequence[Fact], edited: Sequence[Fact], sentences: Sequence[str]) -> list[GroupedPrompt]:
    """All prompts about general facts, whose true object must come, and about edited ones, whose new object must."""
    groups = {GENERAL: {fact: fact.target_true for fact in general}, EDITED: {fact: fact.target_new for fact in edited}}
    return [(group, prompt) for group, answers in groups.items() for prompt in shifted_prompts(model, answers, sentences)]


def answers_to(model: EditedModel, prompts: Sequence[GroupedPrompt]) -> Iterator[Row]:
    """Whether a model gives each answer whole, and its mean negative log-likelihood per token."""
    if not prompts:
        return
    scores = model.score([one.prompt for _, one in prompts], [one.answer for _, one in prompts])
    for (group, one), right, nll in zip(prompts, scores.exact().tolist(), scores.mean_nll().tolist(), strict=True):
        yield {"group": group, "shift": one.shift, "fact_id": one.fact_id, "correct": bool(right), "nll": float(nll)}
