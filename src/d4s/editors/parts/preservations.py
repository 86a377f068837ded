"""What a change of weights must leave alone: text, every direction equally, or all but the directions that text hardly uses."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.part import Choice, NotNegative, Positive
from d4s.editors.parts.part_families import InputKind, Preservation

if TYPE_CHECKING:
    from d4s.editors.least_squares import PreservedMatrix
    from d4s.editors.protocol import Prepared
    from d4s.models.language_model import LanguageModel

log = logging.getLogger(__name__)


class MomentPreservation(Preservation):
    """Preserve what text says: weight times the second moment of its keys, and a ridge."""

    kind: Literal["moments"] = "moments"
    weight: Positive = Field(description="Factor on the second moment; acts like a number of preserved tokens.")
    ridge: NotNegative = Field(default=0.0, description="Multiple of the identity added to it.")

    label: ClassVar[str] = "ridge"
    formula: ClassVar[str] = "*A₀ = λ C + ridge · I*"
    inputs: ClassVar[frozenset[InputKind]] = frozenset({"moments"})

    def matrix(self, layer: int, prepared: "Prepared", model: "LanguageModel") -> "PreservedMatrix":
        """λC; a ridge beyond that of the settings only where it has no factor, and then the log says so.

        Raises:
            SolveError: if it has no factor even so.
        """
        from d4s.editors.least_squares import PreservedMatrix, factorable, preserved_matrix

        requested = preserved_matrix(prepared.moments[layer].mean().to(model.state_device(layer)), self.weight, self.ridge)
        matrix, ridge = factorable(requested, f"the preserved matrix of layer {layer}")
        if ridge:
            log.warning("layer %s: the preserved matrix has no Cholesky factor; %.1e was added to its diagonal", layer, ridge)
        return PreservedMatrix(matrix, None, ridge)

    def choices(self) -> Iterator[Choice]:
        """The second moment is MEMIT's, a ridge is not."""
        yield self.choice(self.label if self.ridge else "")


class IdentityPreservation(Preservation):
    """Preserve every direction equally: a multiple of the identity in place of the second moment."""

    kind: Literal["identity"] = "identity"
    weight: Positive = Field(default=1.0, description="The multiple.")

    label: ClassVar[str] = "identity"
    formula: ClassVar[str] = "*A₀ = λ I*"
    uses_moments: ClassVar[bool] = False

    def matrix(self, layer: int, prepared: "Prepared", model: "LanguageModel") -> "PreservedMatrix":
        """λI over all entries of a key."""
        import torch

        from d4s.editors.least_squares import PreservedMatrix

        return PreservedMatrix(self.weight * torch.eye(model.d_in(layer), dtype=torch.float64, device=model.state_device(layer)), None)


class NullSpacePreservation(Preservation):
    """Change nothing outside the directions that text hardly uses, and only a little there."""

    kind: Literal["null_space"] = "null_space"
    threshold: Positive = Field(description="Eigenvalues of the second moment below this span the free directions.")
    weight: Positive = Field(default=10.0, description="Multiple of the identity within the free directions.")

    label: ClassVar[str] = "null space"
    formula: ClassVar[str] = "*K* becomes *K U₀* and *A₀ = λ I* there; *U₀*: eigenvectors of *C* below the threshold"

    def matrix(self, layer: int, prepared: "Prepared", model: "LanguageModel") -> "PreservedMatrix":
        """λI within the free directions that were prepared."""
        import torch

        from d4s.editors.least_squares import PreservedMatrix

        basis = prepared.extras[f"{layer}.basis"].to(model.state_device(layer))
        return PreservedMatrix(self.weight * torch.eye(basis.shape[1], dtype=torch.float64, device=basis.device), basis)

    @property
    def basis_threshold(self) -> float:
        """Eigenvalues of the second moment below this span the free directions."""
        return self.threshold
