"""The common record of an editable fact, whatever data set it comes from, and its way to and from Parquet rows."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from d4s.config import Problem

AnswerIs = Literal["gold", "pre_edit"]
ProbeKind = Literal["neighborhood", "unrelated", "same_subject", "attribute"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt whose answer an edit must leave alone: compared with a gold answer or with the unedited model's."""

    kind: ProbeKind
    prompt: str
    answer: str | None
    answer_is: AnswerIs = "gold"


@dataclass(frozen=True, slots=True)
class Portability:
    """A prompt whose answer follows from the new fact."""

    kind: str
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact and the change asked for: `template` holds one `{}` for the subject; targets have no leading space.

    `wordings` are further templates in which a model trained here may be taught the fact; `paraphrases` (subject filled
    in) are never taught for this subject. `editable` is false for facts that only ever serve as probes. Facts with the
    same `group` belong to one edit case. `problem` says what the edit is for: a new answer (`injection`), the present answer with more
    certainty (`amplification`), or what the model answers to a noised prompt (`reversal`).
    """

    fact_id: str
    dataset: str
    relation: str
    subject: str
    template: str
    target_true: str
    target_new: str
    target_true_aliases: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[Probe, ...] = ()
    portability: tuple[Portability, ...] = ()
    wordings: tuple[str, ...] = ()
    editable: bool = True
    group: str = ""
    problem: Problem = "injection"

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ValueError(f"fact {self.fact_id}: template {self.template!r} must hold exactly one {{}}")

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return self.template.replace("{}", self.subject)


def to_rows(facts: Iterable[Fact]) -> list[dict[str, Any]]:
    """Facts as rows of the FACTS schema."""
    return [asdict(fact) for fact in facts]


def from_frame(frame: pd.DataFrame) -> list[Fact]:
    """Facts from a frame of the FACTS schema, in its order."""
    return [_fact(row) for row in frame.to_dict(orient="records")]


def _fact(row: Mapping[Any, Any]) -> Fact:
    values: dict[str, Any] = {str(key): value for key, value in row.items()}
    for key in ("target_true_aliases", "paraphrases", "wordings"):
        values[key] = tuple(values[key])
    values["neighborhood"] = tuple(Probe(**probe) for probe in values["neighborhood"])
    values["portability"] = tuple(Portability(p["kind"], p["prompt"], tuple(p["answers"])) for p in values["portability"])
    return Fact(**values)
