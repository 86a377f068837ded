"""The plain record of EasyEdit: a prompt that holds its subject, a target, one rephrasing, one neighbour.

`counterfact_edit` is CounterFact in this form. Its `rephrase_prompt` is drawn from two paraphrases and ten generation
prompts of the original record, so it is mostly no paraphrase: the style `plain` leaves it out, and `checked` takes it
where the original record, read from a second file, has it among its paraphrases. HardCF and HardEdit are read alike.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from d4s.facts.counterfact import RawCounterFact
from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Answers, as_template, no_op_issues, probes, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, choose_style, read_lines, refuse_styles, result_of_lines, valid_lines
from d4s.facts.record import Fact

STYLES = ("plain", "checked")


class RawEdit(Raw):
    """A record as it stands in the file; only the edit itself is needed."""

    case_id: int | str | None = None
    prompt: Text
    subject: Text
    target_new: Text
    ground_truth: Answers = ()
    rephrase_prompt: str = ""
    locality_prompt: str = ""
    locality_ground_truth: Answers = ()


def read_counterfact(source: RecordSource) -> ReadResult:
    """CounterFact in EasyEdit's form; the style `checked` reads the original records beside it."""
    style = choose_style(source, STYLES)
    known = _paraphrases(source.extra_files["originals"]) if style == "checked" else {}
    return _read("counterfact_edit", known, source)


def _hard(dataset: str, source: RecordSource) -> ReadResult:
    refuse_styles(source)
    return _read(dataset, {}, source)


read_hardcf = partial(_hard, "hardcf")
read_hardedit = partial(_hard, "hardedit")


def _read(dataset: str, known: Mapping[object, tuple[str, ...]], source: RecordSource) -> ReadResult:
    lines = read_lines(source.path, RawEdit, _issues, key=lambda raw: None if raw.case_id is None else str(raw.case_id))
    return result_of_lines(source, lines, [[_fact(dataset, line, known)] for line in lines.valid])


def _paraphrases(path: Path) -> dict[object, tuple[str, ...]]:
    """The paraphrases of the original records by case."""
    return {line.raw.case_id: line.raw.paraphrase_prompts for line in valid_lines(path, RawCounterFact)}


def _issues(raw: RawEdit) -> Iterator[Issue]:
    yield from slot_issues("prompt", raw.prompt, raw.subject)
    yield from no_op_issues("target_new", raw.target_new, raw.ground_truth)


def _fact(dataset: str, line: RecordLine[RawEdit], known: Mapping[object, tuple[str, ...]]) -> Fact:
    raw, template = line.raw, as_template(line.raw.prompt, line.raw.subject)
    rephrased = raw.rephrase_prompt.strip()
    return Fact(
        fact_id=f"{dataset}:{f'line{line.number}' if raw.case_id is None else raw.case_id}",
        dataset=dataset,
        relation=template,
        subject=raw.subject,
        template=template,
        target_true=raw.ground_truth[0] if raw.ground_truth else "",
        target_new=raw.target_new,
        target_true_aliases=raw.ground_truth[1:],
        paraphrases=(rephrased,) if rephrased in known.get(raw.case_id, ()) else (),
        neighborhood=tuple(probes("neighborhood", [(raw.locality_prompt.strip(), raw.locality_ground_truth)])),
    )
