"""Interpolation of weights (1-LI): only part of the way from the original to the edited weights.

W(a) = W₀ + a Δ,   0 ≤ a ≤ 1
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from d4s.editors.parts.part import Original, Tensor, Weight
from d4s.editors.parts.part_families import DeltaTransform
from d4s.settings_base import Count, Fraction

if TYPE_CHECKING:
    from d4s.editors.least_squares_settings import LocateThenEdit
    from d4s.editors.prompts import PromptSet
    from d4s.models.language_model import LanguageModel


class Interpolate(DeltaTransform):
    """Go only part of the way from the original to the edited weights (1-LI): a fixed share, or as far as kept requests ask for."""

    kind: Literal["interpolate"] = "interpolate"
    by: Literal["kept", "fixed"] = Field(default="kept", description="Whether kept requests choose the share, or it is `share`.")
    share: Fraction | None = Field(default=None, description="The share that is fixed.")
    points: Annotated[int, Field(ge=2)] = Field(default=11, description="Shares between 0 and 1, both ends among them, that are tried.")
    every: Count = Field(default=5, description="One request in this number is kept for validation.")
    floor: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.9, description="Least share of KL prompts `SUBJECT is a` whose most likely continuation stays."
    )

    label: ClassVar[str] = "interpolated"
    formula: ClassVar[str] = "*W₀ + a Δ*, *a* fixed, or the share that serves kept requests best without moving KL prompts"
    is_dense: ClassVar[bool] = True

    @model_validator(mode="after")
    def _has_share(self) -> "Interpolate":
        if (self.by == "fixed") != (self.share is not None):
            raise ValueError("`share` is for `by: fixed`, which needs it")
        return self

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """Histories whose states are records."""
        if editor.history.refits:
            yield "delta_transform `interpolate` keeps requests for validation beside the change, so history must be `none` or `keys`"

    def of(self, delta: Weight, original: Original, layer: int) -> Weight:
        """The fixed share of the change, or all of it, as where no request was kept."""
        return delta if self.share is None else self.share * delta

    def finish(self, model: "LanguageModel", deltas: Mapping[int, Weight], validation: "Validation | None") -> Mapping[int, Weight]:
        """The fixed share of every layer's change, or the one that serves the kept requests best."""
        if self.share is not None:
            return super().finish(model, deltas, validation)
        fraction = 1.0 if validation is None else self.fraction(model, deltas, validation)
        return {layer: fraction * delta for layer, delta in deltas.items()}

    def validation(self, dense: Mapping[str, Tensor]) -> "Validation | None":
        """The requests that a dense state keeps, none before any edit; None where the share is fixed."""
        return Validation.of(dense, self.every) if self.by == "kept" else None

    def fraction(self, model: "LanguageModel", deltas: Mapping[int, Weight], validation: "Validation") -> float:
        """The share of the way from the original to the edited weights that serves the kept requests best (1-LI).

        Of the shares that leave enough KL prompts their most likely continuation, the one with the most requests
        answered, the smallest among equals; 0 is always among them. 1 where no request was kept.
        """
        from d4s.editors.weights import apply_deltas

        if not validation.entries:
            return 1.0
        before = _continuations(model, validation)
        best, most = 0.0, -1.0
        for point in range(self.points):
            fraction = point / (self.points - 1)
            with apply_deltas(model, {layer: fraction * delta for layer, delta in deltas.items()}) as view:
                answered = float(
                    view.score_ids([(list(prompt), list(target)) for prompt, target, _ in validation.entries]).exact().double().mean()
                )
                stays = float((_continuations(model, validation) == before).double().mean())
            if stays >= self.floor and answered > most:
                best, most = fraction, answered
        return best


@dataclass(slots=True)
class Validation:
    """Requests kept to choose a share by: prompt, target and KL prompt of each as token ids, one request in `every`."""

    entries: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    seen: int = 0
    every: int = 1

    def offer(self, prompt_sets: Sequence["PromptSet"]) -> None:
        """Keep one edited request in `every`, the first among them."""
        for one in prompt_sets:
            if self.seen % self.every == 0:
                unprefixed = one.prompts[0]
                self.entries.append((unprefixed.ids, unprefixed.target, one.kl_prompt.ids))
            self.seen += 1

    def tensors(self) -> dict[str, Tensor]:
        """The requests as tensors of a dense state."""
        import torch

        flat = [token for entry in self.entries for part in entry for token in part]
        lengths = [[len(part) for part in entry] for entry in self.entries]
        return {
            "validation.ids": torch.tensor(flat, dtype=torch.int32),
            "validation.lengths": torch.tensor(lengths, dtype=torch.int32).view(-1, 3),
            "validation.seen": torch.tensor([self.seen], dtype=torch.int64),
        }

    @classmethod
    def of(cls, dense: Mapping[str, Tensor], every: int) -> "Validation":
        """The requests in a dense state; none where there is none."""
        if "validation.ids" not in dense:
            return cls(every=every)
        lengths = dense["validation.lengths"]
        parts = iter(dense["validation.ids"].split(lengths.flatten().tolist()))
        entries = [tuple(tuple(next(parts).tolist()) for _ in range(3)) for _ in range(len(lengths))]
        return cls(entries, int(dense["validation.seen"]), every)  # type: ignore[arg-type]


def _continuations(model: "LanguageModel", validation: Validation) -> Tensor:
    """The most likely token after each KL prompt."""
    import torch

    from d4s.editors.prompts import pad_ids

    texts = [kl_prompt for _, _, kl_prompt in validation.entries]
    with torch.no_grad():
        hidden = model.network.base_model(input_ids=pad_ids(texts, model.device), use_cache=False).last_hidden_state
        last = torch.tensor([len(text) - 1 for text in texts], device=hidden.device)
        return model.unembed(hidden[torch.arange(len(texts), device=hidden.device), last]).argmax(-1)
