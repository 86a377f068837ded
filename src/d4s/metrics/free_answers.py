r"""Whole answers to raw prompts, as a user would hear them: the protocol of WILD (Yang et al. 2025), without its judge.

A model continues the prompt greedily until a full stop, a line break, the end-of-text token or a number of tokens. The answer is the
continuation, less one full stop and then one line break at its end.

| metric | of | meaning |
|---|---|---|
| `wild_exact` | efficacy, paraphrase | the whole answer is the target, without case, punctuation and articles (Rajpurkar et al. 2016) |
| `contains` | efficacy, paraphrase | the target's words stand in the answer, next to each other |
| `same_tokens` | locality | share of places, up to the end of the longer answer, with the unedited model's token |
| `repeats` | all | some three words in a row stand at least three times in the answer |
| `length` | all | tokens of the answer |

A target of articles or punctuation alone, such as the label `a`, is compared as it is written. `generated` of `d4s.metrics.scoring` is
another reading: there an answer needs only to begin with the target.
"""

from collections.abc import Callable, Sequence

from d4s.config import FreeAnswersSettings, PromptForm
from d4s.facts.record import Fact
from d4s.metrics.answer_texts import AGAINST_TARGET, KINDS, contains, has_ended, is_exact, repeats, shared_tokens, trimmed
from d4s.metrics.probes import Question, questions_of
from d4s.metrics.scoring import Row
from d4s.models.edited_model import EditedModel

FORMS: dict[PromptForm, str] = {"question_only": "{}", "qa_inst": "Please answer the question:\n\nQ: {}\nA:"}
Encode = Callable[[str], Sequence[int]]


def questions_about(facts: Sequence[Fact], probes_per_fact: int) -> list[Question]:
    """The questions about facts that are answered freely: efficacy, paraphrases and locality."""
    return [item for fact in facts for item in questions_of(fact, probes_per_fact) if item.kind in KINDS]


def whole_answers(model: EditedModel, questions: Sequence[Question], settings: FreeAnswersSettings) -> list[str]:
    """A model's answer to each question."""
    if not questions:
        return []
    prompts = [FORMS[settings.prompt].replace("{}", item.prompt) for item in questions]
    return [trimmed(text) for text in model.generate(prompts, settings.max_new_tokens, lambda _, text: has_ended(text))]


def answer_row(question: Question, before: str, after: str, encode: Encode) -> Row:
    """A row of FREE_ANSWERS without `step`; `encode` gives the token ids of a text."""
    ids, is_compared = encode(after), question.kind in AGAINST_TARGET
    target = (question.answer or "").strip() if is_compared else ""
    return {
        "fact_id": question.fact_id,
        "kind": question.kind,
        "prompt_id": question.prompt_id,
        "prompt": question.prompt,
        "gold": question.answer,
        "before": before,
        "after": after,
        "wild_exact": is_exact(after, target) if target else None,
        "contains": contains(after, target) if target else None,
        "repeats": repeats(after),
        "length": len(ids),
        "same_tokens": None if is_compared else shared_tokens(ids, encode(before)),
    }
