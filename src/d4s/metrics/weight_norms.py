"""Norms of the MLP output weights and of their change, by layer."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel

OriginalNorms = Mapping[int, float]


def l1_per_element(weight: Float[Tensor, "d_out d_in"]) -> float:
    """‖W‖₁ / numel(W), the mean absolute weight, summed in float64."""
    return float(weight.abs().sum(dtype=torch.float64) / weight.numel())


def spectral_norm(weight: Float[Tensor, "d_out d_in"]) -> float:
    """Largest singular value, from the Gram matrix of the shorter side in float64; NaN where W is not finite."""
    if not bool(weight.isfinite().all()):
        return float("nan")
    wide = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().mT
    return float(torch.linalg.eigvalsh(wide @ wide.mT)[-1].clamp(min=0).sqrt())


def original_norms(model: LanguageModel) -> dict[int, float]:
    """L1 norm per element of every layer's weight now; to be called before any edit."""
    return {layer: l1_per_element(model.weight(layer)) for layer in range(model.n_layers)}


def norm_rows(model: LanguageModel, view: EditedModel, step: int, before: OriginalNorms) -> list[dict[str, Any]]:
    """Rows of NORMS for a model whose weights are edited now: for every layer, W, its change, and W before any edit.

    `l1_per_element_original` is the value at no edits, `l1_per_element_weight` that of the weight now,
    `l1_per_element_delta`, `frobenius_delta` and `spectral_delta` those of the change, 0 for layers without one.
    """
    changes = view.weight_changes() or {}
    return _rows(step, before, {layer: (model.weight(layer), delta) for layer, delta in changes.items()})


def unedited_norm_rows(step: int, before: OriginalNorms) -> list[dict[str, Any]]:
    """Rows of NORMS for the unedited model."""
    return _rows(step, before, {})


def _rows(step: int, before: OriginalNorms, changed: Mapping[int, tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    rows = []
    for layer, original in before.items():
        weight, delta = changed.get(layer, (None, None))
        values = {
            "l1_per_element_original": original,
            "l1_per_element_weight": original if weight is None else l1_per_element(weight),
            "l1_per_element_delta": 0.0 if delta is None else l1_per_element(delta),
            "frobenius_delta": 0.0 if delta is None else float(delta.double().norm()),
            "spectral_delta": 0.0 if delta is None else spectral_norm(delta),
        }
        rows += [{"step": step, "layer": layer, "quantity": quantity, "value": value} for quantity, value in values.items()]
    return rows
