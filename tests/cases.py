"""Editors cut down to tiny models, and what the conformance suite asks of them."""

from collections.abc import Mapping
from typing import Any

import torch

from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.hparams import merge_hparams
from d4s.editors.moments import collect_moments
from d4s.editors.preparation import PoolSource, prepare_tensors
from d4s.editors.protocol import Prepared
from d4s.editors.target_optimisation import optimise
from d4s.testing.editor_conformance import EditorCase
from tests.oracle.plain import PREFIXES, requests_of, rewritings_of
from tests.tiny import tiny_facts, tiny_model

SMALL = {"layers": (0, 1), "target": {"layer": 1, "steps": 3, "clamp": 2.0}}


SINGLE = {"layers": (1,), "target": {"layer": 1, "steps": 3, "clamp": 2.0}}


TRAINING = {"rank": 4, "steps": 3, "edits": 2, "check_every": 2}
OWN = {
    "fine_tune": {"layer": 1, "steps": 3},
    "locft": {"layer": 1, "epochs": 3, "minibatch": 3, "batch": 2},
    "gradient_regression": {"layers": (0, 1), "lr": 0.01, "batch": 2},
    "mend": {"layers": (0, 1), "lr": 0.01, "network": TRAINING},
    "grace": {"layer": 1, "steps": 3, "eps_init": 1e-3},
    "wise": {"layer": 1, "steps": 3, "sentences": 3, "sentence_tokens": 5, "shard": 2, "merge_every": 4},
    "memoir": {"layer": 1, "steps": 3, "columns": 16, "overlap": 0.5, "background": 3},
    "defer": {"layer": 1, "steps": 3, "lr": 1e-2},
    "t_patcher": {"layer": 2, "steps": 3, "sentences": 3, "sentence_tokens": 5, "hardest": 4},
    "melo": {"layer": 1, "steps": 3, "radius": 1e-3, "lr": 0.1, "alpha": 20.0},
    "knowledge_neurons": {"steps": 4},
    "serac": {"encoder": {"layer": 1}, "width": 16, "epochs": 150, "patience": 30, "lr": 1e-2, "context": "{prompt} {target} . "},
    "in_context": {"threshold": 0.99, "context": "{prompt} {target} . "},
    "unedited": {},
}


CHANGED: Mapping[str, dict[str, Any]] = {
    "d4s_refreshed_at_once": {"preset": "d4s_refreshed", "keys": {"every": 2}},
    "d4s_scrambled": {"preset": "d4s", "delta_transform": {"kind": "scramble"}},
    "memit_rescaled": {"preset": "memit", "delta_transform": {"kind": "rescale", "factor": 0.5}},
    "memit_seq_pruned": {"preset": "memit_seq", "delta_transform": {"kind": "prune", "base": 2.0}},
    "alphaedit_rect": {"preset": "alphaedit", "preservation": {"threshold": 0.05}, "step_transform": {"kind": "rect", "keep": 0.5}},
    "memit_seq_simie": {"preset": "memit_seq", "step_transform": {"kind": "simie", "weight": 0.1}},
    "nse_neurons": {"preset": "nse", "neurons": 0.7},
    "d4s_anchored": {"preset": "d4s", "anchor": {"requests": 4}},
    "d4s_remeasured": {"preset": "d4s", "residual_schedule": "remeasured"},
    "memit_static": {"preset": "memit", "residual_schedule": "static"},
    "memit_root": {"preset": "memit_seq", "residual_schedule": "root"},
    "memit_frozen": {"preset": "memit_seq", "keys": {"mode": "frozen"}},
    "memit_original": {"preset": "memit_seq", "target": {"at": "original"}, "residual_schedule": "even"},
    "memit_ridge": {"preset": "memit", "preservation": {"ridge": 0.5}},
    "memit_batches": {"preset": "memit_seq", "batch": 2},
    "d4s_batches": {"preset": "d4s", "batch": 2},
    "ft_m_halved": {"preset": "ft_m", "delta_transform": {"kind": "rescale", "factor": 0.5}},
    "ft_m_interpolated": {"preset": "ft_m", "delta_transform": {"kind": "interpolate", "by": "fixed", "share": 0.5}},
    "memit_interpolated": {"preset": "memit", "delta_transform": {"kind": "interpolate", "floor": 0.0}},
    "ft_m_scrambled": {"preset": "ft_m", "delta_transform": {"kind": "scramble"}},
    "ft_m_layers": {"preset": "ft_m", "more_layers": [0, 2]},
    "ft_facts": {"preset": "saul", "regularize": {"kind": "separate"}},
    "saul_target": {"preset": "saul", "regularize": {"loss": "target"}},
    "ft_erase": {"preset": "ft_m", "objective": "erase"},
    "ft_forced": {"preset": "ft_m", "noise_subject": {"copies": 2}},
    "locft_bf_one_by_one": {"preset": "locft_bf", "batch": 1, "minibatch": 2, "eos": False},
    "crispedit_in_batches": {"preset": "crispedit", "state_kind": "dense"},
    "crispedit_as_released": {"preset": "crispedit", "protect": {"order": "project_then_adam"}},
    "ultraedit_one_by_one": {"preset": "ultraedit", "batch": 1},
    "mend_batches": {"preset": "mend", "batch": 2},
    "malmen_normalised": {"preset": "malmen", "coefficient": "normalised", "network": {"scaled": "before"}},
    "serac_trained": {"preset": "serac", "answer": {"kind": "trained", "steps": 3, "rows": 4}},
    "serac_oracle": {"preset": "serac", "scope": "true"},
    "serac_hashed": {"preset": "serac", "encoder": {"kind": "hashed", "buckets": 64}, "near_misses": False},
    "retrieve_hidden": {"preset": "retrieve", "retriever": {"kind": "hidden", "layer": 1}, "k": 2},
    "retrieve_hashed": {"preset": "retrieve", "retriever": {"kind": "hashed", "buckets": 64}},
    "ike_hidden": {"preset": "ike", "retriever": {"kind": "hidden", "layer": 1}, "demonstrations": {"count": 3}},
    "core_original": {"preset": "core", "target": {"at": "original"}},
    "anyedit_in_batches": {"preset": "anyedit", "batch": 2},
    "eamet_by_key": {"preset": "eamet", "target": {"align": {"clamp_to": "key"}}},
    "grace_warm": {"preset": "grace", "value": "warm"},
    "melo_batches": {"preset": "melo", "batch": 2},
    "memoir_dense": {"preset": "memoir", "state_kind": "dense"},
    "wise_whole": {"preset": "wise", "masked_share": 1.0, "shard": 100, "margins": "absolute"},
    "d4s_null_space": {"preset": "d4s", "preservation": {"kind": "null_space", "threshold": 0.05, "weight": 1.0}},
}


POOL = PoolSource(tiny_facts(40)[20:], tiny_facts(12))


def settings_for(name: str):
    """The named editor with its parts cut down to a model of three layers."""
    overrides = CHANGED.get(name, {"preset": name})
    preset, family = overrides["preset"], resolve("tested", overrides, "mini").family
    if preset == "lora":
        small: Mapping[str, Any] = {"steps": 3}
    elif family == "serac" and "encoder" in overrides:
        small = {key: value for key, value in OWN[family].items() if key != "encoder"}
    elif family in OWN:
        small = OWN[family]
    else:
        small = SINGLE if len(resolve("tested", overrides, "mini").layers) == 1 else SMALL
    if preset == "eamet":
        small = {**SMALL, "batch": 2}
    confined = preset in {"alphaedit", "nas", "sphere"}
    threshold = {"preservation": {"threshold": 0.05}} if confined else {}
    if preset == "nse":
        threshold = {"rounds": {"above": 1e-3}}
    if preset == "crispedit":
        threshold = {"protect": {"tokens": 300, "energy": 0.5}}
    if preset == "saul_mass":
        threshold = {"batch": 2, "schedule": {"minibatch": 1, "epochs": 2}}
    if family == "fine_tune" and resolve("tested", overrides, "mini").regularize:
        threshold |= {"regularize": {"known": False, "facts": 2, "count": 6}}
    if preset in {"malmen", "rledit"}:
        threshold = {"network": TRAINING | ({"turns": 2} if preset == "rledit" else {})}
    if preset == "one_li":
        threshold = {"delta_transform": {"floor": 0.0}}
    return resolve("tested", merge_hparams(small, overrides, threshold), "mini")


def case_for(settings, *, family: str = "gpt2", count: int = 4, dtype: torch.dtype = torch.float32) -> EditorCase:
    def make_model():
        return tiny_model(family, dtype=dtype)

    model = make_model()
    rows = torch.randint(2, 60, (60, 16), generator=torch.Generator().manual_seed(1))
    moments = collect_moments(model, rows, settings.layers, 16, "text") if settings.layers else {}
    prepare = settings.prepare_settings()
    requests = requests_of(count)
    extras = prepare_tensors(prepare, moments, model, requests, POOL) if prepare else {}
    shared = settings.shared_targets()
    targets = optimise(model, rewritings_of(model, requests), shared) if shared else None
    prepared = Prepared(PREFIXES, moments, extras)
    return EditorCase(lambda: build(settings), make_model, prepared, requests, targets, getattr(settings, "batch", 1))
