"""Whole answers to raw prompts: what a model is asked, how far it writes, and the row that comes of it."""

from d4s.config import FreeAnswersSettings
from d4s.metrics.free_answers import FORMS, answer_row, questions_about, whole_answers
from d4s.metrics.probes import Question
from d4s.models.views import LiveModel
from tests.scripted import Writer
from tests.tiny import tiny_facts, tiny_model


def test_a_row_has_the_metrics_of_its_kind() -> None:
    def encode(text: str) -> list[int]:
        return [len(word) for word in text.split()]

    asked = Question("f", "efficacy", 0, "Ada lives in", "Rome")
    row = answer_row(asked, "Paris", "the Rome of old", encode)
    assert (row["wild_exact"], row["contains"], row["repeats"], row["length"], row["same_tokens"]) == (False, True, False, 4, None)
    near = answer_row(Question("f", "locality", 1, "Ben lives in", None), "Oslo now", "Bern then", encode)
    assert (near["gold"], near["wild_exact"], near["contains"], near["same_tokens"]) == (None, None, None, 0.5)


def test_prompts_are_put_raw_or_as_a_question_and_no_token_is_written_beyond_the_stop() -> None:
    facts = tiny_facts(2)
    asked = questions_about(facts, 1)
    assert {item.kind for item in asked} == {"efficacy", "paraphrase", "locality"}
    for form in ("question_only", "qa_inst"):
        model = Writer({FORMS[form].replace("{}", item.prompt): "in Rome . And so on" for item in asked})
        assert whole_answers(model, asked, FreeAnswersSettings(prompt=form)) == ["in Rome"] * len(asked)
    assert FORMS["qa_inst"].replace("{}", "Who?") == "Please answer the question:\n\nQ: Who?\nA:"
    assert whole_answers(model, [], FreeAnswersSettings()) == []


def test_answers_of_a_model_have_at_most_the_tokens_asked_for() -> None:
    model = tiny_model()
    asked = questions_about(tiny_facts(1), 1)
    for text in whole_answers(LiveModel(model), asked, FreeAnswersSettings(max_new_tokens=3)):
        assert len(model.tokenizer.encode(text, add_special_tokens=False)) <= 3
