"""The settings of editors: one frozen model per family; a study's editor resolved into one of them.

Nothing here imports torch, so that a study can be resolved, hashed and planned without a model. A named method is a row
of `presets.py`; `resolve` looks it up, lays the study's changes over it and refuses what the algebra does not allow.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from d4s.editors.constants import ANSWER_TOKENS, ATTRIBUTED_TOKENS, BACKWARD
from d4s.editors.family_settings import SINGLE, Family, ModelPasses
from d4s.editors.fine_tune_settings import FineTune
from d4s.editors.gradient_settings import GradientRegression, LocFT, Mend
from d4s.editors.least_squares_settings import LocateThenEdit, OneTimeBatch
from d4s.editors.memory_settings import InContext, Serac
from d4s.editors.parts.part import DOUBLE, NotNegative, Positive
from d4s.editors.presets import PRESETS, hparams_of, model_kinds_of
from d4s.editors.settings_file import ModelShape, TunedSettings, check_shape, is_settings_file, read_settings_file, tuned_hparams
from d4s.editors.side_settings import Defer, Melo, Memoir, TransformerPatcher, Wise
from d4s.errors import SettingsError
from d4s.registry import nearest
from d4s.settings_base import Count, describe

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape


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

    @property
    def is_beside_model(self) -> bool:
        """Yes: no weight changes."""
        return True

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """A prompt."""
        return tokens

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient in every step of Adam."""
        return (_descent(edits, self.steps, tokens),)

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """A key and a value per edit."""
        return float(edits * SINGLE * (shape.mlp_width + shape.width))


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

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """A prompt, or the points of all layers between no activation and the present one."""
        return max(tokens, min(ATTRIBUTED_TOKENS, self.steps * ANSWER_TOKENS * shape.layers))

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """Gradients at all points, each from its layer on, and the prompt once."""
        points = ANSWER_TOKENS * self.steps * shape.layers / 2
        return ModelPasses(points, 1, BACKWARD * edits), ModelPasses(tokens, 1, edits)

    def view_bytes(self, shape: "Shape", item: int) -> dict[str, float]:
        """What a session holds."""
        return {"originals": sum(self.held_bytes(shape, item, 0).values())}

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """The original weight of every layer twice, and its change in float64."""
        return {"originals": shape.layers * shape.mlp_out * (DOUBLE + 2.0 * item), "temporaries": 2.0 * shape.mlp_out * DOUBLE}


class Unedited(Family):
    """The unedited model, as the reference in every table."""

    family: Literal["unedited"] = "unedited"
    batch: Count = Field(default=1, description="Requests per step; changes no result.")

    @property
    def layers(self) -> tuple[int, ...]:
        """No layer changes."""
        return ()

    @property
    def is_measured(self) -> bool:
        """No: the answers of the unedited model are the baseline."""
        return False


def _descent(edits: int, steps: int, tokens: int) -> ModelPasses:
    """Steps of gradient descent on one prompt per edit, forward and backward."""
    return ModelPasses(tokens, 1, (1.0 + BACKWARD) * edits * steps)


FamilySettings = (
    LocateThenEdit
    | OneTimeBatch
    | FineTune
    | LocFT
    | GradientRegression
    | Mend
    | Grace
    | Wise
    | Memoir
    | Defer
    | TransformerPatcher
    | Melo
    | Serac
    | InContext
    | KnowledgeNeurons
    | Unedited
)
EditorSettings = Annotated[FamilySettings, Field(discriminator="family")]
FAMILY_SETTINGS = {model.model_fields["family"].default: model for model in get_args(FamilySettings)}


# --- from a study's words to settings ---------------------------------------------------------------------------------


def resolve(name: str, overrides: Mapping[str, Any], hparams_for: str | TunedSettings, shape: ModelShape | None = None) -> FamilySettings:
    """The settings of a named editor for a kind of model, or for a model of a shape where that is known.

    `overrides` is what a study says under that name: nothing for a preset, `{"preset": NAME, ...}` for a changed one, or
    a whole definition with its `family`. `hparams_for` is a column of the presets, a settings file (a path that ends in .yaml) or its
    content; under the same key `overrides` may name another one for this editor.

    Raises:
        SettingsError: if the name, the column, the file, a key or a value is unknown, the file was made for another shape, or the parts
            do not go together.
    """
    if overrides and name in PRESETS:
        raise SettingsError(f"editor {name!r} is a preset and cannot be redefined; give the changed one a name of its own")
    changes = {key: value for key, value in overrides.items() if key not in ("preset", "hparams_for")}
    preset = overrides.get("preset", None if "family" in changes else name)
    if preset is None:
        if "hparams_for" in overrides:
            raise SettingsError(f"editor {name!r}: hparams_for goes with a preset, and this editor is defined by its family; leave it out")
        return _validated(changes, f"editor {name!r}")
    if not isinstance(preset, str) or preset not in PRESETS:
        hint = nearest(str(preset), [*PRESETS])
        raise SettingsError(f"editor {name!r}: no preset is called {preset!r}; {hint}, or define it with `preset:` or `family:`")
    found = _read_hparams(overrides.get("hparams_for", hparams_for), shape)
    if isinstance(found, TunedSettings):
        return _validated(tuned_hparams(found, preset, changes), f"editor {name!r}")
    if found not in model_kinds_of(preset):
        raise SettingsError(
            f"editor {name!r}: preset {preset!r} has no settings for models like {found!r}; "
            f"{nearest(str(found), model_kinds_of(preset))}, or the file that `d4s tune` writes for your model"
        )
    return _validated(hparams_of(preset, found, changes), f"editor {name!r}")


def _read_hparams(hparams_for: str | TunedSettings, shape: ModelShape | None) -> str | TunedSettings:
    """A column as it is, or the content of a settings file.

    Raises:
        SettingsError: if there is no such file, or it was made for a model of another shape than the one that is known.
    """
    found = read_settings_file(Path(hparams_for)) if isinstance(hparams_for, str) and is_settings_file(hparams_for) else hparams_for
    if isinstance(found, TunedSettings) and shape is not None:
        check_shape(found, shape, hparams_for if isinstance(hparams_for, str) else "the settings file")
    return found


def parse_editor(settings: Mapping[str, Any]) -> FamilySettings:
    """The settings that were recorded or handed to a job.

    Raises:
        SettingsError: if they are not those of a family.
    """
    return _validated(settings, "the recorded editor")


def _validated(settings: Mapping[str, Any], where: str) -> FamilySettings:
    family = settings.get("family")
    if not isinstance(family, str) or family not in FAMILY_SETTINGS:
        raise SettingsError(f"{where}: unknown family {family!r}; {nearest(str(family), [*FAMILY_SETTINGS])}")
    model = FAMILY_SETTINGS[family]
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(describe(error, model, where)) from None
