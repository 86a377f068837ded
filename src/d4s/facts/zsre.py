"""zsRE in the form of MEND and EasyEdit: questions about a subject, with one rephrasing and an unrelated question.

Two readings of the same file, whose scores do not compare: `alt` edits the true answer to a false one, `answers` edits
whatever a model says to the true answer (there is no old answer then, and `target_true` is empty). `zsre_portability` is
EasyEdit's file of records with one question each that follows from `alt`, so it has that reading alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from pydantic import Field

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import no_op_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, choose_style, read_lines, result_of_lines, shorten, subject_issues
from d4s.facts.record import Fact, Portability, Probe

STYLES = ("alt", "answers")
PREFIX = "nq question: "
Clusters = Mapping[str, tuple[str, ...]]


class FollowUpQuestion(Raw):
    """A question that follows from the edit."""

    question: Text = Field(validation_alias="New Question")
    answer: Text = Field(validation_alias="New Answer")


class RawZsre(Raw):
    """A record as it stands in the file; `alt` may be empty where it is not read."""

    subject: Text
    src: Text
    rephrase: Text
    alt: str
    answers: tuple[Text, ...]
    loc: Text
    loc_ans: Text
    portability: FollowUpQuestion | None = None

    @property
    def template(self) -> str:
        """The question with a place for the subject."""
        return self.src.replace(self.subject, "{}")


def _read(dataset: str, styles: tuple[str, ...], source: RecordSource) -> ReadResult:
    """ZsRE records as facts in one of the styles; records of questions that mean the same share a relation."""
    style = choose_style(source, styles)
    lines = read_lines(source.path, RawZsre, lambda raw: _issues(raw, style))
    clusters = question_clusters((line.raw.template, line.raw.subject, line.raw.rephrase) for line in lines.valid)
    return result_of_lines(source, lines, [[_fact(dataset, line, style, clusters[line.raw.template][0])] for line in lines.valid])


read = partial(_read, "zsre_mend", STYLES)
read_eval = partial(_read, "zsre_mend_eval", STYLES)
read_portability = partial(_read, "zsre_portability", ("alt",))


def _issues(raw: RawZsre, style: str) -> Iterator[Issue]:
    yield from subject_issues("src", raw.src, raw.subject)
    if not raw.answers:
        yield Issue("answers", "[]", "at least one true answer")
    if style == "alt":
        alt = raw.alt.strip()
        if not alt:
            yield Issue("alt", shorten(raw.alt), "text that is not empty")
        yield from no_op_issues("alt", alt, raw.answers)


def rephrase_template(rephrase: str, subject: str) -> str | None:
    """The rephrasing as a template, or None where the place of its subject is uncertain."""
    return None if any(subject_issues("rephrase", rephrase, subject)) else rephrase.replace(subject, "{}")


def question_clusters(records: Iterable[tuple[str, str, str]]) -> Clusters:
    """Every question template mapped to all equivalent ones, in the order of the records.

    Args:
        records: Template, subject and rephrasing of each record; its template and its rephrasing are equivalent.
    """
    return cluster_templates([(template, rephrase_template(rephrase, subject) or template) for template, subject, rephrase in records])


def cluster_templates(pairs: Sequence[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    """Every template mapped to all templates that pairs of equal meaning connect it with, in the order in which they came."""
    parent: dict[str, str] = {}

    def root(template: str) -> str:
        parent.setdefault(template, template)
        while parent[template] != template:
            parent[template] = template = parent[parent[template]]
        return template

    for one, other in pairs:
        first, second = root(one), root(other)
        parent[second] = first
    members: dict[str, list[str]] = defaultdict(list)
    for template in parent:
        members[root(template)].append(template)
    return {template: tuple(members[root(template)]) for template in parent}


def _fact(dataset: str, line: RecordLine[RawZsre], style: str, relation: str) -> Fact:
    raw, follow_up = line.raw, line.raw.portability
    question = raw.loc.removeprefix(PREFIX).rstrip("?") + "?"
    old, new, aliases = (raw.answers[0], raw.alt.strip(), raw.answers[1:]) if style == "alt" else ("", raw.answers[0], ())
    return Fact(
        fact_id=f"{dataset}:{line.number}",
        dataset=dataset,
        relation=relation,
        subject=raw.subject,
        template=raw.template,
        target_true=old,
        target_new=new,
        target_true_aliases=aliases,
        paraphrases=(raw.rephrase,),
        neighborhood=(Probe("unrelated", question, raw.loc_ans),),
        portability=(Portability("reasoning", follow_up.question, (follow_up.answer,)),) if follow_up and style == "alt" else (),
    )
