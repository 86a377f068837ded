"""Every question is checked, whoever wrote it: what is wrong with a draft, in words that a writer could be asked again with."""

from collections.abc import Iterator

from d4s.questions.items import Item
from d4s.questions.wordings import LETTERS, NO, YES
from d4s.questions.writers import PARAPHRASES, Draft

MAX_CHARACTERS = 400


def defects(item: Item, draft: Draft) -> list[str]:
    """Everything that is wrong with a draft; empty when it is sound."""
    return [*_item_defects(item), *_template_defects(item, draft), *_target_defects(item, draft)]


def _item_defects(item: Item) -> Iterator[str]:
    if len(set(item.options)) != len(item.options) or item.options.count(item.tail) != 1 or item.options[item.answer] != item.tail:
        yield f"the options {list(item.options)} must be distinct and hold the true tail {item.tail!r} exactly once"
    if any(option in item.aliases for option in item.options):
        yield "an option beside the right one is true as well"
    for what, text in (("head", item.head), *(("tail", option) for option in item.options)):
        if not text or "{" in text or "}" in text or "___" in text or text == "none":
            yield f"the {what} {text!r} is empty or holds a blank"


def _template_defects(item: Item, draft: Draft) -> Iterator[str]:
    templates = (draft.template, *draft.wordings, *draft.paraphrases)
    if len(set(templates)) != len(templates):
        yield "two wordings are the same"
    if len(draft.paraphrases) != PARAPHRASES:
        yield f"{len(draft.paraphrases)} paraphrases, expected {PARAPHRASES}"
    for template in templates:
        prompt = template.replace("{}", item.head)
        if template.count("{}") != 1 or prompt.count(item.head) != 1:
            yield f"the wording {template!r} must name the subject {item.head!r} exactly once"
        if len(prompt) > MAX_CHARACTERS:
            yield f"the wording {template[:40]!r}... has {len(prompt)} characters, at most {MAX_CHARACTERS} are allowed"
        if draft.form == "directly_generated" and any(f" {tail} " in f" {prompt} " for tail in (draft.target_true, draft.target_new)):
            yield f"the wording {template!r} leaks an answer"


def _target_defects(item: Item, draft: Draft) -> Iterator[str]:
    if draft.target_new == draft.target_true or draft.target_new in draft.aliases:
        yield f"the new target {draft.target_new!r} is true already"
    legal = {"true_false": (YES, NO), "multiple_choice": LETTERS, "directly_generated": item.options}[draft.form]
    for target in (draft.target_true, draft.target_new):
        if target not in legal:
            yield f"the target {target!r} is none of {list(legal)}"
    if draft.form == "multiple_choice":
        yield from _option_defects(item, draft)


def _option_defects(item: Item, draft: Draft) -> Iterator[str]:
    for template in (draft.template, *draft.wordings, *draft.paraphrases):
        for letter, option in zip(LETTERS, item.options, strict=True):
            if template.count(f"{letter}) {option}") != 1:
                yield f"the wording {template[:40]!r}... must offer {letter}) {option!r} exactly once"
