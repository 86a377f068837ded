"""The settings of editors that solve for a change of MLP output weights: composed of parts, which say what goes with what."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from d4s.editors.constants import REFACTOR_EVERY, solver_kind
from d4s.editors.family_settings import SINGLE, Family, ModelPasses
from d4s.editors.parts import key_rule, target_rule
from d4s.editors.parts.input_settings import AnchorJobSettings, BasisSettings, PrepareSettings
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.part import DOUBLE, Choice, Layers, NotNegative, Part, Positive
from d4s.editors.parts.part_families import DeltaTransform, History, InputKind, Preservation, ResidualSchedule, StepTransform
from d4s.editors.parts.target_rule import AnchorSettings, TargetSettings
from d4s.settings_base import Count, Frozen

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape

SOLVING, LOOP = "d4s.editors.least_squares", "d4s.editors.locate_then_edit"
SOLVERS = {
    "least_squares": Choice("solver", "least_squares", "*G = K (A₀ + M + KᵀK)⁻¹*", SOLVING),
    "hard_constraint": Choice(
        "solver",
        "hard_constraint",
        "*G = u / (k·u)* with *u = A₀⁻¹ k̄*: the target is met exactly at the unprefixed prompt's key *k*",
        SOLVING,
    ),
}
NEURONS = Choice(
    "neurons", "share", "the system of the neurons alone that hold a share of *Σ|k|*; the others' weights stay", SOLVING, "chosen neurons"
)
ROUNDS = Choice("rounds", "bounded", "further passes over the layers while *above < ‖z − h‖ < below*", LOOP, "rounds")


class Rounds(Frozen):
    """Go over the layers again for requests whose residual is still large (NSE)."""

    most: Count = Field(default=2, description="Rounds at most.")
    above: NotNegative = Field(description="Requests with a residual of a smaller norm are done.")
    below: Positive = Field(description="Requests with a residual of a larger norm are left out.")


class LeastSquaresSettings(Family):
    """What every editor that solves for a change of MLP output weights has to say."""

    layers: Layers = Field(description="Edited layers, ascending; the last one is the layer of the target.")
    target: TargetSettings
    keys: KeySettings = KeySettings()
    anchor: AnchorSettings | None = Field(default=None, description="Rescale targets to the usual norm (NAS).")
    residual_schedule: ResidualSchedule = Field(
        default="remeasured",
        validate_default=True,
        description="Share of the residual at layer i of L: 1/(L-i) re-measured after each layer (MEMIT), 1/(L-i) of the residual "
        "measured once (D4S as released), 1/L of it, 1/sqrt(L-i) re-measured (PMET), or all of a target of the layer's own (BLUE; "
        "MEMIT-FE).",
    )
    preservation: Preservation = Field(description="What a change of weights must leave alone.")

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """Which artefacts an edit reads; a null space is prepared from second moments once, and the edits read it alone."""
        found: set[InputKind] = {"contexts", *self.preservation.inputs}
        if self.prepare_settings() is not None:
            found.add("prepare")
        if self.target.at == "original":
            found.add("targets")
        return frozenset(found)

    @property
    def moment_layers(self) -> tuple[int, ...]:
        """Layers whose second moments are taken: for the edits themselves, or for what is prepared from them."""
        return self.layers if self.preservation.uses_moments else ()

    def shared_targets(self) -> TargetSettings | None:
        """Settings of the targets that the `targets` stage computes; None where targets follow the edited model."""
        return self.target if self.target.at == "original" else None

    def prepare_settings(self) -> PrepareSettings | None:
        """Settings of the `prepare` stage; None where the editor needs none."""
        basis = anchor = None
        if self.preservation.basis_threshold is not None:
            basis = BasisSettings(layers=self.layers, threshold=self.preservation.basis_threshold)
        if self.anchor is not None:
            anchor = AnchorJobSettings(target=self.target, anchor=self.anchor)
        return PrepareSettings(basis=basis, anchor=anchor) if basis or anchor else None

    def step_targets(self) -> TargetSettings | None:
        """Settings of the targets where they follow the edited model."""
        return self.target if self.target.at == "current" else None

    @property
    def null_space_layers(self) -> tuple[int, ...]:
        """All edited layers where the change is confined to a null space."""
        return self.layers if self.preservation.is_confined else ()

    def choices(self) -> Iterator[Choice]:
        """What the editor is made of, in the order of the loop; what it leaves at nothing is not among them."""
        yield from self.target.choices()
        if self.anchor is not None:
            yield target_rule.ANCHOR
        yield from self.keys.choices()
        yield from self.residual_schedule.choices()
        yield from self.preservation.choices()

    @model_validator(mode="after")
    def _goes_together(self) -> "LeastSquaresSettings":
        if found := [*self._conflicts()]:
            raise ValueError("; ".join(found))
        return self

    def _conflicts(self) -> Iterator[str]:
        """Reasons why settings and parts do not go together."""
        if list(self.layers) != sorted(set(self.layers)):
            yield f"layers must ascend without repeats, found {list(self.layers)}"
        elif self.target.layer != self.layers[-1]:
            yield f"the residual is measured at the last edited layer, so target.layer ({self.target.layer}) must be {self.layers[-1]}"
        if self.target.hook == "mlp_and_attention" and self.target.layer == 0:
            yield "target.hook `mlp_and_attention` runs the target's block again after the one below, so target.layer must be 1 or more"
        yield from self.target.conflicts()
        if self.anchor is not None and not self.target.is_one_by_request:
            yield (
                "anchor takes the usual norm from targets that are optimised request by request, so target.align must be left out, and "
                "target.windows too"
            )
        yield from self.residual_schedule.conflicts(self)


class LocateThenEdit(LeastSquaresSettings):
    """Find where a fact is looked up, optimise what should be there, solve for weights that put it there, request by request."""

    family: Literal["locate_then_edit"] = "locate_then_edit"
    history: History = Field(
        default="none",
        validate_default=True,
        description="Forget earlier edits, keep their keys as preserved, solve for all edits so far from the original weights, or do so "
        "with a weight of what is preserved that grows while too much of it is lost (LyapLock).",
    )
    solver: Literal["least_squares", "hard_constraint"] = Field(
        default="least_squares",
        description="Fit in balance with what is preserved, or hit the target exactly at the unprefixed prompt's key (ROME).",
    )
    neurons: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Change only the neurons that hold this share of the summed sizes of a batch's keys (NSE)."
    )
    rounds: Rounds | None = Field(default=None, description="Further rounds for requests that are not there yet (NSE).")
    step_transform: StepTransform | None = Field(default=None, description="What is done to each step before it is written.")
    delta_transform: DeltaTransform | None = Field(
        default=None, description="What is done to the whole change whenever the edited model is asked for."
    )
    batch: Count = Field(default=1, description="Requests edited together.")

    @property
    def state_kind(self) -> Literal["refit", "additive", "dense"]:
        """What the editor's states are: rows to be solved, rows to be summed, or tensors that every step replaces."""
        if self.history.refits:
            return "refit"
        return "dense" if any(part is not None and part.is_dense for part in (self.step_transform, self.delta_transform)) else "additive"

    def measures_residual(self, *, is_first_layer: bool) -> bool:
        """Whether a layer's residual z − h is read from the model as it is when the layer's turn comes.

        Elsewhere the layer takes its share of what was measured before, or of the optimised shift δ, which is z − h of the
        weights that targets were optimised at. This is the difference of MEMIT (measured at each layer) and D4S (δ).

        | residual_schedule | history | target.at | first layer | later layers |
        |---|---|---|---|---|
        | remeasured, root, own_measured | any | any | measured | measured |
        | static, even | refit | original | δ, as edits count from the original weights | δ |
        | static, even, own | any other | current | δ, as targets are the present model's | δ; own: that of the layer's target |
        | static, even | none, keys | original | measured, as the model has changed since | as at the first layer |

        `keys.shared_key` (R-ROME) always measures, from the averaged output.
        """
        starts_at_targets = self.history.starts_at_original or self.target.at == "current"
        return self.residual_schedule.is_remeasured or (is_first_layer and not starts_at_targets) or self.keys.shared_key

    def session_settings(self, edits: int) -> "LocateThenEdit | None":
        """These settings where the change follows only from taking every step again; elsewhere records are folded."""
        return self if self.keys.mode == "refreshed" or self.history.replays else None

    def choices(self) -> Iterator[Choice]:
        """What the editor is made of, in the order of the loop; what it leaves at nothing is not among them."""
        yield from super().choices()
        yield SOLVERS[self.solver]
        yield from self.history.choices()
        if self.neurons < 1:
            yield NEURONS
        if self.rounds is not None:
            yield ROUNDS
        for part in (self.step_transform, self.delta_transform):
            yield from () if part is None else part.choices()

    def parts(self) -> tuple[Part, ...]:
        """All parts of the editor."""
        always = (self.residual_schedule, self.preservation, self.history)
        return (*always, *(part for part in (self.step_transform, self.delta_transform) if part is not None))

    # --- memory and work ----------------------------------------------------------------------------------------------

    @property
    def is_refitted(self) -> bool:
        """Whether the history solves for all edits from the original weights."""
        return self.history.refits

    def requests_per_pass(self, edits: int) -> int:
        """A batch, or all requests that a refresh solves."""
        between = self.batch * self.keys.every
        return max(self.batch, edits // between * between if self.keys.mode == "refreshed" else 0)

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """Every layer's keys and residuals, from passes that end there; those of context from passes of their own."""
        wordings = (wordings if self.target.prefixes else 1) + (1 if self.keys.context else 0)
        return (ModelPasses(wordings * tokens, 2, edits * len(self.layers) / 2),)

    def solver_operations(self, shape: "Shape", edits: int) -> float:
        """Preserved matrices factored at the start, and whenever they are again; each batch solved for and written."""
        d, matrix, steps = float(shape.mlp_width), float(shape.mlp_out), edits / self.batch
        at_start, each = d**3, 6 * d * d * self.batch
        if self.state_kind == "dense" and self.history.remembers:
            each = d**3 / 3
        if self.history.factors_each_step:
            each = d**3 / 3 + 4 * d * matrix
        if self.history.remembers and steps > REFACTOR_EVERY:
            at_start *= 1 + steps // REFACTOR_EVERY
        return len(self.layers) * (at_start + steps * (each + 10 * matrix))

    def view_bytes(self, shape: "Shape", item: int) -> dict[str, float]:
        """The change of each layer; a refit solves for it, within a null space with one more matrix."""
        found = super().view_bytes(shape, item)
        if self.is_refitted:
            found["temporaries"] += (4.0 if self.preservation.is_confined else 3.0) * shape.mlp_width**2 * DOUBLE
        return found

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """Per layer what its parts hold, its change, and its original weight twice; and the largest temporaries.

        Refreshed keys build the layers again beside the old ones.
        """
        per_layer = sum(part.bytes(shape) for part in self.parts()) + (DOUBLE + 2 * item) * shape.mlp_out
        layers = (2 if self.keys.mode == "refreshed" else 1) * len(self.layers)
        temporaries = self._squares_at_work(shape, edits) * shape.mlp_width**2 + 3 * shape.mlp_out
        return {"state": float(layers * per_layer), "temporaries": float(temporaries * DOUBLE)}

    def _squares_at_work(self, shape: "Shape", edits: int) -> int:
        """D x d matrices that the largest computation of a step holds: three where a recursive solver is recomputed.

        Those are the matrix, its factor and the new inverse, beside the old one.
        """
        is_own = self.state_kind == "dense" or self.neurons < 1
        grows = self.history.remembers and not self.history.factors_each_step and self.keys.mode != "refreshed"
        is_recursive = not is_own and solver_kind(shape.mlp_width, batch=self.batch, grows=grows) == "recursive"
        refactors = is_recursive or (self.step_transform is not None and self.step_transform.refactors)
        if refactors and edits // self.batch >= REFACTOR_EVERY:
            return 3
        return 2 if is_own or self.history.factors_each_step else 1

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Records of keys and residuals or of factors, or the dense state as it is."""
        d_in, d_out, layers = shape.mlp_width, shape.width, len(self.layers)
        if self.state_kind == "dense":
            return float(layers * (shape.mlp_out + (d_in * d_in if self.history.remembers else 0)) * DOUBLE)
        if self.state_kind == "refit":
            return float(edits * SINGLE * (layers * d_in + d_out))
        keys = SINGLE * d_in if self.history.remembers else 0
        return float(edits * layers * (DOUBLE * (d_in + d_out) + keys))

    # --- what goes together -------------------------------------------------------------------------------------------

    def _conflicts(self) -> Iterator[str]:
        """Reasons why settings and parts do not go together."""
        yield from super()._conflicts()
        yield from self.history.conflicts(self)
        if self.solver == "hard_constraint":
            yield from self._conflicts_of_hard_constraint()
        elif self.keys.shared_key:
            yield "keys.shared_key is about solver `hard_constraint` only"
        if self.keys.mode == "refreshed" and not self.history.starts_at_original:
            yield "keys.mode `refreshed` refits earlier edits, so history must be `refit`"
        if self.keys.context and (self.history.refits or self.rounds is not None or self.neurons < 1):
            yield (
                "keys.context preserves a text in the one step that edits it, with all neurons, so history must be `none` or `keys`, "
                "without rounds, and neurons 1"
            )
        if self.neurons < 1 and (self.history.refits or self.preservation.is_confined):
            yield "neurons below 1 solve for another part of each step, so history must be `none` or `keys`, without a null space"
        if self.rounds is not None and (self.history.refits or self.residual_schedule.has_own_targets):
            yield "rounds measure what the first one left, so history must be `none` or `keys` and residual_schedule have one target"
        for part in (self.step_transform, self.delta_transform):
            yield from () if part is None else part.conflicts(self)

    def _conflicts_of_hard_constraint(self) -> Iterator[str]:
        why = "solver `hard_constraint` meets one target exactly and needs"
        if len(self.layers) != 1:
            yield f"{why} one layer, found {len(self.layers)}"
        if self.batch != 1:
            yield f"{why} a batch of one, found {self.batch}"
        if self.target.windows is not None or self.keys.context:
            yield f"{why} one key alone, without target.windows and keys.context"
        if self.history.remembers:
            yield f"{why} history `none`, found `{self.history.kind}`"
        if self.preservation.is_confined:
            yield f"{why} no null space"


class OneTimeBatch(LeastSquaresSettings):
    """All requests so far solved at once, as one batch from the original weights: what a sequence is measured against."""

    family: Literal["one_time_batch"] = "one_time_batch"
    batch: Literal[1] = Field(default=1, description="Requests recorded per step; they are solved together all the same.")

    def session_settings(self, edits: int) -> LocateThenEdit:
        """The settings of the sequential family that edit all recorded requests together."""
        shared = {name: getattr(self, name) for name in LeastSquaresSettings.model_fields}
        return LocateThenEdit(**shared, batch=max(1, edits))

    def parts(self) -> tuple[Part, ...]:
        """The parts of the editor that solves the batch."""
        return self.session_settings(1).parts()

    @property
    def is_refitted(self) -> bool:
        """Yes, in one batch."""
        return True

    @property
    def is_deferred(self) -> bool:
        """Yes: the batch is solved at the end."""
        return True

    def replay_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """Keys and residuals of all requests at every layer."""
        return (ModelPasses(float(edits * wordings * tokens), 1, len(self.layers)),)

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Requests with their targets."""
        return float(edits * SINGLE * 4 * shape.width)

    def _conflicts(self) -> Iterator[str]:
        """Reasons why settings and parts do not go together."""
        yield from super()._conflicts()
        if self.target.at != "original":
            yield "a one-time batch starts from the original weights, so target.at must be `original`, found `current`"
        if self.keys.mode == "refreshed" or self.keys.shared_key:
            yield "a one-time batch reads its keys once, so keys.mode `refreshed` and keys.shared_key mean nothing for it"
        if self.keys.context:
            yield "a one-time batch keeps requests without their answers, so keys.context must be false"


def all_choices() -> Iterator[Choice]:
    """Every choice that an editor can be made of, in the order of the loop."""
    yield from target_rule.CHOICES.values()
    yield target_rule.ANCHOR
    yield from key_rule.CHOICES.values()
    for family in (ResidualSchedule, Preservation):
        yield from _choices_of(family)
    yield from SOLVERS.values()
    yield from _choices_of(History)
    yield from (NEURONS, ROUNDS)
    for family in (StepTransform, DeltaTransform):
        yield from _choices_of(family)


def _choices_of(family: type[Part]) -> Iterator[Choice]:
    for part in family.kinds.values():
        yield from part.all_choices()
