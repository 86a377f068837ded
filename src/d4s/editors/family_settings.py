"""What the settings of every family of editors say: which artefacts an edit reads, and the memory that a session takes."""

from typing import TYPE_CHECKING

from d4s.config import Frozen
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.parts.part import DOUBLE, Part
from d4s.editors.parts.part_families import InputKind
from d4s.editors.parts.target_rule import TargetSettings

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape

SINGLE = 4  # bytes of a number in single precision


class Family(Frozen):
    """What an editor's settings say of what it reads beside model and facts: nothing, unless a family says otherwise."""

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """Which artefacts an edit reads."""
        return frozenset()

    @property
    def moment_layers(self) -> tuple[int, ...]:
        """Layers whose second moments are taken: for the edits themselves, or for what is prepared from them."""
        return ()

    def parts(self) -> tuple[Part, ...]:
        """The parts that an edit runs through; their code is a run's code."""
        return ()

    def shared_targets(self) -> TargetSettings | None:
        """Settings of the targets that the `targets` stage computes; None where there are none at the original weights."""
        return None

    def prepare_settings(self) -> PrepareSettings | None:
        """Settings of the `prepare` stage; None where the editor needs none."""
        return None

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """What a session holds beside a model with `item` bytes per weight, by what it is, in a sequence of edits."""
        return {}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Bytes of the ledger of a sequence of edits."""
        return float(edits * DOUBLE * shape.width)
