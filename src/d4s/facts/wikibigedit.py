"""WikiBigEdit: changes of Wikidata as questions, with probes of locality, personas and further hops (schema unverified)."""

from collections.abc import Iterator

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Answers, as_template, portability, probes, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines
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


def read(source: RecordSource) -> ReadResult:
    """WikiBigEdit records as facts, in the file's order, which is that of time."""
    refuse_styles(source)
    lines = read_lines(source.path, RawUpdate, _issues)
    return result_of_lines(source, lines, [[_fact(line)] for line in lines.valid])


def _issues(raw: RawUpdate) -> Iterator[Issue]:
    yield from slot_issues("update", raw.update, raw.subject)


def _fact(line: RecordLine[RawUpdate]) -> Fact:
    raw, template = line.raw, as_template(line.raw.update, line.raw.subject)
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
