"""Templates of relations: pooled, cut out of paraphrases, and matched against prompts."""

from d4s.pretraining.relation_templates import parse_prompt, pool_templates, template_in


def test_a_template_begins_where_a_sentence_begins() -> None:
    templates = ("The capital of {} is", "{} has the capital")
    assert template_in("Long ago. The capital of Peru is", "Peru", templates) == "The capital of {} is"
    assert template_in("(b. Peru owns", "Peru", templates) == "{} owns"
    assert template_in("The capital city of Peru is", "Peru", templates) is None
    assert template_in("Nothing here", "Peru", templates) is None
    assert template_in("All about Peru", "Peru", templates) is None


def test_prompts_are_parsed_by_the_template_with_most_text() -> None:
    templates = ("{} is", "The capital of {} is", "{}, in")
    assert parse_prompt("The capital of Peru is", templates) == ("The capital of {} is", "Peru")
    assert parse_prompt("Peru is", templates) == ("{} is", "Peru")
    assert parse_prompt("Peru, in", templates) == ("{}, in", "Peru")
    assert parse_prompt("Peru was", templates) is None
    assert parse_prompt("is", templates) is None
    assert parse_prompt("The capital of  is", ("The capital of {} is",)) is None


def test_pools_hold_every_template_once() -> None:
    assert pool_templates([("r", "x"), ("s", "y"), ("r", "z"), ("r", "x")]) == {"r": ("x", "z"), "s": ("y",)}
