"""What every reader promises, as a check that anybody who writes one can call: `check_reader(read, source)`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

import pyarrow as pa

from d4s.facts.facts_stage import Reader, ReadResult, RecordSource, count_records
from d4s.facts.record import Fact, Portability, Probe, ProbeKind, from_frame, to_rows
from d4s.schemas import FACTS

PORTABILITY_KINDS = ("reasoning", "alias", "logical", "multihop", "persona", "tendency")


def check_reader(read: Reader, source: RecordSource) -> ReadResult:
    """The reading of a source, after holding it against everything that later stages rely on.

    Records in are records out and rejects; facts are whole and survive Parquet; reading twice gives the same, and a limit
    gives the beginning of it.

    Raises:
        ValueError: naming every promise that is broken.
    """
    result = read(source)
    complaints = [
        *_result_complaints(result),
        *(f"{fact.fact_id}: {complaint}" for fact in result.facts for complaint in fact_complaints(fact)),
        *_repetition_complaints(read, source, result),
    ]
    if complaints:
        raise ValueError(f"the reader breaks {len(complaints)} promise(s):\n" + "\n".join(f"  {complaint}" for complaint in complaints))
    return result


def fact_complaints(fact: Fact) -> Iterator[str]:
    """What is wrong with a fact, whatever it was read from."""
    if not fact.fact_id.startswith(f"{fact.dataset}:"):
        yield f"the id does not begin with the data set {fact.dataset!r}"
    for template in (fact.template, *fact.wordings):
        if template.count("{}") != 1:
            yield f"the template {template!r} does not hold exactly one {{}}"
    if not fact.subject or not fact.relation or not fact.target_new:
        yield "subject, relation or new target is empty"
    for text in (fact.subject, fact.template, *fact.wordings, fact.target_new, fact.target_true, *fact.target_true_aliases):
        if text != text.strip():
            yield f"{text!r} begins or ends with a space"
    if fact.editable and fact.target_new in (fact.target_true, *fact.target_true_aliases):
        yield f"the new target {fact.target_new!r} is true already"
    yield from _wording_complaints(fact)
    for probe in fact.neighborhood:
        yield from _probe_complaints(probe)
    for chain in fact.portability:
        yield from _portability_complaints(chain)


def _wording_complaints(fact: Fact) -> Iterator[str]:
    if len({fact.template, *fact.wordings}) != 1 + len(fact.wordings):
        yield "two wordings are the same"
    training_prompts = {wording.replace("{}", fact.subject) for wording in (fact.template, *fact.wordings)}
    for paraphrase in fact.paraphrases:
        if any(paraphrase.endswith(prompt) for prompt in training_prompts):
            yield f"the paraphrase {paraphrase!r} is in training text"


def _probe_complaints(probe: Probe) -> Iterator[str]:
    if probe.kind not in get_args(ProbeKind):
        yield f"the probe {probe.prompt!r} is of the unknown kind {probe.kind!r}"
    if not probe.prompt or probe.prompt != probe.prompt.strip():
        yield f"the probe {probe.prompt!r} is empty or begins or ends with a space"
    if probe.answer_is not in ("gold", "pre_edit") or (probe.answer_is == "gold" and not probe.answer):
        yield f"the probe {probe.prompt!r} has no answer to compare with"


def _portability_complaints(chain: Portability) -> Iterator[str]:
    if chain.kind not in PORTABILITY_KINDS:
        yield f"the portability prompt {chain.prompt!r} is of the unknown kind {chain.kind!r}"
    for text in (chain.prompt, *(chain.answers or ("",))):
        if not text or text != text.strip():
            yield f"the portability prompt {chain.prompt!r} has no answer, or {text!r} is empty or begins or ends with a space"


def _result_complaints(result: ReadResult) -> Iterator[str]:
    try:
        count_records(result)
    except Exception as error:  # whatever it is, it is named among the other complaints
        yield str(error)
    for fact_id, count in Counter(fact.fact_id for fact in result.facts).items():
        if count > 1:
            yield f"{fact_id}: {count} facts have this id"
    if not result.facts:
        yield "it gives no fact"
    if _through_parquet(result.facts) != result.facts:
        yield "facts come back changed from Parquet"


def _through_parquet(facts: Sequence[Fact]) -> list[Fact]:
    return from_frame(pa.Table.from_pylist(to_rows(facts), schema=FACTS).to_pandas())


def _repetition_complaints(read: Reader, source: RecordSource, result: ReadResult) -> Iterator[str]:
    if read(source) != result:
        yield "reading twice gives different facts"
    for limit in {1, max(1, result.kept // 2)}:
        beginning = read(replace(source, limit=limit))
        if beginning.kept != limit or beginning.facts != result.facts[: len(beginning.facts)]:
            yield f"limit {limit} gives {beginning.kept} records, which are not the beginning of what is read without it"
