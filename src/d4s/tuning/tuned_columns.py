"""From what tuning chose to the settings of every preset: those that share MEMIT's column, ROME's, EMMET's and fine-tuning's.

Presets whose own values no measurement here finds have none: PMET and NSE (norms of their own), ENCORE (a ridge), CoRE and EAMET
(weights of terms), AnyEdit (tokens of a window), GRACE (a radius), KN (neurons of a threshold), LocFT, UltraEdit and StableEdit (a
rate), MEND, MALMEN and RLEdit (a training), WISE, MEMOIR and DEFER (margins, columns, a rate), T-Patcher (weights of its losses) and MELO
(a radius, a rank).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from d4s.editors.hparams import EMMET, FINE_TUNE, MEMIT, ROME, merge_hparams
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.presets import PRESETS, Preset
from d4s.errors import SettingsError
from d4s.registry import nearest

KIND = "mini"  # the column by which presets are compared; every preset has it
LEADS: Mapping[str, tuple[str, ...]] = {
    "d4s": ("d4s_frozen", "d4s_refreshed", "one_time_batch", "lyaplock"),
    "d4s_even": (),
    "memit": ("rect", "prune", "simie", "blue"),
    "memit_seq": ("ote_se",),
    "alphaedit": ("sphere", "nas"),
}
"""Presets that are tried with sequences of edits, and those that take the weight found for them: they solve the same equation."""
CONFINED = frozenset({"alphaedit"})
"""Those of them that are confined to a null space."""
SHARES: Mapping[str, float] = {"d4s": 0.9, "d4s_even": 0.9, "memit": 0.5, "memit_seq": 0.95, "alphaedit": 0.9}
"""Share of its residual that a single edit is to close at the weight that trials start from: less without memory of earlier edits.

They are those of weights tuned by hand on an embedded model: .90 for D4S (100), .97 for MEMIT with history (30), .48 for MEMIT (1000).
"""

TARGET_KEYS = ("layer", "lr", "clamp", "steps", "kl_weight", "weight_decay", "stop_probability")
ROME_SOLVER = {"keys": {"average": "plain"}, "solver": "hard_constraint", "preservation": {"kind": "moments", "weight": 1.0}}


@dataclass(frozen=True, slots=True)
class TunedValues:
    """What was chosen: edited layers, the rule of targets, weights by preset of `LEADS`, and the threshold of a null space.

    `rome_clamp` limits a shift of the MLP's output to the length that `target.clamp` allows the block's output; `single_layer_weight`
    is EMMET's, of the last layer alone.
    """

    layers: tuple[int, ...]
    target: TargetSettings
    weights: Mapping[str, float]
    single_layer_weight: float
    rome_clamp: float
    threshold: float | None = field(default=None)

    def target_hparams(self) -> dict[str, Any]:
        """The rule of targets without what methods fix themselves."""
        return self.target.model_dump(mode="json", include={*TARGET_KEYS})


def editor_columns(values: TunedValues) -> dict[str, dict[str, Any]]:
    """Settings by preset, to be laid over what each method fixes itself."""
    weights = {preset: weight for lead, weight in values.weights.items() for preset in (lead, *LEADS[lead])}
    found = {name: settings for name, row in PRESETS.items() for settings in _column(name, row, values, weights)}
    return {name: _own(PRESETS[name], settings) for name, settings in found.items()}


def _column(name: str, row: Preset, values: TunedValues, weights: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """The settings of one preset; nothing where tuning finds none."""
    own, target = row.base.get(KIND), values.target_hparams()
    last = values.layers[-1]
    if row.family == "unedited":
        yield {}
    elif own is FINE_TUNE[KIND]:
        yield {"layer": last, "lr": 5e-4, "bound": None}
    elif own is ROME[KIND]:
        rome_target = merge_hparams(target, {"clamp": values.rome_clamp, "hook": "mlp_output"})
        yield {"layers": [last], "target": rome_target, **ROME_SOLVER}
    elif own is EMMET[KIND]:
        yield {"layers": [last], "target": target, "preservation": {"kind": "moments", "weight": values.single_layer_weight}}
    elif (own is MEMIT[KIND] or name == "blue") and name in weights:
        layers = [values.layers[0], last] if name == "blue" else [*values.layers]
        is_confined = row.changes.get("preservation", {}).get("kind") == "null_space"
        if is_confined and values.threshold is None:
            return
        preservation = {"threshold": values.threshold} if is_confined else {"kind": "moments"}
        yield {"layers": sorted({*layers}), "target": target, "preservation": {**preservation, "weight": weights[name]}}


def _own(row: Preset, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that the method fixes itself, such as ROME's identity."""
    fixed = row.changes.get("preservation", {}).get("kind")
    if fixed == "identity":
        return {key: value for key, value in settings.items() if key != "preservation"}
    return settings


def lead_of(preset: str) -> str | None:
    """The preset whose weight another takes; None where its settings follow from the block of the target.

    Raises:
        SettingsError: if there is no such preset, or tuning finds no settings for it.
    """
    if preset not in PRESETS:
        raise SettingsError(f"no preset is called {preset!r}; {nearest(preset, [*PRESETS])}")
    for lead, others in LEADS.items():
        if preset == lead or preset in others:
            return lead
    bases = (FINE_TUNE, ROME, EMMET)
    if any(PRESETS[preset].base.get(KIND) is base[KIND] for base in bases):
        return None
    raise SettingsError(
        f"tuning finds no settings for {preset!r}, whose own values it does not measure; {nearest(preset, [*LEADS, 'rome', 'ft_l'])}, or "
        "name a column by --hparams-for (hparams_for= in Python) with the layers of your model: --set layers=[1,2] --set target.layer=2"
    )
