"""Options that a reader could not tell apart are never offered together."""

from dataclasses import replace

from d4s.questions.draft_checks import draft_issues
from d4s.questions.event_templates import plain_form
from d4s.questions.question_items import Item, plan_items
from d4s.questions.writers import TemplateWriter
from tests.events import frame

TAILS = ("feel good", "feel good!", "drink a coke", "drink a Coke", "buy food", "go home", "sing")


def planned(*tails: str) -> list[Item]:
    return plan_items(frame(*((f"PersonX does thing{k}", "xEffect", tail) for k, tail in enumerate(tails))), 0)


def test_options_differ_in_more_than_case_and_punctuation() -> None:
    items = planned(*TAILS)
    assert len(items) == len(TAILS)
    for item in items:
        assert len(set(map(plain_form, item.options))) == 4 and item.options[item.answer] == item.tail


def test_tails_that_differ_in_no_more_do_not_count_as_choices() -> None:
    assert planned(*TAILS[:4], "buy food") == []


def test_tails_that_differ_leave_the_choice_as_it_was() -> None:
    assert planned("rest", "eat", "sing", "go home")[0].options == ("rest", "sing", "eat", "go home")


def test_options_that_are_alike_are_a_defect() -> None:
    item = planned("rest", "eat", "sing", "go home", "nap")[0]
    wrong = next(place for place in range(4) if place not in {item.answer, item.counterfactual})
    draft = TemplateWriter(0).write([item], "directly_generated")[0]
    assert draft_issues(item, draft) == []

    def offering(text: str) -> Item:
        return replace(item, options=tuple(text if place == wrong else option for place, option in enumerate(item.options)))

    assert any("must be distinct" in found for found in draft_issues(offering(f"{item.tail.upper()}!"), draft))
    aliased = replace(offering("Doze."), aliases=("doze", f"{item.tail}!"))
    assert any("is true as well" in found for found in draft_issues(aliased, draft))
    assert not any("is true as well" in found for found in draft_issues(replace(item, aliases=(f"{item.tail}!",)), draft))
    assert any("is true already" in found for found in draft_issues(item, replace(draft, aliases=(item.new_tail.upper(),))))
