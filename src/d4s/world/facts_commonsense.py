"""Style `commonsense`, the counterpart of an if-then collection (ATOMIC): an event, and the phrase that follows from it."""

from dataclasses import replace

from d4s.artifacts import Artifact
from d4s.config import Form, QuestionsSettings
from d4s.facts.facts_stage import ReadResult, RecordSource, result_of_facts
from d4s.questions.question_facts import form_facts, valid_drafts
from d4s.questions.question_items import plan_items
from d4s.questions.writers import template_writer
from d4s.schemas import EVENTS

FORM: Form = "directly_generated"


def read(source: RecordSource) -> ReadResult:
    """The facts of the generated form, as a data set of their own; the model is trained on them through that form."""
    events = Artifact.open(source.path, "worlds").table("events.parquet", EVENTS)
    items = plan_items(events, source.seed)
    drafts = valid_drafts(items, template_writer(QuestionsSettings(form=FORM, seed=source.seed)))
    chosen = [item for item in items if item.event_id in drafts]
    facts = form_facts(chosen, {key: forms[FORM] for key, forms in drafts.items()}, source.seed)
    return result_of_facts(
        [replace(fact, fact_id=f"world_commonsense:{fact.group}", dataset="world_commonsense") for fact in facts], source.limit
    )
