"""The settings of editors: one frozen model per family, made of typed parts; a study's editor resolved into one of them.

Nothing here imports torch, so that a study can be resolved, hashed and planned without a model. A named method is a row
of `presets.py`; `resolve` looks it up, lays the study's changes over it and refuses what the algebra does not allow.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from d4s.config import Count, Frozen, describe
from d4s.editors.part_settings import (
    AnchorJobSettings,
    AnchorSettings,
    BasisSettings,
    DeltaTransform,
    KeySettings,
    Layers,
    NotNegative,
    NullSpacePreservation,
    Positive,
    PrepareSettings,
    Preservation,
    Rect,
    Rounds,
    SimIE,
    StepTransform,
    TargetSettings,
)
from d4s.editors.presets import PRESETS, hparams_of, model_kinds_of
from d4s.editors.residual_schedule import ResidualSchedule
from d4s.errors import SettingsError
from d4s.registry import nearest

InputKind = Literal["contexts", "moments", "targets", "prepare"]


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

    def shared_targets(self) -> TargetSettings | None:
        """Settings of the targets that the `targets` stage computes; None where there are none at the original weights."""
        return None

    def prepare_settings(self) -> PrepareSettings | None:
        """Settings of the `prepare` stage; None where the editor needs none."""
        return None


class LeastSquaresSettings(Family):
    """What every editor that solves for a change of MLP output weights has to say."""

    layers: Layers = Field(description="Edited layers, ascending; the last one is the layer of the target.")
    target: TargetSettings
    keys: KeySettings = KeySettings()
    anchor: AnchorSettings | None = Field(default=None, description="Rescale targets to the usual norm (NAS).")
    residual_schedule: ResidualSchedule = Field(
        default="remeasured",
        description="Share of the residual at layer i of L: 1/(L-i) re-measured after each layer (MEMIT), 1/(L-i) of the residual "
        "measured once (D4S as released), 1/L of it, 1/sqrt(L-i) re-measured (PMET), or all of a target of the layer's own (BLUE).",
    )
    preservation: Preservation = Field(description="What a change of weights must leave alone.")

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """Which artefacts an edit reads; a null space is prepared from second moments once, and the edits read it alone."""
        found: set[InputKind] = {"contexts"}
        if self.preservation.kind == "moments":
            found.add("moments")
        if self.prepare_settings() is not None:
            found.add("prepare")
        if self.target.at == "original":
            found.add("targets")
        return frozenset(found)

    @property
    def moment_layers(self) -> tuple[int, ...]:
        """Layers whose second moments are taken: for the edits themselves, or for what is prepared from them."""
        return () if self.preservation.kind == "identity" else self.layers

    def shared_targets(self) -> TargetSettings | None:
        """Settings of the targets that the `targets` stage computes; None where targets follow the edited model."""
        return self.target if self.target.at == "original" else None

    def prepare_settings(self) -> PrepareSettings | None:
        """Settings of the `prepare` stage; None where the editor needs none."""
        basis = anchor = None
        if isinstance(self.preservation, NullSpacePreservation):
            basis = BasisSettings(layers=self.layers, threshold=self.preservation.threshold)
        if self.anchor is not None:
            anchor = AnchorJobSettings(target=self.target, anchor=self.anchor)
        return PrepareSettings(basis=basis, anchor=anchor) if basis or anchor else None

    @model_validator(mode="after")
    def _layers_fit(self) -> "LeastSquaresSettings":
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must ascend without repeats, found {list(self.layers)}")
        if self.anchor is not None and self.residual_schedule == "own":
            raise ValueError(
                "anchor rescales one target by the usual norm at its layer, and residual_schedule `own` has a target at each layer"
            )
        if self.target.layer != self.layers[-1]:
            raise ValueError(
                f"the residual is measured at the last edited layer, so target.layer ({self.target.layer}) must be {self.layers[-1]}"
            )
        if self.residual_schedule == "own" and self.target.at == "original":
            raise ValueError(
                "residual_schedule `own` optimises a target per layer with the layers below edited, so target.at must be `current`"
            )
        if self.target.hook == "mlp_and_attention" and self.target.layer == 0:
            raise ValueError(
                "target.hook `mlp_and_attention` runs the target's block again after the one below, so target.layer must be 1 or more"
            )
        return self


class LocateThenEdit(LeastSquaresSettings):
    """Find where a fact is looked up, optimise what should be there, solve for weights that put it there, request by request."""

    family: Literal["locate_then_edit"] = "locate_then_edit"
    history: Literal["none", "keys", "refit", "adaptive_refit"] = Field(
        default="none",
        description="Forget earlier edits, keep their keys as preserved, refit all edits so far from the original weights, or do so "
        "with a weight of what is preserved that grows while too much of it is lost (LyapLock).",
    )
    slack: Positive = Field(
        default=60.0, description="With history `adaptive_refit`: loss of what is preserved that is let pass, in units of the first edit's."
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
        if self.history in {"refit", "adaptive_refit"}:
            return "refit"
        folds = self.delta_transform is not None and self.delta_transform.kind in {"prune", "interpolate"}
        return "dense" if folds or (self.step_transform is not None and self.step_transform.kind == "rect") else "additive"

    @model_validator(mode="after")
    def _algebra_allows(self) -> "LocateThenEdit":
        if broken := [reason for holds, reason in self._rules() if not holds]:
            raise ValueError("; ".join(broken))
        return self

    def _rules(self) -> Iterator[tuple[bool, str]]:
        """What must hold for the parts to go together, each with the reason why."""
        refits, step_transform, delta_transform = self.history in {"refit", "adaptive_refit"}, self.step_transform, self.delta_transform
        if self.history == "refit":
            yield (
                self.target.at == "original",
                "history `refit` solves from the original weights, so target.at must be `original`, found `current`",
            )
        if self.history == "adaptive_refit":
            yield (
                self.preservation.kind == "moments",
                "history `adaptive_refit` weighs the second moment, so preservation.kind must be `moments`",
            )
            yield self.target.at == "current", "history `adaptive_refit` measures what earlier edits left, so target.at must be `current`"
        if self.solver == "hard_constraint":
            why = "solver `hard_constraint` meets one target exactly and needs"
            yield len(self.layers) == 1, f"{why} one layer, found {len(self.layers)}"
            yield self.batch == 1, f"{why} a batch of one, found {self.batch}"
            yield self.history == "none", f"{why} history `none`, found `{self.history}`"
            yield self.preservation.kind != "null_space", f"{why} no null space"
        yield self.solver == "hard_constraint" or not self.keys.shared_key, "keys.shared_key is about solver `hard_constraint` only"
        yield (
            self.keys.mode != "refreshed" or self.history == "refit",
            "keys.mode `refreshed` refits earlier edits, so history must be `refit`",
        )
        yield (
            self.neurons == 1.0 or (not refits and self.preservation.kind != "null_space"),
            ("neurons below 1 solve for another part of each step, so history must be `none` or `keys`, without a null space"),
        )
        yield (
            self.rounds is None or (not refits and self.residual_schedule != "own"),
            ("rounds measure what the first one left, so history must be `none` or `keys` and residual_schedule not `own`"),
        )
        yield (
            not isinstance(step_transform, SimIE) or (self.state_kind == "additive" and self.rounds is None),
            "step_transform `simie` sees the keys of every step once, so neither rounds nor a delta_transform that makes one change of all "
            "go with it",
        )
        yield (
            step_transform is None or not refits,
            "step_transform changes a step, and histories `refit` and `adaptive_refit` solve for the whole change",
        )
        yield (
            not isinstance(step_transform, Rect) or not step_transform.feedback or self.history == "keys",
            ("step_transform.feedback hands what was not written to the next solve of the same system, so history must be `keys`"),
        )
        yield (
            delta_transform is None or delta_transform.kind != "interpolate" or not refits,
            ("delta_transform `interpolate` keeps requests for validation beside the change, so history must be `none` or `keys`"),
        )


class OneTimeBatch(LeastSquaresSettings):
    """All requests so far solved at once, as one batch from the original weights: what a sequence is measured against."""

    family: Literal["one_time_batch"] = "one_time_batch"
    batch: Literal[1] = Field(default=1, description="Requests recorded per step; they are solved together all the same.")

    @model_validator(mode="after")
    def _original_targets(self) -> "OneTimeBatch":
        if self.target.at != "original":
            raise ValueError("a one-time batch starts from the original weights, so target.at must be `original`, found `current`")
        if self.keys.mode == "refreshed" or self.keys.shared_key:
            raise ValueError("a one-time batch reads its keys once, so keys.mode `refreshed` and keys.shared_key mean nothing for it")
        return self


class FineTune(Family):
    """Fine-tuning of one MLP output matrix on each request."""

    family: Literal["fine_tune"] = "fine_tune"
    objective: Literal["prompt_last", "target"] = Field(
        description="Score every target token at the last prompt token (FT-L), or each at its own place (FT-M)."
    )
    layer: int = Field(ge=0, description="Block whose MLP output matrix is tuned.")
    steps: Count = Field(default=25, description="Largest number of Adam steps per batch.")
    lr: Positive = Field(default=5e-4, description="Learning rate of Adam.")
    stop_loss: NotNegative = Field(default=1e-2, description="Stop once the loss is below this.")
    bound: Positive | None = Field(default=None, description="Largest change of any weight by one edit.")
    batch: Count = Field(default=1, description="Requests tuned together.")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose weights change."""
        return (self.layer,)


class Grace(Family):
    """A codebook beside one layer that answers near the prompts of edits; no weight changes."""

    family: Literal["grace"] = "grace"
    layer: int = Field(ge=0, description="Block whose MLP output is replaced at the last prompt token; the key is what enters it.")
    eps_init: Positive = Field(default=1.0, description="Radius of a new entry: Euclidean distance between keys.")
    value: Literal["warm", "cold"] = Field(
        default="cold", description="A value starts from the layer's own output (warm) or from random numbers between 0 and 1 (cold)."
    )
    steps: Count = Field(default=50, description="Largest number of Adam steps per value.")
    lr: Positive = Field(default=1.0, description="Learning rate of Adam.")
    stop_loss: NotNegative = Field(default=0.0, description="Stop once the target's negative log-likelihood per token is below this.")
    batch: Literal[1] = Field(default=1, description="Requests per step; each makes or changes one entry.")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer that the codebook stands beside."""
        return (self.layer,)


class KnowledgeNeurons(Family):
    """Find the neurons that the original answer hangs on, and write the new answer's embedding in place of the old one's into them."""

    family: Literal["knowledge_neurons"] = "knowledge_neurons"
    steps: Count = Field(default=20, description="Points between no activation and the present one at which gradients are taken.")
    threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="Neurons count whose attribution is above this share of the largest one."
    )
    batch: Literal[1] = Field(default=1, description="Requests per step; each has neurons of its own.")

    @property
    def layers(self) -> tuple[int, ...]:
        """None: neurons are searched in all layers."""
        return ()


class Unedited(Family):
    """The unedited model, as the reference in every table."""

    family: Literal["unedited"] = "unedited"
    batch: Count = Field(default=1, description="Requests per step; changes no result.")

    @property
    def layers(self) -> tuple[int, ...]:
        """No layer changes."""
        return ()


FamilySettings = LocateThenEdit | OneTimeBatch | FineTune | Grace | KnowledgeNeurons | Unedited
EditorSettings = Annotated[FamilySettings, Field(discriminator="family")]
FAMILY_SETTINGS = {model.model_fields["family"].default: model for model in get_args(FamilySettings)}


# --- from a study's words to settings ---------------------------------------------------------------------------------


def resolve(name: str, overrides: Mapping[str, Any], hparams_for: str) -> FamilySettings:
    """The settings of a named editor for a column of models.

    `overrides` is what a study says under that name: nothing for a preset, `{"preset": NAME, ...}` for a changed one, or
    a whole definition with its `family`.

    Raises:
        SettingsError: if the name, the column, a key or a value is unknown, or the parts do not go together.
    """
    if overrides and name in PRESETS:
        raise SettingsError(f"editor {name!r} is a preset and cannot be redefined; give the changed one a name of its own")
    changes = {key: value for key, value in overrides.items() if key != "preset"}
    preset = overrides.get("preset", None if "family" in changes else name)
    if preset is None:
        return _validated(changes, f"editor {name!r}")
    if not isinstance(preset, str) or preset not in PRESETS:
        hint = nearest(str(preset), [*PRESETS])
        raise SettingsError(f"editor {name!r}: no preset is called {preset!r}; {hint}, or define it with `preset:` or `family:`")
    if hparams_for not in model_kinds_of(preset):
        raise SettingsError(
            f"editor {name!r}: preset {preset!r} has no settings for models like {hparams_for!r}; "
            f"{nearest(hparams_for, model_kinds_of(preset))}"
        )
    return _validated(hparams_of(preset, hparams_for, changes), f"editor {name!r}")


def _validated(settings: Mapping[str, Any], where: str) -> FamilySettings:
    family = settings.get("family")
    if not isinstance(family, str) or family not in FAMILY_SETTINGS:
        raise SettingsError(f"{where}: unknown family {family!r}; {nearest(str(family), [*FAMILY_SETTINGS])}")
    model = FAMILY_SETTINGS[family]
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(describe(error, model, where)) from None
