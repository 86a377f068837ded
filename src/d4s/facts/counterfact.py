"""CounterFact in the schema of ROME: cloze prompts, one new object each, with paraphrases, neighbours and attribute prompts.

For models that are trained here a record also gives facts that are never edited: its first neighbours, and other subjects
that already have the new object, so that every new target is a known object of its relation. multi-CounterFact, which
MEMIT edits, is the same without conflicting records.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Target
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines, shorten, template_issues
from d4s.facts.record import Fact, Probe
from d4s.facts.templates import matches_template, parse_prompt, pool_templates, template_in

BYSTANDERS = {"n": 4, "a": 3}
"""How many subjects of a record's neighbourhood (n) and attribute prompts (a) become facts of their own."""
RelationTemplates = Mapping[str, tuple[str, ...]]


class RequestedRewrite(Raw):
    """The change asked for."""

    prompt: Text
    relation_id: Text
    subject: Text
    target_new: Target
    target_true: Target


class RawCounterFact(Raw):
    """A record as it stands in the file."""

    case_id: int
    requested_rewrite: RequestedRewrite
    paraphrase_prompts: tuple[Text, ...]
    neighborhood_prompts: tuple[Text, ...]
    attribute_prompts: tuple[Text, ...]


def _read(dataset: str, source: RecordSource) -> ReadResult:
    """CounterFact records as facts, each followed by its neighbours and attribute facts (`editable` false)."""
    refuse_styles(source)
    lines = read_lines(source.path, RawCounterFact, _issues, key=lambda raw: raw.case_id)
    wordings = _relation_templates([line.raw for line in lines.valid])
    existing = {(line.raw.requested_rewrite.relation_id, line.raw.requested_rewrite.subject) for line in lines.valid}
    return result_of_lines(source, lines, [_facts(dataset, line, wordings, existing) for line in lines.valid])


read = partial(_read, "counterfact")
read_multi = partial(_read, "multi_counterfact")


def _issues(raw: RawCounterFact) -> Iterator[Issue]:
    rewrite = raw.requested_rewrite
    yield from template_issues("requested_rewrite.prompt", rewrite.prompt)
    if {"{", "}"} & set(rewrite.subject):
        yield Issue("requested_rewrite.subject", shorten(rewrite.subject), "a subject without braces")
    if rewrite.target_new == rewrite.target_true:
        yield Issue(
            "requested_rewrite.target_new.str", shorten(rewrite.target_new.str), "another object than target_true: the edit changes nothing"
        )


def _relation_templates(records: Sequence[RawCounterFact]) -> RelationTemplates:
    """Wordings by relation: the records' own prompts, then the stems of their paraphrases."""
    prompts = [(raw.requested_rewrite.relation_id, raw.requested_rewrite.prompt) for raw in records]
    known = pool_templates(prompts)
    stems = [
        (raw.requested_rewrite.relation_id, template_in(text, raw.requested_rewrite.subject, known[raw.requested_rewrite.relation_id]))
        for raw in records
        for text in raw.paraphrase_prompts
    ]
    return pool_templates([*prompts, *((relation, template) for relation, template in stems if template)])


def _facts(dataset: str, line: RecordLine[RawCounterFact], wordings: RelationTemplates, existing: set[tuple[str, str]]) -> list[Fact]:
    """The fact of a record, then the facts that come with it; `existing` grows by the subjects of the latter."""
    raw, rewrite = line.raw, line.raw.requested_rewrite
    fact_id, old, new = f"{dataset}:{raw.case_id}", rewrite.target_true.str, rewrite.target_new.str
    pool = wordings[rewrite.relation_id]
    own = [
        w for w in pool if w != rewrite.prompt and not any(matches_template(w, rewrite.subject, text) for text in raw.paraphrase_prompts)
    ]
    fact = Fact(
        fact_id=fact_id,
        dataset=dataset,
        relation=rewrite.relation_id,
        subject=rewrite.subject,
        template=rewrite.prompt,
        target_true=old,
        target_new=new,
        paraphrases=raw.paraphrase_prompts,
        neighborhood=(
            *(Probe("neighborhood", prompt, old) for prompt in raw.neighborhood_prompts),
            *(Probe("attribute", prompt, new) for prompt in raw.attribute_prompts),
        ),
        wordings=tuple(own),
    )
    neighbors = _bystanders(fact, "n", raw.neighborhood_prompts, pool, existing)
    attributes = _bystanders(fact, "a", raw.attribute_prompts, pool, existing)
    return [fact, *neighbors, *attributes]


def _bystanders(fact: Fact, kind: str, prompts: Sequence[str], pool: Sequence[str], existing: set[tuple[str, str]]) -> Iterator[Fact]:
    """Facts about the first subjects of prompts, unless they are training facts already."""
    old, new = (fact.target_true, fact.target_new) if kind == "n" else (fact.target_new, fact.target_true)
    matches = [found for prompt in prompts if (found := parse_prompt(prompt, pool))]
    first = {subject: template for template, subject in reversed(matches)}
    subjects = dict.fromkeys(subject for _, subject in matches)
    for number, subject in enumerate(islice(subjects, BYSTANDERS[kind]), start=1):
        if (fact.relation, subject) in existing:
            continue
        existing.add((fact.relation, subject))
        yield Fact(
            fact_id=f"{fact.fact_id}.{kind}{number}",
            dataset=fact.dataset,
            relation=fact.relation,
            subject=subject,
            template=first[subject],
            target_true=old,
            target_new=new,
            wordings=tuple(wording for wording in pool if wording != first[subject]),
            editable=False,
        )
