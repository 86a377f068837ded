"""Which column of the presets a model is like: found by its shape, or said by the user."""

from collections.abc import Mapping
from pathlib import Path

from d4s.artifacts import POINTER, Artifact
from d4s.editors.presets import PRESETS
from d4s.editors.settings_file import ModelShape, describe_shape
from d4s.models.language_model import LanguageModel
from d4s.models.model_shape import UnknownShape, shape_at

KNOWN_SHAPES: Mapping[ModelShape, str] = {
    ("gpt2", 6, 192, 1024): "mini",
    ("gpt2", 48, 1600, 6400): "gpt2-xl",
    ("gptj", 28, 4096, 16384): "gpt-j-6b",
    ("llama", 32, 4096, 11008): "llama2-7b",
    ("llama", 32, 4096, 14336): "llama3-8b",
    ("qwen2", 28, 3584, 18944): "qwen2.5-7b",
}


def model_shape(model: LanguageModel) -> ModelShape:
    """The shape of a model that is loaded."""
    return model.adapter.model_type, model.n_layers, model.d_out(), model.d_in()


def shape_from_config(source: str, revision: str) -> ModelShape | None:
    """The shape that a model's configuration says, before it is loaded; None where it says too little or is not on this machine."""
    if (Path(source) / POINTER).is_file():
        pointer = Artifact.open(Path(source), "models").json(POINTER)
        source, revision = pointer["path"], pointer["revision"]
    try:
        return shape_at(source, revision).settings_shape
    except UnknownShape:
        return None


def known_column(shape: ModelShape, editor: str) -> str | None:
    """The column whose settings of an editor are for models of this shape, any one of an editor that is the same for all; else None."""
    if editor in PRESETS and PRESETS[editor].suits_any_model:
        return next(iter(PRESETS[editor].base))
    return KNOWN_SHAPES.get(shape)


def no_settings(shape: ModelShape, reason: str) -> str:
    """The message that a model has no column, and that settings cannot be measured for a reason."""
    return (
        f"no settings are known for {describe_shape(shape)}, and they cannot be measured here: {reason}. Run `d4s tune --model MODEL "
        "--facts FILE --out DIR` and pass --settings DIR/settings.yaml (hparams_for= in Python), or name the nearest model by "
        f"--hparams-for ({', '.join(KNOWN_SHAPES.values())}), and where its layers do not fit, yours: --set layers=[1,2] "
        "--set target.layer=2, or settings= in Python"
    )
