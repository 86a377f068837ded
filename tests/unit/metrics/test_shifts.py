"""Shifts of prompts: the subject and the answer stay, equal facts give equal prompts, and what a model cannot read is left out."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from d4s.facts.record import Fact
from d4s.metrics.shifts import CLEAN, SHIFTS, fillers, lower, other_form, paraphrase, shifted_prompts, swap, typo
from d4s.world.relations import RELATIONS
from tests.tiny import bpe_tokenizer, tiny_facts, tiny_model, vocabulary, word_tokenizer

SENTENCES = ["The pilot has an old home .", "Ben Reed is a pilot ."]
FACT = tiny_facts(1)[0]


def facts_in_all_wordings() -> Iterator[Fact]:
    """A fact of the world per wording, the others of its relation as training wordings and one withheld."""
    for relation in RELATIONS:
        for number, template in enumerate(relation.wordings):
            others = [wording for wording in relation.wordings if wording != template]
            subject = "Ada McMoor"
            yield replace(
                FACT,
                fact_id=f"{relation.name}.{number}",
                relation=relation.name,
                subject=subject,
                template=template,
                wordings=tuple(others[1:]),
                paraphrases=(others[0].replace("{}", subject),),
            )


@pytest.mark.parametrize("shift", list(SHIFTS))
def test_every_shift_keeps_the_subject_in_all_wordings(shift: str) -> None:
    changed = 0
    for fact in facts_in_all_wordings():
        prompt = SHIFTS[shift](fact, SENTENCES)
        if prompt is not None:
            changed += prompt != fact.prompt
            assert prompt.count(fact.subject) == 1, prompt
            assert prompt == SHIFTS[shift](fact, SENTENCES)
    assert changed >= 5


def test_answers_stay_and_every_fact_has_its_clean_prompt() -> None:
    model = tiny_model(tokenizer=bpe_tokenizer(bos=True), positions=96)
    answers = {fact: fact.target_true for fact in tiny_facts(6)}
    found = shifted_prompts(model, answers, SENTENCES)
    by_fact = {fact.fact_id: fact.target_true for fact in answers}
    assert all(one.answer == by_fact[one.fact_id] for one in found)
    assert [one.prompt for one in found if one.shift == CLEAN] == [fact.prompt for fact in answers]
    assert {one.shift for one in found} == {CLEAN, *SHIFTS} - {"lower", "other_form"}  # nothing to lower, and no other form


def test_lowering_is_idempotent() -> None:
    fact = replace(FACT, template="Where Does {} Live ?")
    once = lower(fact, ())
    assert once == f"where does {fact.subject} live ?"
    assert lower(replace(fact, template=once.replace(fact.subject, "{}")), ()) == once


def test_a_typo_changes_two_letters_outside_the_subject() -> None:
    for fact in facts_in_all_wordings():
        found = typo(fact, ())
        if found is not None:
            assert sorted(found) == sorted(fact.prompt) and len(found) == len(fact.prompt)
            assert sum(a != b for a, b in zip(found, fact.prompt, strict=True)) == 2


def test_a_swap_changes_the_order_of_words_alone() -> None:
    for fact in facts_in_all_wordings():
        found = swap(fact, ())
        assert found is None or sorted(found.split()) == sorted(fact.prompt.split())
    assert swap(replace(FACT, template="{}:"), ()) is None


def test_the_other_form_of_a_statement_is_a_question() -> None:
    fact = replace(FACT, wordings=("{} works in", "Where does {} live ?"))
    assert other_form(fact, ()) == f"Where does {FACT.subject} live ?"
    assert other_form(replace(fact, template="What of {} ?"), ()) == f"{FACT.subject} works in"
    assert other_form(replace(fact, wordings=()), ()) is None
    assert paraphrase(replace(FACT, paraphrases=("nobody", f"{FACT.subject} is")), ()) == f"{FACT.subject} is"


def test_a_prompt_that_the_vocabulary_cannot_write_or_that_is_too_long_is_left_out() -> None:
    facts = {fact: fact.target_true for fact in tiny_facts(3)}
    closed = shifted_prompts(tiny_model(tokenizer=word_tokenizer()), facts, SENTENCES)
    assert "typo" not in {one.shift for one in closed} and "everyone" not in vocabulary()
    assert "filler_inside" not in {one.shift for one in closed} and "filler_before" in {one.shift for one in closed}
    short = shifted_prompts(tiny_model(tokenizer=word_tokenizer(), positions=10), facts, SENTENCES)
    assert "filler_before" not in {one.shift for one in short} and CLEAN in {one.shift for one in short}


def test_sentences_in_front_name_no_subject() -> None:
    model = tiny_model()
    rows = [model.tokenizer(" ".join(SENTENCES), add_special_tokens=False)["input_ids"]]
    assert len(fillers(model, rows, [])) == 2
    (left,) = fillers(model, rows, [replace(FACT, subject="Ben Reed")])
    assert "Ben Reed" not in left
