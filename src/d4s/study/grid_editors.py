"""The editors of a grid's rows by name, resolved for a model: as they are named, and swept over layers."""

from collections.abc import Iterable

from d4s.editors.editor_settings import EditorSettings, parse_editor
from d4s.editors.editor_settings import resolve as resolve_editor
from d4s.errors import SettingsError
from d4s.models.layer_windows import layers_around
from d4s.models.model_shape import Shape, UnknownShape, shape_of_model
from d4s.study_settings import AT_LAYER, AskedModel, GridRow, LayerSweep, Study, TrainedModel


def named_editors(study: Study, model: str) -> dict[str, EditorSettings]:
    """The editors that rows name for a model, without sweeps.

    Raises:
        SettingsError: if one cannot be resolved.
    """
    return _resolved(study, dict.fromkeys(name for row in study.grid if model in row.models for name in row.editors), model)


def row_editors(study: Study, row: GridRow, model: str) -> dict[str, EditorSettings]:
    """The editors of a row for a model; a swept one at each of its layers, named as in `rome@2`.

    Raises:
        SettingsError: if one cannot be resolved, or cannot be moved to a layer.
    """
    named = _resolved(study, row.editors, model)
    if row.sweep is None:
        return named
    layers = layers_of(study, model)
    if layers is None:
        raise SettingsError(f"the layers of {model!r} are unknown until its configuration is on this machine; fetch the model first")
    return {
        f"{name}{AT_LAYER}{layer}": _at_layer(name, editor, tuple(layers_around(layer, row.sweep.window, layers)))
        for name, editor in named.items()
        for layer in _swept_layers(row.sweep, layers)
    }


def _resolved(study: Study, names: Iterable[str], model: str) -> dict[str, EditorSettings]:
    """Editors for a model, whose shape their settings are held against where it is known."""
    shape, column = _shape_of(study, model), study.models[model].hparams_for
    known = None if shape is None else shape.settings_shape
    return {name: resolve_editor(name, study.editors.get(name, {}), column, known) for name in names}


def _swept_layers(sweep: LayerSweep, layers: int) -> tuple[int, ...]:
    """The layers of a sweep; those that the model lacks are left to the check of every editor's layers."""
    return tuple(range(layers)) if sweep.layers == "all" else sweep.layers


def _at_layer(name: str, editor: EditorSettings, layers: tuple[int, ...]) -> EditorSettings:
    """An editor moved to some layers; its target, where it has one, to the last of them.

    Raises:
        SettingsError: if it has no layers to be moved, or only one and several are asked for.
    """
    fields = type(editor).model_fields
    settings = editor.model_dump(mode="json")
    if "layers" in fields:
        target = settings.get("target")
        moved = {"layers": list(layers)} | ({"target": {**target, "layer": layers[-1]}} if target else {})
    elif "more_layers" in fields:
        moved = {"layer": layers[-1], "more_layers": list(layers[:-1])}
    elif "layer" in fields and len(layers) == 1:
        moved = {"layer": layers[0]}
    else:
        raise SettingsError(f"{name!r} cannot edit layers {list(layers)}; sweep editors that name their layers, or take a window of 1")
    return parse_editor({**settings, **moved})


def layers_of(study: Study, model: str) -> int | None:
    """How many layers a model has, or will have; None where its configuration is not on this machine."""
    shape = _shape_of(study, model)
    return None if shape is None else shape.layers


def trained_model(study: Study, model: str) -> TrainedModel:
    """The settings of the model whose weights a model has: its own, unless it is another one asked otherwise.

    Raises:
        UnknownShape: if there is no such model.
    """
    found = study.models[model]
    if not isinstance(found, AskedModel):
        return found
    trained = study.models.get(found.of)
    if trained is None or isinstance(trained, AskedModel):
        raise UnknownShape(f"model {model!r} is asked as {found.of!r}, which is no model with weights of its own")
    return trained


def _shape_of(study: Study, model: str) -> Shape | None:
    try:
        return shape_of_model(trained_model(study, model))
    except UnknownShape:
        return None
