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

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from d4s.config import FreeAnswersSettings, PromptForm
from d4s.facts.record import Fact
from d4s.metrics.probes import Question, questions_of
from d4s.metrics.scoring import Row
from d4s.models.edited_model import EditedModel

AGAINST_TARGET = ("efficacy", "paraphrase")
KINDS = (*AGAINST_TARGET, "locality")
STOPS = (".", "\n")
FORMS: dict[PromptForm, str] = {"question_only": "{}", "qa_inst": "Please answer the question:\n\nQ: {}\nA:"}
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
REPEATED_WORDS, REPEATED_TIMES = 3, 3
Encode = Callable[[str], Sequence[int]]


def questions_about(facts: Sequence[Fact], probes_per_fact: int) -> list[Question]:
    """The questions about facts that are answered freely: efficacy, paraphrases and locality."""
    return [item for fact in facts for item in questions_of(fact, probes_per_fact) if item.kind in KINDS]


def whole_answers(model: EditedModel, questions: Sequence[Question], settings: FreeAnswersSettings) -> list[str]:
    """A model's answer to each question."""
    if not questions:
        return []
    prompts = [FORMS[settings.prompt].replace("{}", item.prompt) for item in questions]
    return [trimmed(text) for text in model.generate(prompts, settings.max_new_tokens, has_ended)]


def has_ended(_prompt: str, text: str) -> bool:
    """Whether a continuation has reached a stop."""
    return any(stop in text for stop in STOPS)


def trimmed(text: str) -> str:
    """A continuation without one stop of each kind at its end."""
    for stop in STOPS:
        text = text.removesuffix(stop)
    return text.strip()


def answer_row(question: Question, before: str, after: str, encode: Encode) -> Row:
    """A row of FREE_ANSWERS without `step`; `encode` gives the token ids of a text."""
    gold, ids = question.answer, encode(after)
    has_target = question.kind in AGAINST_TARGET and gold is not None
    return {
        "fact_id": question.fact_id,
        "kind": question.kind,
        "prompt_id": question.prompt_id,
        "prompt": question.prompt,
        "gold": gold,
        "before": before,
        "after": after,
        "wild_exact": is_exact(after, gold) if has_target else None,
        "contains": contains(after, gold) if has_target else None,
        "repeats": repeats(after),
        "length": len(ids),
        "same_tokens": None if question.kind in AGAINST_TARGET else shared_tokens(ids, encode(before)),
    }


def squad_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and then without articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def is_exact(answer: str, target: str) -> bool:
    """Whether a whole answer is a target."""
    words, expected = _compared(answer, target)
    return words == expected


def contains(answer: str, target: str) -> bool:
    """Whether the words of a target stand in an answer, next to each other."""
    words, expected = _compared(answer, target)
    return any(words[place : place + len(expected)] == expected for place in range(len(words) - len(expected) + 1))


def _compared(answer: str, target: str) -> tuple[list[str], list[str]]:
    """The words of both, as they are written where nothing else is left of the target."""
    expected = squad_words(target)
    return (squad_words(answer), expected) if expected else (answer.lower().split(), target.lower().split())


def repeats(answer: str) -> bool:
    """Whether some three words in a row stand at least three times in an answer."""
    return any(count >= REPEATED_TIMES for count in Counter(_word_runs(answer)).values())


def _word_runs(text: str) -> Iterator[tuple[str, ...]]:
    words = text.lower().translate(NO_PUNCTUATION).split()
    return (tuple(words[place : place + REPEATED_WORDS]) for place in range(len(words) - REPEATED_WORDS + 1))


def shared_tokens(ids: Sequence[int], others: Sequence[int]) -> float:
    """Share of places with equal ids, up to the end of the longer one; 1 where both are empty."""
    longest = max(len(ids), len(others))
    return sum(one == other for one, other in zip(ids, others, strict=False)) / longest if longest else 1.0


def stands_in(answer: str, target: str) -> bool:
    """The rule in the place of a judge: the target's words stand in the answer, which does not repeat itself."""
    return contains(answer, target) and not repeats(answer)
