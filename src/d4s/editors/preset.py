"""What a row of the table of named editing methods says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from d4s.editors.hparams import HParams


@dataclass(frozen=True, slots=True)
class Preset:
    """A named method. Its settings for a column are the base of that column, then `changes`, then `tuned` of the column.

    `title` is its name in figures and tables, `paper` where it comes from, `address` a link to that or to its code (empty where
    neither is public), `hue` the colours of `d4s.figures.style` that it shares with its relatives (empty: a spare colour). `released`
    are the columns whose values the method's source has; the other values are ours, by analogy.
    """

    title: str
    paper: str
    address: str
    note: str
    family: str
    base: Mapping[str, HParams]
    changes: HParams = field(default_factory=dict)
    tuned: Mapping[str, HParams] = field(default_factory=dict)
    released: tuple[str, ...] = ()
    hue: str = ""

    @property
    def suits_any_model(self) -> bool:
        """Whether it is the same for every kind of model."""
        return not any(self.base.values())
