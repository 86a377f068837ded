"""Directions of one weight along which the loss of text bends most, and steps without them (CrispEdit, Ikram et al. 2026).

For a weight W with inputs x and loss gradients g at its outputs, over the tokens of text, the curvature of the loss is taken to be
(K-FAC, Martens and Grosse 2015)

    B ⊗ A,    A = E[x xᵀ] = U_a S_a U_aᵀ,    B = E[g gᵀ] = U_b S_b U_bᵀ

Its eigenvectors are u_b u_aᵀ with eigenvalues S_b S_a. Protected are those of the largest eigenvalues, as many as sum to a share, the
`energy`, of all of them; what is left of a step G is

    P(G) = U_b ((U_bᵀ G U_a) ∘ free) U_aᵀ

A is the second moment that other editors read too. B is read from text that the model writes itself, so that its labels follow the
model's own distribution and B is the Fisher matrix that the paper's Gauss-Newton matrix is; the release takes labels from Wikipedia.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from d4s.editors.answer_gradients import graph_from
from d4s.editors.gradient_settings import CURVATURE_ROWS
from d4s.editors.parts.input_settings import CurvatureSettings
from d4s.models.language_model import LanguageModel
from d4s.models.self_written_text import rows_from_model
from d4s.models.trace import trace

INPUTS, OUTPUTS = "curvature.inputs", "curvature.outputs"  # eigenvectors, in columns; their eigenvalues under NAME.values


def prepare_curvature(
    settings: CurvatureSettings, model: LanguageModel, second_moment: Float64[Tensor, "d_in d_in"]
) -> dict[str, Float64[Tensor, "..."]]:
    """Eigenvectors and eigenvalues of both sides of the curvature, by name."""
    found: dict[str, Tensor] = {}
    for name, side in ((INPUTS, second_moment), (OUTPUTS, output_moment(model, settings))):
        values, vectors = torch.linalg.eigh(side)
        found |= {name: vectors.cpu(), f"{name}.values": values.clamp(min=0).cpu()}
    return found


def output_moment(model: LanguageModel, settings: CurvatureSettings) -> Float64[Tensor, "d_out d_out"]:
    """E[g gᵀ] over tokens, with g the gradient at the output of the layer's matrix of the sum of all next tokens' −log p."""
    rows = rows_from_model(model, settings.tokens, settings.seed)
    module = {settings.layer: model.mlp_out(settings.layer)}
    width = model.d_out(settings.layer)
    total = torch.zeros(width, width, dtype=torch.float64, device=model.state_device(settings.layer))
    with graph_from(module[settings.layer]):
        for batch in rows.split(CURVATURE_ROWS):
            with trace(module) as found:
                ids = batch.to(model.device)
                hidden = model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
                log_probs = model.unembed(hidden[:, :-1]).to(torch.promote_types(model.dtype, torch.float32)).log_softmax(-1)
                nll = -log_probs.gather(2, ids[:, 1:, None].to(log_probs.device)).sum()
                (gradient,) = torch.autograd.grad(nll, [found.outputs[settings.layer]])
            flat = gradient[:, :-1].flatten(0, 1).to(total)
            total += flat.mT @ flat
    return total / (rows.numel() - len(rows))


@dataclass(frozen=True, slots=True)
class FreeDirections:
    """Both eigenbases of a weight's curvature, and which of their products a step may use."""

    inputs: Float[Tensor, "d_in d_in"]
    outputs: Float[Tensor, "d_out d_out"]
    free: Bool[Tensor, "d_out d_in"]

    @classmethod
    def of(cls, extras: Mapping[str, Tensor], energy: float, weight: Float[Tensor, "d_out d_in"]) -> "FreeDirections":
        """Those among an editor's prepared tensors, in the precision and on the device of a weight.

        Protected are the products of the largest eigenvalues whose sum is at most `energy` of the sum of all.
        """
        products = extras[f"{OUTPUTS}.values"].outer(extras[f"{INPUTS}.values"]).flatten()
        values, order = products.sort(descending=True, stable=True)
        shares = values.cumsum(0)
        free = torch.ones_like(products, dtype=torch.bool)
        free[order[shares <= energy * shares[-1]]] = False
        inputs, outputs = (extras[name].to(weight) for name in (INPUTS, OUTPUTS))
        return cls(inputs, outputs, free.view(len(outputs), len(inputs)).to(weight.device))

    def project(self, step: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        """What is left of a step without the protected directions."""
        return self.outputs @ (self.outputs.mT @ step @ self.inputs * self.free) @ self.inputs.mT
