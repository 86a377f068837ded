"""RECT: of each step only the entries are written that change their weight most, relative to its size."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.part import DOUBLE, Choice, Keys, Residuals, Tensor, Weight
from d4s.editors.parts.part_families import LayerTransform, StepTransform

if TYPE_CHECKING:
    from d4s.editors.edited_layers import EditedLayer
    from d4s.editors.least_squares_settings import LocateThenEdit
    from d4s.models.model_shape import Shape

SMALLEST_WEIGHT = 1e-8
FEEDBACK = Choice(
    "step_transform.feedback", "true", "the step is solved as *(R + K Dᵀ)ᵀ G − D* with *D* what the last one lacked", __name__, "feedback"
)


class Rect(StepTransform):
    """Write only the entries of a step that change their weight most, relative to its size (RECT)."""

    kind: Literal["rect"] = "rect"
    keep: Annotated[float, Field(gt=0, le=1)] = Field(default=0.4, description="Share of entries that is written.")
    feedback: bool = Field(default=False, description="Solve the next step so that it makes up for what was not written (OTE-SE).")

    label: ClassVar[str] = "RECT"
    formula: ClassVar[str] = "entries of the step outside the largest *|step / W|* are not written"
    is_dense: ClassVar[bool] = True

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """Feedback without a system that the next step is solved in too."""
        yield from super().conflicts(editor)
        if self.feedback and (editor.history.refits or not editor.history.remembers):
            yield "step_transform.feedback hands what was not written to the next solve of the same system, so history must be `keys`"

    def at(self, layer: "EditedLayer") -> LayerTransform:
        """The transform at one layer, with nothing left over."""
        return RectLayer(self, layer)

    def written(self, step: Weight, weight: Weight) -> Weight:
        """A step with all but a share of its entries set to zero, those largest relative to the weight before it kept."""
        import torch

        relative = (step / (weight + SMALLEST_WEIGHT)).abs().flatten()
        dropped = len(relative) - math.ceil(self.keep * len(relative))
        if dropped <= 0:
            return step
        bound = relative.kthvalue(dropped).values
        return torch.where(relative.view_as(step) > bound, step, 0.0)

    def bytes(self, shape: "Shape") -> int:
        """A step as a matrix, or what the last one did not write: m d in float64."""
        return DOUBLE * shape.mlp_out

    def choices(self) -> Iterator[Choice]:
        """The transform, and its feedback."""
        yield from super().choices()
        if self.feedback:
            yield FEEDBACK

    @classmethod
    def all_choices(cls) -> Iterator[Choice]:
        """The transform, and its feedback."""
        yield from super().all_choices()
        yield FEEDBACK


class RectLayer(LayerTransform):
    """RECT at one layer, with what the last step lacked where it is fed back: (R + K Dᵀ)ᵀ G − D is the step."""

    def __init__(self, settings: Rect, layer: "EditedLayer") -> None:
        import torch

        self._settings = settings
        self.defect: Weight | None = torch.zeros_like(layer.delta) if settings.feedback else None

    def add(self, layer: "EditedLayer", keys: Keys, left: Residuals, gain: Keys) -> tuple[dict[str, Tensor], float]:
        """Add those entries of a step that are written."""
        if self.defect is None:
            written = self._settings.written(left.mT @ gain, layer.original.to(layer.delta) + layer.delta)
        else:
            step = (left + keys @ self.defect.mT).mT @ gain - self.defect
            written = self._settings.written(step, layer.original.to(layer.delta) + layer.delta)
            self.defect = written - step
        layer.delta += written
        return {}, float(written.norm())

    def tensors(self) -> dict[str, Tensor]:
        """What was solved for and not written."""
        return {} if self.defect is None else {"defect": self.defect}
