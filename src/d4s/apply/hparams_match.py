"""Which column of the presets a model is like: found by its shape, or said by the user."""

from collections.abc import Mapping
from pathlib import Path

from d4s.artifacts import POINTER, Artifact
from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel
from d4s.models.model_shape import UnknownShape, config_at, shape_of

ModelShape = tuple[str, int, int, int]
KNOWN_SHAPES: Mapping[ModelShape, str] = {
    ("gpt2", 6, 192, 1024): "mini",
    ("gpt2", 48, 1600, 6400): "gpt2-xl",
    ("gptj", 28, 4096, 16384): "gpt-j-6b",
    ("llama", 32, 4096, 11008): "llama2-7b",
    ("llama", 32, 4096, 14336): "llama3-8b",
    ("qwen2", 28, 3584, 18944): "qwen2.5-7b",
}
"""Architecture, blocks, width of the residual stream and of a key."""


def model_shape(model: LanguageModel) -> ModelShape:
    """The shape of a model that is loaded."""
    return model.adapter.model_type, model.n_layers, model.d_out(), model.d_in()


def shape_from_config(source: str, revision: str) -> ModelShape | None:
    """The shape that a model's configuration says, before it is loaded; None where it says too little or is not on this machine."""
    if (Path(source) / POINTER).is_file():
        pointer = Artifact.open(Path(source), "models").json(POINTER)
        source, revision = pointer["path"], pointer["revision"]
    try:
        config = config_at(source, revision)
        sizes = shape_of(config)
    except UnknownShape:
        return None
    return str(config.get("model_type")), sizes.layers, sizes.width, sizes.mlp_width


def match_hparams(shape: ModelShape) -> str:
    """The column whose settings are for models of this shape.

    Raises:
        SettingsError: if there is none.
    """
    if shape not in KNOWN_SHAPES:
        raise SettingsError(
            f"no settings are known for a {shape[0]} of {shape[1]} layers, widths {shape[2]} and {shape[3]}; name the nearest model by "
            f"--hparams-for, or hparams_for= in Python ({', '.join(KNOWN_SHAPES.values())}), and where its layers do not fit, yours: "
            "--set layers=[1,2] --set target.layer=2, or settings= in Python"
        )
    return KNOWN_SHAPES[shape]
