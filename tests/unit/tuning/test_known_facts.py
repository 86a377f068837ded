"""Facts of a table that a model knows, with new targets and probes that are not edited."""

import pytest

from d4s.errors import SettingsError
from d4s.facts.record import Fact
from d4s.models.views import LiveModel
from d4s.tuning.common_relations import COMMON_RELATIONS, Relation
from d4s.tuning.known_facts import KNOWN_PROBABILITY, _facts_of, _known_subjects, check_facts, known_facts
from tests.tiny import CITIES, FIRST, LAST, tiny_facts, tiny_model

MODEL = tiny_model()
PEOPLE = [f"{first} {last}" for last in LAST[:2] for first in FIRST]
WORDING = "{} lives in the city of"


def relation() -> Relation:
    """What the model says of half of the people, and a city that it does not say of the others."""
    prompts = [WORDING.replace("{}", person) for person in PEOPLE]
    answers = LiveModel(MODEL).generate(prompts, 1)
    objects = {
        person: answer.strip() if number % 2 else next(city for city in CITIES if city not in answer)
        for number, (person, answer) in enumerate(zip(PEOPLE, answers, strict=True))
    }
    return Relation("home", WORDING, ("The home town of {} is", "Where does {} live ?"), objects)


def test_only_facts_that_the_model_knows_are_taken() -> None:
    table = relation()
    (known,) = _known_subjects(MODEL, [table])
    prompts = [WORDING.replace("{}", person) for person in PEOPLE]
    scores = LiveModel(MODEL).score(prompts, [table.objects[person] for person in PEOPLE])
    is_likely = ((-scores.joint_nll()).exp() >= KNOWN_PROBABILITY).tolist()
    answers = {person for number, person in enumerate(PEOPLE) if number % 2}
    assert known == [person for person, likely in zip(PEOPLE, is_likely, strict=True) if likely or person in answers]
    assert answers <= {*known} < {*PEOPLE}


def test_a_third_of_the_subjects_is_never_edited_and_probes_the_others() -> None:
    table = Relation("home", WORDING, ("The home town of {} is", "Where does {} live ?"), dict(zip(PEOPLE, CITIES * 2, strict=True)))
    facts = _facts_of(table, PEOPLE)
    assert len(facts) == 11 and len({fact.subject for fact in facts}) == 11
    for fact in facts:
        assert fact.target_true == table.objects[fact.subject] != fact.target_new and fact.target_new in CITIES
        assert len(fact.paraphrases) == 2 and all(fact.subject in text for text in fact.paraphrases)
        assert len(fact.neighborhood) == 2 and not {probe.prompt for probe in fact.neighborhood} & {one.prompt for one in facts}
    assert _facts_of(table, PEOPLE[:2]) == [], "two known subjects leave none to probe"


def test_words_that_the_tokenizer_does_not_know_are_no_facts() -> None:
    assert known_facts(MODEL) == []


def test_the_table_is_sound() -> None:
    for one in COMMON_RELATIONS:
        assert all(text.count("{}") == 1 for text in (one.wording, *one.paraphrases)), one.name
        assert len(one.objects) >= 10 and len({*one.objects.values()}) >= 3, one.name
        assert all(text == text.strip() and text for pair in one.objects.items() for text in pair), one.name


def test_facts_that_cannot_be_measured_are_refused_by_name() -> None:
    facts = tiny_facts(6)
    check_facts(facts, "here")
    with pytest.raises(SettingsError, match="here: 5 facts to tune with, at least 6"):
        check_facts(facts[:5], "here")
    plain = Fact("x", "tiny", "city", "Ada Moss", WORDING, "Paris", "Rome")
    with pytest.raises(SettingsError, match=r"Without such a paraphrase: \['Ada Moss lives in the city of'\]"):
        check_facts([*facts, plain], "here")
