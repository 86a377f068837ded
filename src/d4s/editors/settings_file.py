"""Settings for a model as a file: what `d4s tune` measured, if it did, and what each preset takes from it.

The file stands in for a column of `presets.py`: `hparams_for: FILE` in a study's model or editor, `--settings FILE` of `d4s apply`,
`hparams_for=FILE` in Python. Its content, as the settings of editors, enters every hash; its path enters none.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import yaml
from pydantic import Field

from d4s.editors.hparams import HParams, merge_hparams
from d4s.editors.presets import PRESETS
from d4s.errors import SettingsError
from d4s.registry import nearest
from d4s.schema_version import SCHEMA_VERSION
from d4s.settings_base import Fraction, Frozen, validate

SUFFIXES = (".yaml", ".yml")
ModelShape = tuple[str, int, int, int]
"""Architecture, blocks, width of the residual stream and of a key."""


class LayerScore(Frozen):
    """Targets of requests optimised at a block and injected there, with a clamp and a learning rate."""

    layer: int
    lr: float
    clamp: float
    efficacy: Fraction
    paraphrase: Fraction
    probability: Fraction = Field(description="Mean probability of the new target after the edited prompts.")
    shift_ratio: float = Field(description="Mean norm of the shift over that of the hidden state.")
    paraphrases: int = Field(gt=0, description="Paraphrases that were asked, of all requests.")
    seconds: float

    @property
    def score(self) -> float:
        """Harmonic mean of efficacy and paraphrase."""
        return float(harmonic_mean([self.efficacy, self.paraphrase]))


class SequenceTrial(Frozen):
    """A sequence of edits by one preset with a weight, measured at its end."""

    editor: str
    layers: tuple[int, ...]
    weight: float
    edits: int
    efficacy: Fraction
    paraphrase: Fraction
    locality: Fraction
    seconds: float

    @property
    def score(self) -> float:
        """Harmonic mean of efficacy, paraphrase and locality: the criterion of tuning."""
        return float(harmonic_mean([self.efficacy, self.paraphrase, self.locality]))


def best_trials(trials: Sequence[SequenceTrial], layers: tuple[int, ...]) -> dict[str, SequenceTrial]:
    """The best trial of each preset that edited these layers; of equal scores the one with the larger weight, which preserves more."""
    ordered = sorted(trials, key=lambda trial: (trial.score, trial.weight))
    return {trial.editor: trial for trial in ordered if trial.layers == layers}


class TunedModel(Frozen):
    """The model that settings were found for: where it was, and its shape."""

    source: str
    model_type: str
    layers: int
    width: int
    mlp_width: int

    @property
    def shape(self) -> ModelShape:
        """What the settings were found for."""
        return self.model_type, self.layers, self.width, self.mlp_width


class TunedSettings(Frozen):
    """What tuning measured on a model and what it chose: per preset, settings that are laid over what the method itself fixes."""

    schema_version: int = SCHEMA_VERSION
    model: TunedModel
    facts: str = Field(description="Where requests and probes came from, and how many.")
    sweep: tuple[LayerScore, ...]
    trials: tuple[SequenceTrial, ...] = ()
    key_leverage: dict[int, float] = Field(description="Median of kᵀC⁻¹k over the requests, by edited layer.")
    editors: dict[str, dict[str, Any]]

    @property
    def target_layer(self) -> int:
        """The block of the target."""
        return max(self.key_leverage)

    @property
    def first_scores(self) -> dict[int, LayerScore]:
        """By block, the score that was measured first: that of the sweep, before clamps and rates were tried at one block."""
        return {one.layer: one for one in reversed(self.sweep)}

    @property
    def measured(self) -> dict[str, SequenceTrial]:
        """The best trial at the chosen layers of each preset that sequences of edits were tried with."""
        return best_trials(self.trials, tuple(self.key_leverage))


def describe_shape(shape: ModelShape) -> str:
    """A shape in words."""
    return f"a {shape[0]} of {shape[1]} layers, widths {shape[2]} and {shape[3]}"


def is_settings_file(hparams_for: str) -> bool:
    """Whether this names a settings file and not a column of the presets."""
    return hparams_for.endswith(SUFFIXES)


def read_settings_file(path: Path) -> TunedSettings:
    """The settings in a file that `d4s tune` or `d4s apply` wrote.

    Raises:
        SettingsError: if it is not there, is no such file, or is of another version; names everything wrong with it.
    """
    try:
        content = _parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read as a settings file ({' '.join(str(error).split())}); d4s tune writes one") from None
    found = validate(TunedSettings, content, f"the settings file {path}")
    if found.schema_version != SCHEMA_VERSION:
        raise SettingsError(f"{path} is of schema version {found.schema_version}, expected {SCHEMA_VERSION}; run d4s tune again")
    return found


def check_shape(settings: TunedSettings, shape: ModelShape, where: str) -> None:
    """Refuse settings for another model than one of a shape.

    Raises:
        SettingsError: if they were found for a model of another shape; says both.
    """
    if settings.model.shape != shape:
        raise SettingsError(
            f"{where} was made for {describe_shape(settings.model.shape)} ({settings.model.source}), and the model is "
            f"{describe_shape(shape)}; run d4s tune for it"
        )


@lru_cache(maxsize=8)
def _parse_yaml(text: str) -> Any:
    """The content of a file's text, read only; a study asks for it once per editor and check, and parsing takes a tenth of a second."""
    return yaml.safe_load(text)


MEASURED = "# Settings of editors for a model, found by measurement (docs/tuning.md). Values under `editors` may be changed by hand.\n"


def settings_file_text(settings: TunedSettings, head: str = MEASURED) -> str:
    """The text of a settings file, below comments that say where it comes from."""
    return head + yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def tuned_hparams(tuned: TunedSettings, preset: str, changes: HParams) -> dict[str, Any]:
    """A preset's settings with what tuning found, and changes laid over them.

    Raises:
        SettingsError: if it has none for this preset.
    """
    row = PRESETS[preset]
    if preset not in tuned.editors and not row.suits_any_model:
        raise SettingsError(
            f"the settings file has none for {preset!r} (tuning measures no values of an editor's own); name a column by hparams_for "
            f"(--hparams-for) and give its layers yourself, or take an editor of the file; {nearest(preset, [*tuned.editors])}"
        )
    return merge_hparams({"family": row.family}, row.changes, tuned.editors.get(preset, {}), changes)
