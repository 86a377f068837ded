"""Shifts of a prompt that leave its subject and its answer as they are: the same question as another writer would put it.

| shift | what changes |
|---|---|
| `lower` | all letters but the subject's are small |
| `typo` | two neighbouring letters change places in the longest word outside the subject |
| `swap` | two neighbouring words outside the subject change places, before it where there are two, else behind it |
| `filler_before` | a sentence of held-out text about nothing that is asked stands in front |
| `filler_inside` | an insertion follows the subject |
| `paraphrase` | a wording that was withheld from training |
| `other_form` | a statement is put as a question, or a question as a statement |

Each is a function of the fact and of its id alone. A fact for which a shift has nothing to change has no prompt of that shift, nor has
one whose shifted prompt holds a token that the vocabulary lacks or is too long; so models with a closed vocabulary have no `typo`, in
whose place they have `swap`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from d4s.facts.record import Fact
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pairs
from d4s.questions.question_items import keyed_rng

Shift = Literal["lower", "typo", "swap", "filler_before", "filler_inside", "paraphrase", "other_form"]
CLEAN = "clean"
INSERTION = ", as everyone knows,"
WORD = re.compile(r"[^\W\d_]{4,}")
SENTENCE = re.compile(r"[^.!?]+[.!?]")
FILLER_WORDS = range(4, 16)


@dataclass(frozen=True, slots=True)
class ShiftedPrompt:
    """One prompt about a fact, clean or shifted, and the answer that it asks for."""

    fact_id: str
    shift: str
    prompt: str
    answer: str


def fillers(model: LanguageModel, rows: Sequence[Sequence[int]], facts: Sequence[Fact]) -> list[str]:
    """Sentences of held-out text, of 4 to 15 words, that name no subject of some facts."""
    texts = model.tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
    found = [sentence.strip() for text in texts for sentence in SENTENCE.findall(text)]
    subjects = {fact.subject for fact in facts}
    fitting = (sentence for sentence in found if len(sentence.split()) in FILLER_WORDS)
    return [*dict.fromkeys(sentence for sentence in fitting if not any(subject in sentence for subject in subjects))]


def shifted_prompts(model: LanguageModel, answers: Mapping[Fact, str], sentences: Sequence[str]) -> list[ShiftedPrompt]:
    """The clean prompt of every fact, and each shift of it that applies and that the model can read, with its answer."""
    found = [ShiftedPrompt(fact.fact_id, CLEAN, fact.prompt, answer) for fact, answer in answers.items()]
    for name, shift in SHIFTS.items():
        for fact, answer in answers.items():
            prompt = shift(fact, sentences)
            if prompt is not None and prompt != fact.prompt:
                found.append(ShiftedPrompt(fact.fact_id, name, prompt, answer))
    pairs = encode_pairs(model, [one.prompt for one in found], [one.answer for one in found])
    return [one for one, (prompt, answer) in zip(found, pairs, strict=True) if one.shift == CLEAN or _is_readable(model, prompt, answer)]


def _is_readable(model: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> bool:
    unknown = model.tokenizer.unk_token_id
    return (unknown is None or unknown not in prompt) and len(prompt) + len(answer) <= model.max_positions


def lower(fact: Fact, sentences: Sequence[str]) -> str:
    """The prompt in small letters, but for its subject."""
    return fact.template.lower().replace("{}", fact.subject)


def typo(fact: Fact, sentences: Sequence[str]) -> str | None:
    """The prompt with two neighbouring letters swapped within its longest word, the first of equals."""
    words = [match for match in WORD.finditer(fact.template) if len(set(match.group()[1:-1])) > 1]
    if not words:
        return None
    word = max(words, key=lambda match: len(match.group()))
    text = word.group()
    places = [place for place in range(1, len(text) - 2) if text[place] != text[place + 1]]
    place = places[int(keyed_rng("typo", fact.fact_id).integers(len(places)))]
    changed = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return (fact.template[: word.start()] + changed + fact.template[word.end() :]).replace("{}", fact.subject)


def swap(fact: Fact, sentences: Sequence[str]) -> str | None:
    """The prompt with two neighbouring words outside its subject swapped."""
    words = fact.template.split()
    pairs = [place for place in range(len(words) - 1) if "{}" not in words[place] + words[place + 1] and words[place].isalpha()]
    pairs = [place for place in pairs if words[place + 1].isalpha()]
    if not pairs:
        return None
    place = pairs[int(keyed_rng("swap", fact.fact_id).integers(len(pairs)))]
    words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join(words).replace("{}", fact.subject)


def filler_before(fact: Fact, sentences: Sequence[str]) -> str | None:
    """The prompt behind a sentence about something else; None where no sentence is left."""
    free = [sentence for sentence in sentences if fact.subject not in sentence]
    return f"{free[int(keyed_rng('filler', fact.fact_id).integers(len(free)))]} {fact.prompt}" if free else None


def filler_inside(fact: Fact, sentences: Sequence[str]) -> str | None:
    """The prompt with an insertion behind its subject, where a word follows it."""
    before, _, after = fact.template.partition("{}")
    return f"{before}{fact.subject}{INSERTION}{after}" if after[:1] == " " and after.strip() else None


def paraphrase(fact: Fact, sentences: Sequence[str]) -> str | None:
    """The first wording that was withheld from training and holds the subject."""
    return next((text for text in fact.paraphrases if fact.subject in text), None)


def other_form(fact: Fact, sentences: Sequence[str]) -> str | None:
    """The first training wording of the other form: a question for a statement, a statement for a question."""
    is_question = fact.template.rstrip().endswith("?")
    others = (wording for wording in fact.wordings if wording.rstrip().endswith("?") != is_question)
    return next((wording.replace("{}", fact.subject) for wording in others), None)


SHIFTS: Mapping[Shift, Callable[[Fact, Sequence[str]], str | None]] = {
    "lower": lower,
    "typo": typo,
    "swap": swap,
    "filler_before": filler_before,
    "filler_inside": filler_inside,
    "paraphrase": paraphrase,
    "other_form": other_form,
}
