"""What a solve knows of earlier edits: nothing, their keys, or all of them, solved for together.

With keys K, weighted residuals R (rows) and the gain G of the keys (`least_squares.py`) a step changes the weight by

    RᵀG                  where earlier edits stay as they are (MEMIT, ROME, AlphaEdit)
    (R − K Δᵀ)ᵀ G        where all edits are fitted together from the original weights (D4S)

and `AdaptiveRefit` solves for all edits at each step, with a weight of what is preserved that follows a queue (LyapLock).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.part import DOUBLE, Context, Keys, Positive, Residuals, Tensor, Weight
from d4s.editors.parts.part_families import History, LayerHistory, Recursive

if TYPE_CHECKING:
    from d4s.editors.edited_layers import EditedLayer
    from d4s.editors.least_squares_settings import LocateThenEdit
    from d4s.editors.protocol import Prepared, State, StepRecord
    from d4s.models.language_model import LanguageModel
    from d4s.models.model_shape import Shape

LOSS_ROUNDING = 1e-12  # of what the original weight puts out: below lies rounding, where an edit found nothing to do


class Forget(History):
    """Forget earlier edits (MEMIT)."""

    kind: Literal["none"] = "none"

    label: ClassVar[str] = "No history"
    formula: ClassVar[str] = "*M = 0*: earlier edits are forgotten"
    remembers: ClassVar[bool] = False

    def at(self, layer: "EditedLayer") -> LayerHistory:
        """A solver that never grows."""
        return SolverHistory(layer, grows=False)


class KeepKeys(History):
    """Keep the keys of earlier edits as preserved (AlphaEdit)."""

    kind: Literal["keys"] = "keys"

    label: ClassVar[str] = "Earlier keys kept"
    formula: ClassVar[str] = "*M = Σ kᵀk* over earlier edits"

    def at(self, layer: "EditedLayer") -> LayerHistory:
        """A solver that grows by the keys of every step."""
        return SolverHistory(layer, grows=True)


class Refit(History):
    """Solve for all edits so far from the original weights (D4S)."""

    kind: Literal["refit"] = "refit"

    label: ClassVar[str] = "All edits refitted"
    formula: ClassVar[str] = "Δ solved for all edits from *W₀*: *Δ ← Δ + (share · R − K Δᵀ)ᵀ G*, with *M* as for keys"
    refits: ClassVar[bool] = True
    starts_at_original: ClassVar[bool] = True

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """Targets of the edited model."""
        if editor.target.at != "original":
            yield f"history `refit` solves from the original weights, so target.at must be `original`, found `{editor.target.at}`"

    def at(self, layer: "EditedLayer") -> LayerHistory:
        """A solver that grows by the keys of every step."""
        return RefitHistory(layer, grows=True)

    def fold(self, settings: "LocateThenEdit", index: int, model: "LanguageModel", prepared: "Prepared", state: "State") -> Weight:
        """The change of the weight of an edited layer, solved from all records at once."""
        import torch

        layer = settings.layers[index]
        if not state.records:
            return torch.zeros_like(model.weight(layer), dtype=torch.float64)
        weight = settings.residual_schedule.weight(index, len(settings.layers))
        device = model.state_device(layer)
        keys = torch.cat([record[f"{layer}.keys"] for record in state.records]).to(device).double()
        residuals = torch.cat([residuals_of(record, layer) for record in state.records]).to(device).double()
        return settings.preservation.matrix(layer, prepared, model).solve(weight * residuals, keys)


class AdaptiveRefit(History):
    """Solve for all edits so far with a weight of what is preserved that grows while too much of it is lost (LyapLock)."""

    kind: Literal["adaptive_refit"] = "adaptive_refit"
    slack: Positive = Field(default=60.0, description="Loss of what is preserved that is let pass, in units of the first edit's.")

    label: ClassVar[str] = "Refit, growing weight"
    formula: ClassVar[str] = "*Δ = (Σ rᵀk)(q A₀ + M)⁻¹*; *q ← max(1, q + loss / (slack · first loss) − 1)*, *loss = tr(Δ A₀ Δᵀ)*"
    refits: ClassVar[bool] = True
    replays: ClassVar[bool] = True
    factors_each_step: ClassVar[bool] = True

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """What has no second moment, and targets of the original model."""
        if editor.preservation.kind != "moments":
            yield "history `adaptive_refit` weighs the second moment, so preservation.kind must be `moments`"
        if editor.target.at != "current":
            yield "history `adaptive_refit` measures what earlier edits left, so target.at must be `current`"

    def at(self, layer: "EditedLayer") -> LayerHistory:
        """Sums over no edits, and the queue at 1."""
        return AdaptiveHistory(layer, self.slack)

    def bytes(self, shape: "Shape") -> int:
        """The Gram matrix of all keys, and their products with residuals: d² + m d in float64."""
        return super().bytes(shape) + DOUBLE * shape.mlp_out


class SolverHistory(LayerHistory):
    """A history that is the solver of a layer: what is preserved, with the keys of earlier edits where it grows by them."""

    def __init__(self, layer: "EditedLayer", *, grows: bool) -> None:
        self.solver, self.grows = layer.make_solver(), grows

    def fit(
        self, layer: "EditedLayer", keys: Keys, unprefixed: Keys, residuals: Residuals, *, preserve_keys: bool, context: Context | None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the layer by the gain of the keys."""
        from d4s.editors.least_squares import exact_gain

        numbers: dict[str, float] = {}
        if layer.settings.solver == "hard_constraint":
            directions, met = self.solver.apply(keys), keys if layer.settings.keys.shared_key else unprefixed
            gain = exact_gain(directions, met).contiguous()
            numbers = _rank_one_numbers(directions, met, residuals) | {"key_cosine": _mean_cosine(unprefixed, keys)}
        else:
            gain = self._gain(keys, context, preserve_keys=preserve_keys).contiguous()
        record, update = self._add(layer, keys, residuals, gain)
        key_gain = float((unprefixed * gain).sum(1).mean())
        return record, {"key_gain": key_gain, "gain_norm": float(gain.norm()), "update_norm": update, **numbers}

    def replay(self, layer: "EditedLayer", record: "StepRecord") -> None:
        """Take a recorded step over, with the very operations that made it."""
        keys = layer.keys_of(record)
        gain = self.solver.add(keys).contiguous() if keys is not None and self.grows else None
        self._replay(layer, record, keys, gain)

    def preserve_keys(self, keys: Keys) -> None:
        """Add keys to the solver, where it grows."""
        if self.grows:
            self.solver.add(keys)

    def recursive(self, layer: "EditedLayer") -> Iterator[Recursive]:
        """The solver, where it is recursive."""
        from d4s.editors.least_squares import RecursiveSolver, within_basis

        inner = within_basis(self.solver)
        if isinstance(inner, RecursiveSolver):
            yield inner, layer.preserved.matrix.clone(), layer.preserved.basis

    def tensors(self) -> dict[str, Tensor]:
        """The Gram matrix of earlier keys with what is preserved, where the solver grows and holds it."""
        from d4s.editors.least_squares import DirectSolver, within_basis

        inner = within_basis(self.solver)
        return {"gram": inner.matrix} if self.grows and isinstance(inner, DirectSolver) else {}

    def _gain(self, keys: Keys, context: Context | None, *, preserve_keys: bool) -> Keys:
        """The gain of keys; with context K_p, rows K (A₀ + M + K_pᵀ K_p + Kᵀ K)⁻¹, and K alone is added to M."""
        import torch

        if context is None:
            return self.solver.add(keys) if preserve_keys and self.grows else self.solver.gain(keys)
        gain = self.solver.gain(torch.cat([keys, context]))[: len(keys)]
        if preserve_keys:
            self.preserve_keys(keys)
        return gain

    def _add(self, layer: "EditedLayer", keys: Keys, residuals: Residuals, gain: Keys) -> tuple[dict[str, Tensor], float]:
        """Add a step to the layer, after what is done to steps."""
        return layer.transform.add(layer, keys, residuals, gain)

    def _replay(self, layer: "EditedLayer", record: "StepRecord", keys: Keys | None, gain: Keys | None) -> None:
        """Add a recorded step's factors."""
        if f"{layer.number}.left" not in record:
            return
        if keys is not None:
            layer.transform.replay_keys(keys)
        device = layer.delta.device
        layer.write(record[f"{layer.number}.left"].to(device), record[f"{layer.number}.right"].to(device))


def _rank_one_numbers(directions: Keys, met: Keys, residuals: Residuals) -> dict[str, float]:
    """Numbers of ROME's step r uᵀ / (k·u): ‖r‖, |k·u| and ‖u‖, means over the requests."""
    return {
        "numerator_norm": float(residuals.norm(dim=1).mean()),
        "denominator": float((directions * met).sum(1).abs().mean()),
        "direction_norm": float(directions.norm(dim=1).mean()),
    }


def _mean_cosine(left: Keys, right: Keys) -> float:
    """The mean over requests of the cosine of two keys; 0 where one is 0."""
    products, norms = (left * right).sum(1), left.norm(dim=1) * right.norm(dim=1)
    return float((products / norms.clamp(min=1e-300)).mean())


class RefitHistory(SolverHistory):
    """A solver history whose steps also correct what the change so far adds at the new keys."""

    def _add(self, layer: "EditedLayer", keys: Keys, residuals: Residuals, gain: Keys) -> tuple[dict[str, Tensor], float]:
        return {}, layer.write(residuals - keys @ layer.delta.mT, gain)

    def _replay(self, layer: "EditedLayer", record: "StepRecord", keys: Keys | None, gain: Keys | None) -> None:
        if keys is not None and gain is not None:
            residuals = residuals_of(record, layer.number).to(layer.delta.device).double()
            layer.write(layer.residual_weight * residuals - keys @ layer.delta.mT, gain)


class AdaptiveHistory(LayerHistory):
    """Sums over all edits, solved at each step for Δ = G (q A₀ + M)⁻¹ with G = Σ r kᵀ and M = Σ k kᵀ.

    Residuals r count from the original weight: r = weighted residual + Δ k. After each step the loss of what is preserved,
    tr(Δ A₀ Δᵀ), moves the queue: q ← max(1, q + loss / (slack · first loss) − 1). The first loss is that of the first step
    that changes anything; until then the queue stays.
    """

    def __init__(self, layer: "EditedLayer", slack: float) -> None:
        import torch

        self._slack, self._base = slack, layer.preserved.matrix
        self._gram, self._cross = torch.zeros_like(self._base), torch.zeros_like(layer.delta)
        self._queue, self._first_loss = 1.0, 0.0
        self._loss_floor = LOSS_ROUNDING * self._loss(layer.original.to(layer.delta))

    def fit(
        self, layer: "EditedLayer", keys: Keys, unprefixed: Keys, residuals: Residuals, *, preserve_keys: bool, context: Context | None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Solve with the new keys; the record holds their residuals from the original weight."""
        before, queue = layer.delta, self._queue
        residuals = residuals + keys @ before.mT
        self._add_and_solve(layer, keys, residuals)
        return {f"{layer.number}.residuals": residuals.cpu()}, {"queue": queue, "update_norm": float((layer.delta - before).norm())}

    def replay(self, layer: "EditedLayer", record: "StepRecord") -> None:
        """Take a recorded step over, with the very operations that made it."""
        keys, residuals = (record[f"{layer.number}.{name}"].to(layer.delta.device).double() for name in ("keys", "residuals"))
        self._add_and_solve(layer, keys, residuals)

    def preserve_keys(self, keys: Keys) -> None:
        """Nothing: whatever is fitted stays in every later solve."""

    def _add_and_solve(self, layer: "EditedLayer", keys: Keys, residuals: Residuals) -> None:
        """Add rows, solve, and move the queue."""
        import torch

        from d4s.editors.least_squares import factor

        self._gram.addmm_(keys.mT, keys)
        self._cross.addmm_(residuals.mT, keys)
        lower = factor(torch.add(self._gram, self._base, alpha=self._queue), "the preserved matrix plus the keys")
        layer.delta = torch.cholesky_solve(self._cross.mT, lower).mT
        loss = self._loss(layer.delta)
        self._first_loss = self._first_loss or (loss if loss > self._loss_floor else 0.0)
        if self._first_loss:
            self._queue = max(1.0, self._queue + loss / (self._slack * self._first_loss) - 1.0)

    def _loss(self, change: Weight) -> float:
        """What a change does to what is preserved."""
        return float(((change @ self._base) * change).sum())


def residuals_of(record: "StepRecord", layer: int) -> Tensor:
    """Residuals of a layer in a record; those that all layers share stand there once, as `residuals`."""
    own = f"{layer}.residuals"
    return record[own if own in record else "residuals"]
