"""Which facts are asked in shifted prompts, with which answers."""

from dataclasses import replace

import pytest

from d4s.config import RobustnessSettings
from d4s.errors import SettingsError
from d4s.metrics.robustness import EDITED, GENERAL, TEXT, ShiftedQuestions, general_facts
from d4s.models.tokens import encode
from d4s.models.views import LiveModel
from tests.tiny import tiny_facts, tiny_model

FACTS = [replace(fact, editable=number >= 3) for number, fact in enumerate(tiny_facts(10))]
DRAWN = FACTS[3:]


def questions(**settings: int) -> ShiftedQuestions:
    model = tiny_model()
    text = [encode(model, "Ada Moss lives in the city of Paris ."), encode(model, "Ben Reed works as a pilot , is yes")]
    return ShiftedQuestions.of(RobustnessSettings(**settings), model, FACTS, DRAWN, text)


def test_general_facts_are_those_that_are_only_probed() -> None:
    assert general_facts(FACTS, DRAWN, 2) == FACTS[:2]
    assert general_facts(DRAWN, DRAWN, 2) == [DRAWN[-1], DRAWN[-2]]


def test_general_facts_keep_their_object_and_edited_ones_get_theirs() -> None:
    asked = questions()
    rows = [*asked.answers(LiveModel(asked.model), 2)]
    by_group = {group: {row["fact_id"] for row in rows if row["group"] == group} for group in (GENERAL, EDITED)}
    assert by_group == {GENERAL: {fact.fact_id for fact in FACTS[:3]}, EDITED: {fact.fact_id for fact in DRAWN[:2]}}
    clean = {row["fact_id"]: row["nll"] for row in rows if row["shift"] == "clean"}
    for facts, name in ((FACTS[:3], "target_true"), (DRAWN[:2], "target_new")):
        for fact in facts:
            loss = LiveModel(asked.model).score([fact.prompt], [getattr(fact, name)]).mean_nll()
            assert clean[fact.fact_id] == pytest.approx(float(loss), abs=1e-5)


def test_text_is_scored_by_the_loss_per_token() -> None:
    asked = questions(text_rows=1)
    (row,) = (row for row in asked.answers(LiveModel(asked.model), 0) if row["group"] == TEXT)
    assert (row["shift"], row["fact_id"], row["correct"]) == ("clean", "row 0", None)
    tokens = asked.text["clean"]
    assert row["nll"] == pytest.approx(float(LiveModel(asked.model).text_nll(tokens)[0]) / (len(tokens[0]) - 1))


def test_general_facts_that_are_edited_are_refused() -> None:
    model = tiny_model()
    asked = ShiftedQuestions.of(RobustnessSettings(facts=4), model, DRAWN, DRAWN, [encode(model, "Ada Moss works")])
    with pytest.raises(SettingsError, match=r"4 edits leave fewer than robustness\.facts=4 facts alone"):
        [*asked.answers(LiveModel(model), 4)]
    assert [*asked.answers(LiveModel(model), 3)]
