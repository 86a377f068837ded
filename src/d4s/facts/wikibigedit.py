"""WikiBigEdit: changes of Wikidata as questions, with probes of locality, personas and further hops (schema unverified)."""

from collections.abc import Iterator

from d4s.facts.collect import Reading, Source
from d4s.facts.fields import Answers, placed_flaws, portability, probes, slotted
from d4s.facts.jsonl import Flaw, Line, Raw, Text, read_lines, reading, refuse_styles
from d4s.facts.record import Fact


class RawUpdate(Raw):
    """A record as it stands in the file; only a few have a question of several hops."""

    subject: Text
    update: Text
    ans: Text
    rephrase: Answers = ()
    personas: Answers = ()
    loc: Answers = ()
    loc_ans: Answers = ()
    mhop: Answers = ()
    mhop_ans: Answers = ()


def read(source: Source) -> Reading:
    """WikiBigEdit records as facts, in the file's order, which is that of time."""
    refuse_styles(source)
    lines = read_lines(source.path, RawUpdate, _flaws)
    return reading(source, lines, [[_fact(line)] for line in lines.sound])


def _flaws(raw: RawUpdate) -> Iterator[Flaw]:
    yield from placed_flaws("update", raw.update, raw.subject)


def _fact(line: Line[RawUpdate]) -> Fact:
    raw, template = line.raw, slotted(line.raw.update, line.raw.subject)
    return Fact(
        fact_id=f"wikibigedit:{line.number}",
        dataset="wikibigedit",
        relation=template,
        subject=raw.subject,
        template=template,
        target_true="",
        target_new=raw.ans,
        paraphrases=tuple(text for text in raw.rephrase if text != raw.update),
        neighborhood=tuple(probes("unrelated", [(prompt, raw.loc_ans) for prompt in raw.loc])),
        portability=(
            *portability("persona", [(prompt, (raw.ans,)) for prompt in raw.personas]),
            *portability("multihop", [(prompt, raw.mhop_ans) for prompt in raw.mhop]),
        ),
    )
