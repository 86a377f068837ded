"""zsRE in the form of MEND and EasyEdit: questions about a subject, with one rephrasing and an unrelated question.

Two readings of the same file, whose scores do not compare: `alt` edits the true answer to a false one, `answers` edits
whatever a model says to the true answer (there is no old answer then, and `target_true` is empty).
"""

from collections.abc import Iterator, Mapping

from d4s.facts.collect import Reading, Source
from d4s.facts.jsonl import Flaw, Line, Raw, Text, choose_style, read_lines, reading, shown, subject_flaws
from d4s.facts.record import Fact, Probe
from d4s.facts.wordings import clusters

STYLES = ("alt", "answers")
PREFIX = "nq question: "
Clusters = Mapping[str, tuple[str, ...]]


class RawZsre(Raw):
    """A record as it stands in the file; `alt` may be empty where it is not read."""

    subject: Text
    src: Text
    rephrase: Text
    alt: str
    answers: tuple[Text, ...]
    loc: Text
    loc_ans: Text

    @property
    def template(self) -> str:
        """The question with a place for the subject."""
        return self.src.replace(self.subject, "{}")


def read(source: Source) -> Reading:
    """ZsRE records as facts in the style `alt` or `answers`; records of questions that mean the same share a relation."""
    style = choose_style(source, STYLES)
    lines = read_lines(source.path, RawZsre, lambda raw: _flaws(raw, style))
    pairs = [(line.raw.template, _rephrased(line.raw)) for line in lines.sound]
    alike = clusters([(one, other or one) for one, other in pairs])
    return reading(source, lines, [[_fact(line, style, alike[line.raw.template])] for line in lines.sound])


def _flaws(raw: RawZsre, style: str) -> Iterator[Flaw]:
    yield from subject_flaws("src", raw.src, raw.subject)
    if not raw.answers:
        yield Flaw("answers", "[]", "at least one true answer")
    if style == "alt":
        alt = raw.alt.strip()
        if not alt:
            yield Flaw("alt", shown(raw.alt), "text that is not empty")
        elif alt in raw.answers:
            yield Flaw("alt", shown(raw.alt), "an answer that is not true already: the edit changes nothing")


def _rephrased(raw: RawZsre) -> str | None:
    """The rephrasing as a template, where its subject is certain."""
    return raw.rephrase.replace(raw.subject, "{}") if not list(subject_flaws("rephrase", raw.rephrase, raw.subject)) else None


def _fact(line: Line[RawZsre], style: str, wordings: tuple[str, ...]) -> Fact:
    raw = line.raw
    withheld = {raw.template, _rephrased(raw)}
    question = raw.loc.removeprefix(PREFIX).rstrip("?") + "?"
    old, new, aliases = (raw.answers[0], raw.alt.strip(), raw.answers[1:]) if style == "alt" else ("", raw.answers[0], ())
    return Fact(
        fact_id=f"zsre_mend:{line.number}",
        dataset="zsre_mend",
        relation=wordings[0],
        subject=raw.subject,
        template=raw.template,
        target_true=old,
        target_new=new,
        target_true_aliases=aliases,
        paraphrases=(raw.rephrase,),
        neighborhood=(Probe("unrelated", question, raw.loc_ans, "pre_edit" if style == "alt" else "gold"),),
        wordings=tuple(wording for wording in wordings if wording not in withheld),
    )
