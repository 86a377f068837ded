"""The stage `problem`: the facts of a data set as requests of another problem (Hase et al. 2023, section 5).

Error injection asks for a new answer and is what facts are anyway. Fact amplification asks for the present one, `target_true`. Tracing
reversal asks for the greedy answer to the noised prompt, as many tokens as the true answer has and at most five; a fact whose noised
answer is the clean one, or no text, is no request of it and stays as a probe. Erasure and forcing ask as amplification does: an editor
erases (`objective: erase`), or starts from the noised prompt (`noise_subject`).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from d4s.artifacts import StageJob, write_table
from d4s.config import NoiseSettings, ProblemSettings
from d4s.editors.prompts import PromptTooLong
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame, to_rows
from d4s.log import progress
from d4s.metrics.generation import normalise_words
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.subject_noise import noised_answer
from d4s.models.tokens import encode_pair, subject_tokens
from d4s.schemas import FACTS

log = logging.getLogger(__name__)
LONGEST_REVERSAL = 5  # tokens


def problem(job: StageJob[ProblemSettings]) -> None:
    """Write the facts of a data set with the targets of a problem.

    Raises:
        SettingsError: if no fact can be a request of it.
    """
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    noise = job.settings.noise
    changed = [*map(amplified, facts)] if noise is None else [*reversed_facts(job.read_once("model", load), facts, noise)]
    refused = [old.fact_id for old, new in zip(facts, changed, strict=True) if old.editable and not new.editable]
    if not any(fact.editable for fact in changed):
        raise SettingsError(f"no fact can be a request of {job.settings.problem}: the noised prompts are answered as the clean ones")
    write_table(job.path("facts.parquet"), to_rows(changed), FACTS)
    log.info("%s: %d facts, %d refused", job.settings.problem, len(changed), len(refused))
    job.write_manifest(["facts.parquet"], refused=refused)


def amplified(fact: Fact) -> Fact:
    """A fact whose target is its present answer; one without a known answer can only be a probe."""
    return replace(fact, target_new=fact.target_true, editable=fact.editable and bool(fact.target_true.strip()), problem="amplification")


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
    return str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()
