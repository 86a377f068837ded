"""Checks of questions by any writer; issues are worded so that a writer can be given them as reasons."""

import re
from collections.abc import Iterator, Sequence

from d4s.questions.event_templates import CUE_END, LETTERS, NO, YES, format_options, plain_form
from d4s.questions.question_items import Item
from d4s.questions.writers import PARAPHRASES, Draft

MAX_CHARACTERS, MAX_OPTION = 400, 80
MARKUP = re.compile(r"[<>`*_|\\\[\]{}#]|https?:|www\.")
YES_OR_NO = re.compile(rf"\b({YES} or {NO}|{NO} or {YES})\b")
NEGATIONS = frozenset("not never false wrong untrue incorrect unlikely impossible without neither nor cannot".split())
LETTER = re.compile(r"\b[a-d]\)|\b(?:answer|option|letter) (?:is )?[a-d]\b")


def draft_issues(item: Item, draft: Draft) -> list[str]:
    """Everything that is wrong with a draft; empty when it is valid."""
    return [*_item_issues(item), *_template_issues(item, draft), *_target_issues(item, draft)]


def _item_issues(item: Item) -> Iterator[str]:
    if len(set(map(plain_form, item.options))) != len(item.options) or item.options[item.answer] != item.tail:
        yield f"the options {list(item.options)} must be distinct and hold the true tail {item.tail!r} exactly once"
    true = set(map(plain_form, item.aliases))
    if any(plain_form(option) in true for place, option in enumerate(item.options) if place != item.answer):
        yield "an option beside the right one is true as well"
    for what, text in (("head", item.head), *(("tail", option) for option in item.options)):
        if not text or "{" in text or "}" in text or "___" in text or text == "none":
            yield f"the {what} {text!r} is empty or holds a blank"


def _template_issues(item: Item, draft: Draft) -> Iterator[str]:
    templates = (draft.template, *draft.wordings, *draft.paraphrases)
    if len({plain_form(template) for template in templates}) != len(templates):
        yield "two wordings are the same"
    if len(draft.paraphrases) != PARAPHRASES:
        yield f"{len(draft.paraphrases)} paraphrases, expected {PARAPHRASES}"
    for template in templates:
        prompt = template.replace("{}", item.head)
        if template.count("{}") != 1 or prompt.count(item.head) != 1:
            yield f"the wording {template!r} must name the subject {item.head!r} exactly once"
        if len(prompt) > MAX_CHARACTERS:
            yield f"the wording {template[:40]!r}... has {len(prompt)} characters, at most {MAX_CHARACTERS} are allowed"
        if draft.form in {"true_false", "multiple_choice"} and not template.endswith(CUE_END):
            yield f"the wording {template[-40:]!r} must end in{CUE_END!r}, so that its label is the next word"
        if draft.form == "directly_generated" and any(f" {tail} " in f" {prompt} " for tail in (draft.target_true, draft.target_new)):
            yield f"the wording {template!r} leaks an answer"
        yield from _wording_issues(item, draft, template)


def _wording_issues(item: Item, draft: Draft, template: str) -> Iterator[str]:
    """Issues of the writer's own words: without the subject, the stated tail, and the list of options."""
    shown = f"the wording {template[:60]!r}"
    given = {"true_false": item.stated_tail, "multiple_choice": format_options(draft.options or item.options)}.get(draft.form)
    own = template.replace("{}", " ", 1)
    if given is not None:
        if draft.form == "true_false" and own.count(given) != 1:
            yield f"{shown} must state {given!r} exactly once"
        own = own.replace(given, " ", 1)
    if MARKUP.search(own) or not own.isprintable():
        yield f"{shown} holds markup or control characters"
    if _contains_words(own, item.head):
        yield f"{shown} repeats the subject {item.head!r}"
    if draft.form == "true_false":
        words = set(plain_form(YES_OR_NO.sub(" ", own.lower())).split())
        if words & {YES, NO}:
            yield f"{shown} leaks an answer"
        if words & NEGATIONS or "n't" in own:
            yield f"{shown} turns the question round"
    elif draft.form == "multiple_choice":
        if LETTER.search(own.lower()) or any(_contains_words(own, option) for option in (item.tail, item.new_tail)):
            yield f"{shown} leaks an answer"
    elif any(_contains_words(own, tail) for tail in (draft.target_true, draft.target_new, *draft.aliases)):
        yield f"{shown} leaks an answer"


def _target_issues(item: Item, draft: Draft) -> Iterator[str]:
    if plain_form(draft.target_new) in map(plain_form, (draft.target_true, *draft.aliases)):
        yield f"the new target {draft.target_new!r} is true already"
    legal = {"true_false": (YES, NO), "multiple_choice": LETTERS, "directly_generated": item.options}[draft.form]
    for target in (draft.target_true, draft.target_new):
        if target not in legal:
            yield f"the target {target!r} is none of {list(legal)}"
    if draft.form == "multiple_choice":
        yield from _option_issues(item, draft)


def _option_issues(item: Item, draft: Draft) -> Iterator[str]:
    options = draft.options or item.options
    for template in (draft.template, *draft.wordings, *draft.paraphrases):
        for letter, option in zip(LETTERS, options, strict=True):
            if template.count(f"{letter}) {option}") != 1:
                yield f"the wording {template[:40]!r}... must offer {letter}) {option!r} exactly once"
    if draft.options:
        yield from _distractor_issues(item, draft.options)


def _distractor_issues(item: Item, options: Sequence[str]) -> Iterator[str]:
    """Issues of options that are not the item's own."""
    if options[item.answer] != item.tail or options[item.counterfactual] != item.new_tail:
        yield f"the options {list(options)} moved the right answer or the new one"
    if len({plain_form(option) for option in options}) != len(options):
        yield f"the options {list(options)} are not distinct"
    true = (item.tail, *item.aliases)
    for place, option in enumerate(options):
        if place in {item.answer, item.counterfactual}:
            continue
        if any(_contains_words(option, tail) or _contains_words(tail, option) for tail in true):
            yield f"the distractor {option!r} may be right as well"
        if _contains_words(option, item.head) or MARKUP.search(option) or not 1 < len(option) <= MAX_OPTION:
            yield f"the distractor {option[:MAX_OPTION]!r} names the subject, holds markup, or is not of 2 to {MAX_OPTION} characters"


def _contains_words(text: str, part: str) -> bool:
    """Whether a text has all words of another in a row, ignoring case and punctuation."""
    return f" {plain_form(part)} " in f" {plain_form(text)} "
