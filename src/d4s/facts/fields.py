"""What readers share: answers in their several shapes, a subject cut out of its text, and the flaws of every edit."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from d4s.facts.jsonl import Issue, Raw, Text, shorten, subject_issues, template_issues
from d4s.facts.record import Portability, Probe, ProbeKind

SLOT = "{}"


def flatten(value: Any) -> Any:
    """Texts of nested lists in one tuple, blank ones left out; one text alone is a list of one, null an empty one."""
    if value is None:
        return ()
    if not isinstance(value, list):
        return () if isinstance(value, str) and not value.strip() else (value,)
    return tuple(text for part in value for text in flatten(part))


Answers = Annotated[tuple[Text, ...], BeforeValidator(flatten)]
"""Answers that stand as text, list or list of lists; there may be none."""


class Target(Raw):
    """An object, beside whatever identifies it."""

    str: Text


def as_template(text: str, subject: str) -> str:
    """A text with a place for its subject, which `slot_issues` has found to be certain."""
    return text if SLOT in text else text.replace(subject, SLOT, 1)


def slot_issues(field: str, text: str, subject: str) -> Iterator[Issue]:
    """Whether a prompt has one place for its subject: a `{}`, or the subject itself exactly once."""
    if SLOT in text:
        yield from template_issues(field, text)
    else:
        yield from subject_issues(field, text, subject)
    if {"{", "}"} & set(subject):
        yield Issue("subject", shorten(subject), "a subject without braces")


def no_op_issues(field: str, new: str, true: Iterable[str]) -> Iterator[Issue]:
    """Whether an edit changes anything: a new target that differs from a true one in case alone is no new target."""
    if new.casefold() in {answer.casefold() for answer in true}:
        yield Issue(field, shorten(new), "an answer that is not true already: the edit changes nothing")


def probes(kind: ProbeKind, prompts_and_answers: Iterable[tuple[str, Sequence[str]]]) -> Iterator[Probe]:
    """Probes with a gold answer, the first of those given; a prompt without answers is left out."""
    for prompt, answers in prompts_and_answers:
        if prompt and answers:
            yield Probe(kind, prompt, answers[0])


def portability(kind: str, prompts_and_answers: Iterable[tuple[str, Sequence[str]]]) -> Iterator[Portability]:
    """Prompts whose answer follows from the new fact; a prompt without answers is left out."""
    for prompt, answers in prompts_and_answers:
        if prompt and answers:
            yield Portability(kind, prompt, tuple(dict.fromkeys(answers)))
