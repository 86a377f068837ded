"""What one job needs: bytes by what holds them, on the host and on the device, on disk; and work by kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB, GIB = 2**20, 2**30
Number = int | float  # of bytes or operations; exact or not
Bytes = Mapping[str, Number]


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations in single and in double precision, and how many blocks are called one after another."""

    single: Number = 0.0
    double: Number = 0.0
    calls: Number = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(self.single + other.single, self.double + other.double, self.calls + other.calls)

    def times(self, factor: Number) -> "Work":
        """The requirements times a number."""
        return Work(factor * self.single, factor * self.double, factor * self.calls)


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a job needs, by what holds it; `is_sharded` says whether several devices share what is on the device."""

    host: Bytes
    device: Bytes = field(default_factory=dict)
    disk: Number = 0.0
    work: Work = Work()
    is_sharded: bool = False

    @property
    def host_bytes(self) -> Number:
        """Memory of the machine."""
        return sum(self.host.values())

    @property
    def device_bytes(self) -> Number:
        """Memory of the device."""
        return sum(self.device.values())


MOVABLE_PARTS = frozenset({"moments", "basis", "state", "temporaries"})  # what `execution.state_device` places


@dataclass(frozen=True, slots=True)
class Remedies:
    """Which setting makes a part of the memory smaller, and how the movable parts leave the device, where they can."""

    settings: Mapping[str, str]
    off_device: str = ""

    def advice(self, parts: Bytes, *, on_device: bool = False) -> str:
        """What to do first: about the largest part that any setting lowers, or about what can leave the device."""
        named = {name: size for name, size in parts.items() if name in self.settings}
        if not named:
            return "nothing can be lowered"
        most = max(named, key=lambda name: named[name])
        movable = sum(size for name, size in named.items() if name in MOVABLE_PARTS)
        return self.off_device if on_device and self.off_device and movable >= named[most] else f"lower {self.settings[most]}"


STUDY_REMEDIES = Remedies(
    {
        "weights": "models.*.dtype to bfloat16, or take a smaller model",
        "moments": "the number of the editor's `layers`",
        "basis": "the number of the editor's `layers`",
        "state": "the number of the editor's `layers`",
        "temporaries": "the number of the editor's `layers`",
        "ledger": "grid.lengths",
        "originals": "models.*.dtype to bfloat16: this editor changes all layers",
        "activations": "corpus.row, or the editor's `batch`",
        "optimiser": "models.*.pretrain.width",
        "cache": "measure.max_new_tokens",
        "whole batch": "grid.lengths: this editor reads all its requests in one pass",
        "logits": "corpus.row",
    },
    off_device="set execution.state_device to cpu",
)
