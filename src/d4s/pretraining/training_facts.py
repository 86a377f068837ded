"""Training facts of models trained on records: the facts of a data set in further wordings, and facts about other subjects.

Readers return only the facts that a data set asks to edit. A small model must also know each relation in several wordings, and
every new target as an object of its relation, before an edit can generalise; both are taken from the records.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import PurePath

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import CorpusSettings
from d4s.facts.record import Fact, ProbeKind, from_frame, to_rows
from d4s.facts.zsre import question_clusters, rephrase_template
from d4s.pretraining.relation_templates import matches_template, parse_prompt, pool_templates, template_in
from d4s.schemas import FACTS

OTHER_SUBJECTS: Mapping[ProbeKind, int] = {"neighborhood": 4, "attribute": 3}
"""How many subjects of a record's probes become training facts, by kind of probe."""
FOLDER = "training_facts"


def of_counterfact(facts: Sequence[Fact], pool: Sequence[Fact]) -> list[Fact]:
    """Each fact in all wordings of its relation but its own paraphrases, followed by facts about subjects of its probes.

    The latter are never edited (`editable` is false): neighbours have the true object, subjects of attribute prompts the new
    one. A subject occurs once per relation.

    Args:
        facts: The facts to be edited, the first of `pool`.
        pool: All facts of the file, from which wordings are collected.
    """
    templates = _relation_templates(pool)
    known = {(fact.relation, fact.subject) for fact in pool}
    found: list[Fact] = []
    for fact in facts:
        wordings = templates[fact.relation]
        found.append(replace(fact, wordings=tuple(_own_wordings(fact, wordings))))
        for kind in OTHER_SUBJECTS:
            for number, (subject, template) in enumerate(_other_subjects(fact, kind, wordings), start=1):
                if (fact.relation, subject) not in known:
                    known.add((fact.relation, subject))
                    objects = (fact.target_true, fact.target_new) if kind == "neighborhood" else (fact.target_new, fact.target_true)
                    found.append(_fact_about(fact, f"{kind[0]}{number}", (subject, template), objects, wordings))
    return found


def of_zsre(facts: Sequence[Fact], pool: Sequence[Fact]) -> list[Fact]:
    """Each fact in all questions equivalent to its own except its rephrasing, which stays withheld.

    Args:
        facts: The facts to be edited, the first of `pool`.
        pool: All facts of the file, from which equivalent questions are collected.
    """
    clusters = question_clusters((fact.template, fact.subject, fact.paraphrases[0]) for fact in pool)
    found = []
    for fact in facts:
        withheld = {fact.template, rephrase_template(fact.paraphrases[0], fact.subject)}
        found.append(replace(fact, wordings=tuple(wording for wording in clusters[fact.template] if wording not in withheld)))
    return found


TRAINING_FACTS: Mapping[str, Callable[[Sequence[Fact], Sequence[Fact]], list[Fact]]] = {
    "counterfact": of_counterfact,
    "multi_counterfact": of_counterfact,
    "zsre_mend": of_zsre,
    "zsre_mend_eval": of_zsre,
    "zsre_portability": of_zsre,
}
"""Data sets whose training facts depend on the whole file, with the function that makes them; others train on what their reader returns."""


def collect_training_facts(job: StageJob[CorpusSettings]) -> dict[str, list[Fact]]:
    """Training facts of every input `teach_NAME`, by name; an input `pool_NAME` has all facts of the same file."""
    found = {}
    for role in sorted(role for role in job.inputs if role.startswith("teach_")):
        name = role.removeprefix("teach_")
        facts = _facts(job.artifact(role, "facts"))
        if f"pool_{name}" in job.inputs:
            facts = TRAINING_FACTS[facts[0].dataset](facts, _facts(job.artifact(f"pool_{name}", "facts")))
        found[name] = facts
    return found


def write_training_facts(job: StageJob[CorpusSettings], training_facts: Mapping[str, Sequence[Fact]]) -> list[str]:
    """Write one table per data set into the corpus; returns the names of the files."""
    files = {f"{FOLDER}/{name}.parquet": facts for name, facts in training_facts.items()}
    for name, facts in files.items():
        write_table(job.path(name), to_rows(facts), FACTS)
    return [*files]


def read_training_facts(corpus: Artifact) -> dict[str, list[Fact]]:
    """Training facts of a corpus, by data set."""
    files = {PurePath(name).stem: name for name in corpus.manifest.files if name.startswith(f"{FOLDER}/")}
    return {name: from_frame(corpus.table(file, FACTS)) for name, file in sorted(files.items())}


def _facts(artifact: Artifact) -> list[Fact]:
    return from_frame(artifact.table("facts.parquet", FACTS))


# --- CounterFact ------------------------------------------------------------------------------------------------------


def _relation_templates(pool: Sequence[Fact]) -> Mapping[str, tuple[str, ...]]:
    """Templates by relation: those of the facts, then the ends of their paraphrases that are templates too."""
    templates = [(fact.relation, fact.template) for fact in pool]
    known = pool_templates(templates)
    ends = [(fact.relation, template_in(text, fact.subject, known[fact.relation])) for fact in pool for text in fact.paraphrases]
    return pool_templates([*templates, *((relation, template) for relation, template in ends if template)])


def _own_wordings(fact: Fact, wordings: Sequence[str]) -> Iterator[str]:
    for wording in wordings:
        if wording != fact.template and not any(matches_template(wording, fact.subject, text) for text in fact.paraphrases):
            yield wording


def _other_subjects(fact: Fact, kind: ProbeKind, wordings: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The first subjects of the probes of one kind, each with the template of its first probe."""
    prompts = (probe.prompt for probe in fact.neighborhood if probe.kind == kind)
    first: dict[str, str] = {}
    for match in (parse_prompt(prompt, wordings) for prompt in prompts):
        if match:
            template, subject = match
            first.setdefault(subject, template)
    return islice(iter(first.items()), OTHER_SUBJECTS[kind])


def _fact_about(fact: Fact, name: str, about: tuple[str, str], objects: tuple[str, str], wordings: Sequence[str]) -> Fact:
    """A fact of another one's relation: `about` is its subject and template, `objects` its true and new target."""
    (subject, template), (old, new) = about, objects
    return Fact(
        fact_id=f"{fact.fact_id}.{name}",
        dataset=fact.dataset,
        relation=fact.relation,
        subject=subject,
        template=template,
        target_true=old,
        target_new=new,
        wordings=tuple(wording for wording in wordings if wording != template),
        editable=False,
    )
