"""Facts of tracing reversal: the target is what the model answers, greedily, to the noised prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from d4s.config import NoiseSettings
from d4s.editors.prompts import PromptTooLong
from d4s.facts.record import Fact
from d4s.log import progress
from d4s.metrics.generation import normalise_words
from d4s.models.language_model import LanguageModel
from d4s.models.subject_noise import noised_answer
from d4s.models.tokens import encode_pair, subject_tokens

LONGEST_REVERSAL = 5  # tokens


def reversed_facts(model: LanguageModel, facts: Sequence[Fact], noise: NoiseSettings) -> Iterator[Fact]:
    """Facts whose target is the answer to the noised prompt, in order.

    Raises:
        PromptTooLong: if a prompt with its answer exceeds the model's context.
    """
    for fact in progress(facts, "noised answers", len(facts)):
        target = _noised_target(model, fact, noise) if fact.editable and fact.target_true.strip() else ""
        if target:
            yield replace(fact, target_new=target, problem="reversal")
        else:
            yield replace(fact, editable=False, problem="reversal")


def _noised_target(model: LanguageModel, fact: Fact, noise: NoiseSettings) -> str:
    """The answer to the noised prompt; empty where it is the clean or the true answer.

    Raises:
        PromptTooLong: if the prompt with its answer exceeds the model's context.
    """
    prompt, answer = encode_pair(model, fact.prompt, fact.target_true)
    if len(prompt) + len(answer) > model.max_edit_tokens:
        raise PromptTooLong(f"fact {fact.fact_id}: prompt and answer have {len(prompt) + len(answer)} tokens, too many for the model")
    subject = subject_tokens(model, fact.prompt, fact.subject, fact.template)
    clean, noised = (
        _text(model, noised_answer(model, prompt, subject, level, min(len(answer), LONGEST_REVERSAL)))
        for level in (noise.model_copy(update={"scale": 0.0}), noise)
    )
    is_new = normalise_words(noised) not in (normalise_words(clean), normalise_words(fact.target_true))
    return noised if is_new and normalise_words(noised) else ""


def _text(model: LanguageModel, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode([*ids], skip_special_tokens=True)).strip()
