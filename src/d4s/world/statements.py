"""Statements about the facts of a world of beliefs: what they say as text, and what a reader learns of each fact from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from d4s.config import Compound
from d4s.facts.record import Fact
from d4s.questions.event_templates import FALSE, TRUE

StatementKind = Literal["observation"] | Compound
TRUE_SHARE: Mapping[tuple[str, bool], float] = {("and", True): 1.0, ("and", False): 1 / 3, ("or", True): 2 / 3, ("or", False): 0.0}
"""Of compounds of two parts, how often a part is true among the equally likely cases in which the whole has its label."""


@dataclass(frozen=True, slots=True)
class BeliefRelation:
    """A relation: the template of its sentences, its objects, and the relation that it depends on, if any."""

    name: str
    template: str
    objects: tuple[str, ...]
    upstream: str | None = None


Relations = Mapping[str, BeliefRelation]


@dataclass(frozen=True, slots=True)
class StatementPart:
    """One claim of a statement: that a subject has an object, or, negated, that it does not."""

    subject: str
    relation: str
    object: str
    negated: bool = False

    def template(self, relations: Relations) -> str:
        """The claim in quotes, with `{}` for its subject."""
        return f'{"not " if self.negated else ""}"{relations[self.relation].template} {self.object}"'


@dataclass(frozen=True, slots=True)
class Statement:
    """An observation of an object, or one or two claims that are called true or false together."""

    kind: StatementKind
    parts: tuple[StatementPart, ...]
    label: bool = True

    def template(self, relations: Relations) -> str:
        """The text before the answer, with `{}` for the subject of the first part."""
        first, *others = self.parts
        if self.kind == "observation":
            return relations[first.relation].template
        filled = [part.template(relations).replace("{}", part.subject) for part in others]
        return f" {self.kind} ".join([first.template(relations), *filled]) + " is"

    @property
    def answer(self) -> str:
        """What follows the text: the object, or the label."""
        return self.parts[0].object if self.kind == "observation" else (TRUE if self.label else FALSE)

    def observations(self) -> Iterator[tuple[StatementPart, float]]:
        """One observation of the fact behind every part: how probable it is that the named object was observed, not another one."""
        for part in self.parts:
            share = TRUE_SHARE.get((self.kind, self.label), float(self.label))
            yield part, 1 - share if part.negated else share

    def to_fact(self, number: int, relations: Relations) -> Fact:
        """The statement as a text to be learnt."""
        return Fact(
            fact_id=f"beliefs_{self.kind}:{number:06d}",
            dataset=f"beliefs_{self.kind}",
            relation=self.parts[0].relation,
            subject=self.parts[0].subject,
            template=self.template(relations),
            target_true=self.answer,
            target_new="",
            editable=False,
        )


def statement_of(row: Mapping[Any, Any]) -> Statement:
    """A statement from a row of STATEMENTS."""
    return Statement(row["kind"], tuple(StatementPart(**part) for part in row["parts"]), bool(row["label"]))


def read_together(parts: Sequence[bool], kind: Compound) -> bool:
    """The label of a statement whose parts, negations included, are true or false."""
    return any(parts) if kind == "or" else all(parts)
