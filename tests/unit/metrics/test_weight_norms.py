"""Norms of weights and of their changes, against plain linear algebra."""

import math

import pandas as pd
import pytest
import torch

from d4s.artifacts import write_table
from d4s.metrics.weight_norms import l1_per_element, norm_rows, original_norms, spectral_norm
from d4s.models.views import LiveModel
from d4s.schemas import NORMS


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (1, 4)])
def test_the_spectral_norm_is_the_largest_singular_value(shape):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    assert spectral_norm(weight) == pytest.approx(float(torch.linalg.svdvals(weight.double())[0]), rel=1e-9)
    assert spectral_norm(torch.zeros(*shape)) == 0.0


def test_the_l1_norm_is_per_element_and_summed_exactly():
    assert l1_per_element(torch.tensor([[1.0, -2.0], [0.0, 5.0]])) == 2.0
    assert l1_per_element(torch.full((1000, 1000), 0.1)) == pytest.approx(0.1, rel=1e-7)


def test_rows_of_edited_and_untouched_layers(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float64)
    before = original_norms(model)
    originally = {layer: model.weight(layer).clone() for layer in range(3)}
    delta = {1: torch.randn(16, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    with model.patched(delta):
        rows = norm_rows(model, LiveModel(model, {1: originally[1]}), 4, before)
    write_table(tmp_path / "norms.parquet", rows, NORMS)
    found = pd.DataFrame(rows).pivot_table(index="layer", columns="quantity", values="value")
    assert found.loc[1, "l1_per_element_weight"] == pytest.approx(float((originally[1] + delta[1]).abs().mean()))
    assert found.loc[1, "l1_per_element_delta"] == pytest.approx(float(delta[1].abs().mean()))
    assert found.loc[1, "frobenius_delta"] == pytest.approx(float(delta[1].norm()))
    assert found.loc[1, "spectral_delta"] == pytest.approx(float(torch.linalg.matrix_norm(delta[1], 2)))
    for layer in range(3):
        assert found.loc[layer, "l1_per_element_original"] == pytest.approx(float(originally[layer].abs().mean()))
    for layer in (0, 2):
        assert found.loc[layer, ["l1_per_element_delta", "frobenius_delta", "spectral_delta"]].tolist() == [0.0] * 3
        assert found.loc[layer, "l1_per_element_weight"] == found.loc[layer, "l1_per_element_original"]


@pytest.mark.parametrize("reference", [None, {}])
def test_a_model_without_changes_has_norms_too(tiny_model, reference):
    model = tiny_model()
    rows = norm_rows(model, LiveModel(model, reference), 0, original_norms(model))
    assert len(rows) == 15
    assert sum(row["value"] for row in rows if row["quantity"].endswith("delta")) == 0.0


def test_weights_that_are_not_finite_give_norms_that_say_so(tiny_model):
    model = tiny_model()
    before, clean = original_norms(model), model.weight(0).clone()
    with model.patched({0: torch.full((16, 64), float("inf"))}):
        rows = norm_rows(model, LiveModel(model, {0: clean}), 1, before)
    values = {row["quantity"]: row["value"] for row in rows if row["layer"] == 0}
    assert math.isnan(values["spectral_delta"])
    assert values["l1_per_element_weight"] == float("inf")
