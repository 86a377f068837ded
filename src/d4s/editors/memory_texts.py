"""A memory of edits as texts (SERAC, editing in context): a prompt, its target, and a vector of the prompt where edits are compared by one.

Of entries with one prompt the last one holds.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from d4s.editors.protocol import StepRecord

ROOM = 8  # positions that a prompt behind an edit leaves for its target


def context_of(template: str, prompt: str, target: str) -> str:
    """What an edit puts before a prompt."""
    return template.replace("{prompt}", prompt.rstrip(" ")).replace("{target}", target.strip())


def to_bytes(text: str) -> UInt8[Tensor, " n"]:
    """A text as UTF-8."""
    return torch.tensor([*text.encode()], dtype=torch.uint8)


def to_text(found: UInt8[Tensor, " n"]) -> str:
    """The text of its UTF-8."""
    return bytes(found.tolist()).decode()


class MemoryEntry(NamedTuple):
    """An edit as the memory holds it."""

    prompt: str
    target: str
    embedding: Float[Tensor, " width"]

    @classmethod
    def of(cls, record: StepRecord) -> "MemoryEntry":
        """The entry that a record spells."""
        return cls(to_text(record["prompt"]), to_text(record["target"]), record["embedding"])

    @property
    def record(self) -> StepRecord:
        """The entry as tensors."""
        return {"prompt": to_bytes(self.prompt), "target": to_bytes(self.target), "embedding": self.embedding}


@dataclass(frozen=True, slots=True)
class Memory:
    """The entries that records spell, one per prompt, in the order in which they came."""

    entries: Sequence[MemoryEntry] = ()

    @classmethod
    def of(cls, records: Iterable[StepRecord]) -> "Memory":
        """The memory of a state."""
        found = dict[str, MemoryEntry]()
        for entry in map(MemoryEntry.of, records):
            found.pop(entry.prompt, None)
            found[entry.prompt] = entry
        return cls(tuple(found.values()))

    def joined(self, entry: MemoryEntry) -> "Memory":
        """The memory with one more entry, which takes the place of that of its prompt."""
        return Memory((*(other for other in self.entries if other.prompt != entry.prompt), entry))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def bytes(self) -> int:
        """What its records hold."""
        return sum(tensor.nbytes for entry in self.entries for tensor in entry.record.values())

    def resized(self, count: int) -> "Memory":
        """A memory of a number of entries, its own (at least one) again and again."""
        repeated = [*self.entries] * (-(-count // len(self)))
        return Memory(tuple(repeated[:count]))
