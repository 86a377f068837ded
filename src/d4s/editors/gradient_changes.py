"""How rows of keys and of gradients make a change of weights: by ridge regression, or as the sum of their outer products.

Terms and symbols: docs/notation.md.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.editors.parts.hypernetwork_settings import Coefficient

Weight = Float64[Tensor, "d_out d_in"]


def regress(keys: Float64[Tensor, "t d_in"], values: Float64[Tensor, "t d_out"], ridge: float | Float64[Tensor, ""]) -> Weight:
    """Δ = Vᵀ (XXᵀ + α I)⁻¹ X, which minimises ‖X Δᵀ − V‖² + α ‖Δ‖².

    Of a loss whose gradient with respect to Δ is G, that with respect to V is X (XᵀX + α I)⁻¹ Gᵀ, and that with respect to ln α
    −α ⟨Δᵀ, (XᵀX + α I)⁻¹ Gᵀ⟩: autograd finds both.
    """
    gram = keys @ keys.mT + ridge * torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
    return values.mT @ torch.cholesky_solve(keys, torch.linalg.cholesky(gram))


def sum_of_products(keys: Float64[Tensor, "t d_in"], values: Float64[Tensor, "t d_out"]) -> Weight:
    """Δ = VᵀX."""
    return values.mT @ keys


def shifts(
    keys: Float64[Tensor, "t d_in"],
    keys_hat: Float64[Tensor, "t d_in"],
    gradients_hat: Float64[Tensor, "t d_out"],
    rate: float | Float64[Tensor, ""],
    coefficient: Coefficient,
) -> Float64[Tensor, "t d_out"]:
    """What outputs should change by: v = −η c ĝ with c = ‖x̂‖² (`normalised`, UltraEdit) or x·x̂ (`mixed`, MALMEN), token by token."""
    other = keys if coefficient == "mixed" else keys_hat
    return -rate * (other * keys_hat).sum(1, keepdim=True) * gradients_hat
