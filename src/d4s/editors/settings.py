"""The settings of editors: one frozen model per family, made of typed parts; a study's editor resolved into one of them.

Nothing here imports torch, so that a study can be resolved, hashed and planned without a model. A named method is a row
of `presets.py`; `resolve` looks it up, lays the study's changes over it and refuses what the algebra does not allow.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from d4s.config import Count, Frozen, describe
from d4s.editors.parts import (
    KeySettings,
    Layers,
    NotNegative,
    NullSpacePreservation,
    Positive,
    PrepareSettings,
    Preservation,
    TargetSettings,
)
from d4s.editors.presets import PRESETS, columns_of, settings_of
from d4s.errors import SettingsError
from d4s.registry import nearest

Need = Literal["contexts", "moments", "targets", "prepare"]


class LeastSquaresSettings(Frozen):
    """What every editor that solves for a change of MLP output weights has to say."""

    layers: Layers = Field(description="Edited layers, ascending; the last one is the layer of the target.")
    target: TargetSettings
    keys: KeySettings = KeySettings()
    spread: Literal["remeasured", "static", "even", "root"] = Field(
        default="remeasured",
        description="Share of the residual at layer i of L: 1/(L-i) re-measured after each layer (MEMIT), 1/(L-i) of the residual "
        "measured once (D4S as released), 1/L of it, or 1/sqrt(L-i) re-measured (PMET).",
    )
    preserve: Preservation = Field(description="What a change of weights must leave alone.")

    @property
    def needs(self) -> frozenset[Need]:
        """Which artefacts the editor reads beside model and facts."""
        found: set[Need] = {"contexts"}
        if self.preserve.kind != "identity":
            found.add("moments")
        if self.preserve.kind == "null_space":
            found.add("prepare")
        if self.target.at == "original":
            found.add("targets")
        return frozenset(found)

    def shared_targets(self) -> TargetSettings | None:
        """Settings of the targets that the `targets` stage computes; None where targets follow the edited model."""
        return self.target if self.target.at == "original" else None

    def prepare_settings(self) -> PrepareSettings | None:
        """Settings of the `prepare` stage; None where the editor needs none."""
        if isinstance(self.preserve, NullSpacePreservation):
            return PrepareSettings(layers=self.layers, threshold=self.preserve.threshold)
        return None

    @model_validator(mode="after")
    def _layers_fit(self) -> "LeastSquaresSettings":
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must ascend without repeats, found {list(self.layers)}")
        if self.target.layer != self.layers[-1]:
            raise ValueError(
                f"the residual is measured at the last edited layer, so target.layer ({self.target.layer}) must be {self.layers[-1]}"
            )
        return self


class LocateThenEdit(LeastSquaresSettings):
    """Find where a fact is looked up, optimise what should be there, solve for weights that put it there, request by request."""

    family: Literal["locate_then_edit"] = "locate_then_edit"
    history: Literal["none", "keys", "rewind"] = Field(
        default="none",
        description="Forget earlier edits, keep their keys as preserved, or solve all edits so far anew from the original weights.",
    )
    solver: Literal["least_squares", "hard_constraint"] = Field(
        default="least_squares",
        description="Fit in balance with what is preserved, or hit the target exactly at the bare prompt's key (ROME).",
    )
    batch: Count = Field(default=1, description="Requests edited together.")

    @model_validator(mode="after")
    def _algebra_allows(self) -> "LocateThenEdit":
        if self.history == "rewind" and self.target.at == "current":
            raise ValueError("history `rewind` solves from the original weights, so target.at must be `original`, found `current`")
        if self.solver == "hard_constraint":
            wrong = [
                text
                for holds, text in (
                    (len(self.layers) == 1, f"one layer, found {len(self.layers)}"),
                    (self.batch == 1, f"a batch of one, found {self.batch}"),
                    (self.history == "none", f"history `none`, found `{self.history}`"),
                    (self.preserve.kind != "null_space", "no null space"),
                )
                if not holds
            ]
            if wrong:
                raise ValueError(f"solver `hard_constraint` meets one target exactly and needs {'; '.join(wrong)}")
        return self


class OneTimeBatch(LeastSquaresSettings):
    """All requests so far solved at once, as one batch from the original weights: what a sequence is measured against."""

    family: Literal["one_time_batch"] = "one_time_batch"
    batch: Literal[1] = Field(default=1, description="Requests recorded per step; they are solved together all the same.")

    @model_validator(mode="after")
    def _original_targets(self) -> "OneTimeBatch":
        if self.target.at != "original":
            raise ValueError("a one-time batch starts from the original weights, so target.at must be `original`, found `current`")
        return self


class FineTune(Frozen):
    """Fine-tuning of one MLP output matrix on each request."""

    family: Literal["fine_tune"] = "fine_tune"
    objective: Literal["prompt_last", "target"] = Field(
        description="Score every target token at the last prompt token (FT-L), or each at its own place (FT-M)."
    )
    layer: int = Field(ge=0, description="Block whose MLP output matrix is tuned.")
    steps: Count = Field(default=25, description="At most so many steps of Adam per batch.")
    lr: Positive = Field(default=5e-4, description="Learning rate of Adam.")
    stop_loss: NotNegative = Field(default=1e-2, description="Stop once the loss is below this.")
    bound: Positive | None = Field(default=None, description="Largest change of any weight by one edit.")
    batch: Count = Field(default=1, description="Requests tuned together.")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose weights change."""
        return (self.layer,)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing beside model and facts."""
        return frozenset()

    def shared_targets(self) -> None:
        """Fine-tuning has no target hidden states."""

    def prepare_settings(self) -> None:
        """Fine-tuning prepares nothing."""


class Unedited(Frozen):
    """The unedited model, as the reference in every table."""

    family: Literal["unedited"] = "unedited"
    batch: Count = Field(default=1, description="Requests per step; changes no result.")

    @property
    def layers(self) -> tuple[int, ...]:
        """No layer changes."""
        return ()

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing beside model and facts."""
        return frozenset()

    def shared_targets(self) -> None:
        """There are no targets."""

    def prepare_settings(self) -> None:
        """There is nothing to prepare."""


FamilySettings = LocateThenEdit | OneTimeBatch | FineTune | Unedited
EditorSettings = Annotated[FamilySettings, Field(discriminator="family")]
FAMILY_SETTINGS = {model.model_fields["family"].default: model for model in get_args(FamilySettings)}


# --- from a study's words to settings ---------------------------------------------------------------------------------


def resolve(name: str, overrides: Mapping[str, Any], tuned_as: str) -> FamilySettings:
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
    if preset not in PRESETS:
        hint = nearest(str(preset), [*PRESETS])
        raise SettingsError(f"editor {name!r}: no preset is called {preset!r}; {hint}, or define it with `preset:` or `family:`")
    if tuned_as not in columns_of(preset):
        raise SettingsError(
            f"editor {name!r}: preset {preset!r} has no settings for models like {tuned_as!r}; {nearest(tuned_as, columns_of(preset))}"
        )
    return _validated(settings_of(preset, tuned_as, changes), f"editor {name!r}")


def _validated(settings: Mapping[str, Any], where: str) -> FamilySettings:
    family = settings.get("family")
    if family not in FAMILY_SETTINGS:
        raise SettingsError(f"{where}: unknown family {family!r}; {nearest(str(family), [*FAMILY_SETTINGS])}")
    model = FAMILY_SETTINGS[family]
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(describe(error, model, where)) from None
