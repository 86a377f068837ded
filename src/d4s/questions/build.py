"""The `questions` verb: if-then events in, facts of one form out, with the source of every question."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd

from d4s.artifacts import Job, write_table
from d4s.config import FORMS, Form, QuestionsSettings
from d4s.facts.record import Fact, Probe, to_rows
from d4s.questions.checks import defects
from d4s.questions.items import Item, keyed_rng, plan_items
from d4s.questions.writers import WRITERS, Draft, Writer
from d4s.schemas import EVENTS, FACTS, PROVENANCE

log = logging.getLogger(__name__)
NEIGHBOURS = 2


def questions(job: Job[QuestionsSettings]) -> None:
    """Write facts.parquet and provenance.parquet of one form.

    The same settings with another form give facts about the same events under the same ids, so that forms are compared
    pairwise: an event that fails a check in one form is left out of all.
    """
    settings = job.settings
    writer: Writer = WRITERS.load(settings.writer)(settings)
    items = plan_items(_events(job), settings.seed)
    drafts = sound_drafts(items, writer)
    log.info("%d of %d events pass the checks in every form", len(drafts), len(items))
    chosen = [item for item in items if item.event_id in drafts]
    facts = form_facts(chosen, {key: forms[settings.form] for key, forms in drafts.items()}, settings.seed)[: settings.limit]
    write_table(job.path("facts.parquet"), to_rows(facts), FACTS)
    rows = [_provenance(fact, item, drafts[item.event_id][settings.form], writer) for fact, item in zip(facts, chosen, strict=False)]
    write_table(job.path("provenance.parquet"), rows, PROVENANCE)
    job.finish(["facts.parquet", "provenance.parquet"], events=len(items), passed=len(drafts))


def _events(job: Job[QuestionsSettings]) -> pd.DataFrame:
    if job.settings.events == "world":
        return job.artifact("world", "worlds").table("events.parquet", EVENTS)
    from d4s.facts.atomic import read_events

    return read_events(job.inputs["records"])


def sound_drafts(items: Sequence[Item], writer: Writer) -> dict[str, dict[Form, Draft]]:
    """Drafts by event and form, of the items that pass every check in all forms."""
    by_form = {form: writer.write(items, form) for form in FORMS}
    found: dict[str, dict[Form, Draft]] = {}
    prompts: set[str] = set()
    for index, item in enumerate(items):
        drafts: dict[Form, Draft] = {form: by_form[form][index] for form in FORMS}
        wrong = [problem for draft in drafts.values() for problem in defects(item, draft)]
        asked = {draft.template.replace("{}", item.head) for draft in drafts.values()}
        if wrong or asked & prompts:
            log.debug("%s is left out: %s", item.event_id, "; ".join(wrong) or "asked before")
            continue
        prompts |= asked
        found[item.event_id] = drafts
    return found


def form_facts(items: Sequence[Item], drafts: Mapping[str, Draft], seed: int) -> list[Fact]:
    """Facts of one form in the order of their items; probes are asked in the same form, of bystanders where there are any."""
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


def _provenance(fact: Fact, item: Item, draft: Draft, writer: Writer) -> dict[str, str]:
    return {
        "fact_id": fact.fact_id,
        "event_id": item.event_id,
        "head": item.head,
        "relation": item.relation,
        "tail": item.tail,
        "writer": writer.name,
        "prompt_version": draft.prompt_version,
        "response_sha256": draft.response_sha256,
    }
