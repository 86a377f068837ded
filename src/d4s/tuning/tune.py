"""Settings of editors found by measurement: all of it within a budget and resumable, or a short version in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d4s.artifacts import write_text
from d4s.editors.settings_file import TunedSettings, settings_file_text
from d4s.errors import SettingsError
from d4s.log import progress
from d4s.settings_base import canonical
from d4s.tuning.layer_sweep import coarse_layers, layers_below, usual_layer
from d4s.tuning.trial_record import TrialRecord
from d4s.tuning.tuned_columns import LEADS, lead_of
from d4s.tuning.tuning_parts import TuneOptions, Tuning, TuningMaterial

SETTINGS_FILE, TRIALS = "settings.yaml", "trials.json"
SHORT = TuneOptions(editors=(), sweep_facts=4, edits=12, blocks=4, moment_tokens=0)
TOKENS_PER_ENTRY = 8  # tokens of text for each entry of a key, in the short version


def check_editors(editors: Sequence[str]) -> None:
    """Refuse presets that are not tried with sequences of edits.

    Raises:
        SettingsError: naming them and what can be tried.
    """
    if unknown := [name for name in editors if name not in LEADS]:
        others = "; ".join(f"{lead}: {', '.join(also)}" for lead, also in LEADS.items() if also)
        raise SettingsError(
            f"editors {unknown} are not tried with sequences of edits; choose among {', '.join(LEADS)}. Other presets take the weight "
            f"of one of them ({others}), or follow from the block of the target (rome, emmet, ft_l)"
        )


def tune(material: TuningMaterial, options: TuneOptions, folder: Path, identity: Mapping[str, Any]) -> TunedSettings:
    """Settings found by measurement, written with every trial into a folder; `identity` says what the folder is of.

    Raises:
        SettingsError: if the folder holds another tuning, or an editor is not tried with sequences.
    """
    check_editors(options.editors)
    folder.mkdir(parents=True, exist_ok=True)
    record = TrialRecord(folder / TRIALS, {**identity, "options": canonical(options.model_dump(mode="json", exclude={"budget_minutes"}))})
    tuning = Tuning(material, options, record, folder)
    target, scores = tuning.search_target_rule(tuning.sweep())
    target, layers, trials = tuning.search_layers(target, scores)
    found = tuning.settings(target, layers, scores, [*trials, *tuning.search_weights(target, layers, trials)])
    write_text(folder / SETTINGS_FILE, settings_file_text(found))
    return found


def tune_shortly(material: TuningMaterial, editor: str, seed: int) -> TunedSettings:
    """Settings from a coarse sweep of blocks alone: clamp and rate of the rule, weights from kᵀC⁻¹k without a sequence of edits.

    It takes the same steps whatever time they need, so that the same model, facts and text give the same settings.

    Raises:
        SettingsError: if tuning finds no settings for the preset.
    """
    model, lead = material.model, lead_of(editor)
    tokens = TOKENS_PER_ENTRY * model.d_in()
    options = SHORT.model_copy(update={"editors": (lead,) if lead else (), "moment_tokens": tokens, "seed": seed})
    tuning = Tuning(material, options, TrialRecord(None, {}), None)
    blocks = coarse_layers(model.n_layers, options.blocks)
    sweep = [tuning.score_layer(layer) for layer in progress(blocks, "blocks of the target", len(blocks))]
    layer = usual_layer(sweep, model.n_layers)
    layers = layers_below(layer, model.n_layers)
    tuning.collect_moments(layers)
    return tuning.settings(tuning.target_settings(layer), layers, sweep, ())
