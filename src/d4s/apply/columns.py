"""Which column of the presets a model is like: found by its shape, or said by the user."""

from collections.abc import Mapping

from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel

Shape = tuple[str, int, int, int]
SHAPES: Mapping[Shape, str] = {
    ("gpt2", 6, 192, 1024): "mini",
    ("gpt2", 48, 1600, 6400): "gpt2-xl",
    ("gptj", 28, 4096, 16384): "gpt-j-6b",
    ("llama", 32, 4096, 11008): "llama2-7b",
    ("llama", 32, 4096, 14336): "llama3-8b",
    ("qwen2", 28, 3584, 18944): "qwen2.5-7b",
}
"""Architecture, blocks, width of the residual stream and of a key."""


def column_for(model: LanguageModel) -> str:
    """The column whose settings are for models of this shape.

    Raises:
        SettingsError: if there is none.
    """
    shape = (model.adapter.model_type, model.n_layers, model.d_out(), model.d_in())
    if shape not in SHAPES:
        raise SettingsError(
            f"no settings are known for a {shape[0]} of {shape[1]} layers, widths {shape[2]} and {shape[3]}; name the nearest model with "
            f"--tuned-as ({', '.join(SHAPES.values())}), and where its layers do not fit, yours: --set layers=[1,2] --set target.layer=2"
        )
    return SHAPES[shape]
