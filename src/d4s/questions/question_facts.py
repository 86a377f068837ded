"""Stage `questions`: facts of one form from if-then events, with the source of every question."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd

from d4s.artifacts import StageJob, write_table
from d4s.config import FORMS, Form, QuestionsSettings
from d4s.errors import MissingAnswersError
from d4s.facts.event_readers import EVENT_READERS
from d4s.facts.record import Fact, Probe, to_rows
from d4s.questions.draft_checks import draft_issues
from d4s.questions.question_items import Item, keyed_rng, plan_items
from d4s.questions.target_controls import apply_control, is_control
from d4s.questions.writers import Draft, Writer, make_writer
from d4s.schemas import EVENTS, FACTS, PROVENANCE, USAGE

log = logging.getLogger(__name__)
NEIGHBOURS = 2
COST_COLUMNS = {"requests": "calls", "retries": "retries", "tokens_in": "paid_tokens_in", "tokens_out": "paid_tokens_out"}
"""Columns of the costs, by the counts of a writer's usage."""


def questions(job: StageJob[QuestionsSettings]) -> None:
    """Write facts.parquet and provenance.parquet of one form.

    The same settings with another form give facts about the same events under the same ids, so that forms are compared
    pairwise: an event that fails a check in one form is left out of all.
    """
    settings = job.settings
    writer = make_writer(settings)
    items = plan_items(_events(job), settings.seed)
    try:
        drafts = valid_drafts(items, writer)
    finally:
        for found in writer.usage.values():
            job.usage.update({paid: found.get(name, 0) for paid, name in COST_COLUMNS.items()})
    log.info("%d of %d events pass the checks in every form", len(drafts), len(items))
    chosen = [item for item in items if item.event_id in drafts]
    form_drafts = _drafts_of_form(chosen, drafts, settings)
    facts = form_facts(chosen, form_drafts, settings.seed)[: settings.limit]
    write_table(job.path("facts.parquet"), to_rows(facts), FACTS)
    rows = [_provenance(fact, item, form_drafts[item.event_id]) for fact, item in zip(facts, chosen, strict=False)]
    write_table(job.path("provenance.parquet"), rows, PROVENANCE)
    files = ["facts.parquet", "provenance.parquet"]
    if writer.usage:
        files.append("usage.parquet")
        write_table(job.path(files[-1]), _usage(writer), USAGE)
    job.write_manifest(files, events=len(items), passed=len(drafts))


def _drafts_of_form(items: Sequence[Item], drafts: Mapping[str, Mapping[Form, Draft]], settings: QuestionsSettings) -> dict[str, Draft]:
    """The drafts of the requested form by event; a control has those of the generated form with other new targets."""
    if is_control(settings.form):
        return apply_control(items, {event: forms["directly_generated"] for event, forms in drafts.items()}, settings.form, settings.seed)
    return {event: forms[settings.form] for event, forms in drafts.items()}


def _events(job: StageJob[QuestionsSettings]) -> pd.DataFrame:
    if job.settings.events == "world":
        return job.artifact("world", "worlds").table("events.parquet", EVENTS)
    return EVENT_READERS.load(job.settings.events)(job.inputs["records"])


def valid_drafts(items: Sequence[Item], writer: Writer) -> dict[str, dict[Form, Draft]]:
    """Drafts by event and form, for the items that pass every check in all forms."""
    by_form = _write_forms(items, writer)
    found: dict[str, dict[Form, Draft]] = {}
    prompts: set[str] = set()
    for index, item in enumerate(items):
        drafts: dict[Form, Draft] = {form: by_form[form][index] for form in FORMS}
        wrong = [problem for draft in drafts.values() for problem in draft_issues(item, draft)]
        own_prompts = {draft.template.replace("{}", item.head) for draft in drafts.values()}
        if wrong or own_prompts & prompts:
            log.debug("%s is left out: %s", item.event_id, "; ".join(wrong) or "asked before")
            continue
        prompts |= own_prompts
        found[item.event_id] = drafts
    return found


def _write_forms(items: Sequence[Item], writer: Writer) -> dict[Form, list[Draft]]:
    """Drafts of all items in each form.

    Raises:
        MissingAnswersError: naming what is missing in all forms.
    """
    found: dict[Form, list[Draft]] = {}
    missing: list[str] = []
    for form in FORMS:
        try:
            found[form] = writer.write(items, form)
        except MissingAnswersError as error:
            missing.extend(error.requests)
    if missing:
        raise MissingAnswersError(missing)
    return found


def form_facts(items: Sequence[Item], drafts: Mapping[str, Draft], seed: int) -> list[Fact]:
    """Facts of one form in the order of their items; probes have the same form and are about bystanders where there are any."""
    by_relation: dict[str, list[Item]] = defaultdict(list)
    by_head: dict[str, list[Item]] = defaultdict(list)
    bystanders = [item for item in items if item.bystander] or list(items)
    for item in bystanders:
        by_relation[item.relation].append(item)
    for item in items:
        by_head[item.head].append(item)
    return [_fact(item, drafts, by_relation, by_head[item.head], seed) for item in items]


def _fact(item: Item, drafts: Mapping[str, Draft], by_relation: Mapping[str, Sequence[Item]], same: Sequence[Item], seed: int) -> Fact:
    draft = drafts[item.event_id]
    rng = keyed_rng("probes", seed, item.event_id)
    near = [other for other in by_relation.get(item.relation, ()) if other.head != item.head]
    far = [other for name, others in by_relation.items() for other in others if name != item.relation and other.head != item.head]
    own = [other for other in same if other.relation != item.relation]
    chosen = [
        *(("neighborhood", near[int(k)]) for k in rng.permutation(len(near))[:NEIGHBOURS]),
        *(("unrelated", far[int(k)]) for k in rng.permutation(len(far))[:1]),
        *(("same_subject", own[int(k)]) for k in rng.permutation(len(own))[:1]),
    ]
    return Fact(
        fact_id=f"mqd:{item.event_id}",
        dataset=f"mqd_{draft.form}",
        relation=item.relation,
        subject=item.head,
        template=draft.template,
        target_true=draft.target_true,
        target_new=draft.target_new,
        target_true_aliases=draft.aliases,
        paraphrases=tuple(template.replace("{}", item.head) for template in draft.paraphrases),
        neighborhood=tuple(_probe(kind, other, drafts[other.event_id]) for kind, other in chosen),
        wordings=draft.wordings,
        editable=not item.bystander,
        group=item.event_id,
    )


def _probe(kind: str, item: Item, draft: Draft) -> Probe:
    prompt = draft.template.replace("{}", item.head)
    if kind == "unrelated":
        return Probe("unrelated", prompt, draft.target_true, "pre_edit")
    return Probe("same_subject" if kind == "same_subject" else "neighborhood", prompt, draft.target_true)


def _usage(writer: Writer) -> list[dict[str, str | int]]:
    return [
        {"form": form, "quantity": name, "value": value}
        for form, found in writer.usage.items()
        for name, value in sorted(found.items())
        if value
    ]


def _provenance(fact: Fact, item: Item, draft: Draft) -> dict[str, str | int]:
    return {
        "fact_id": fact.fact_id,
        "event_id": item.event_id,
        "head": item.head,
        "relation": item.relation,
        "tail": item.tail,
        "writer": draft.writer,
        "prompt_version": draft.prompt_version,
        "response_sha256": draft.response_sha256,
        "attempts": draft.attempts,
        "fell_back": draft.fell_back,
    }
