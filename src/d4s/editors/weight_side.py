"""Residuals before a norm after the MLP, where the edited weight writes (Gemma 2 and 3, OLMo 2).

There the block adds norm(u) of u = W k to the residual stream, with norm(u) = g ⊙ u / ρ(u) and ρ(u) the root mean square of u.
So W reaches no output outside of the ellipsoid {g ⊙ v : mean v² = 1}, and the scale of u changes nothing. To move the output by a
residual R, u has to become the vector that the norm maps to the point of the ellipsoid that is nearest to norm(u) + R:

    r = ρ v − u,    v = arg min ‖g ⊙ v − (norm(u) + R)‖  where  mean v² ≤ 1

A target is optimised as a shift of u itself, so at its layer norm(u) + R is on the ellipsoid, and ρ, there that of the target,
makes r this shift; elsewhere ρ = ρ(u), which leaves the scale of u as it is.

Terms and symbols: docs/notation.md.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from d4s.editors.protocol import Targets
from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel

LARGE = 1e3  # an entry beside which the constant that a norm adds to the mean square is nothing
HALVINGS = 60
TOLERANCE = 1e-2  # relative; half precision is within it


def target_change(model: LanguageModel, layer: int, targets: Targets) -> Float[Tensor, "n d_out"]:
    """What the targets' shifts at a layer change in the block's output: the shifts themselves where no norm is between."""
    if model.post_norm(layer) is None:
        return targets.hidden_shift
    device = model.weight(layer).device
    return model.block_output_change(layer, targets.mlp_output.to(device), targets.hidden_shift.to(device)).detach()


@torch.no_grad()
def weight_side_residuals(
    norm: nn.Module, output: Float[Tensor, "b d_out"], residuals: Float[Tensor, "b d_out"], target: Float[Tensor, "b d_out"] | None
) -> Float64[Tensor, "b d_out"]:
    """What to add to MLP outputs so that the norm's output moves by residuals, or as near to that as it can.

    Args:
        norm: the norm after the MLP.
        output: the MLP's output u, before the norm.
        residuals: wanted change R of the norm's output.
        target: MLP outputs with the scale that is wanted; those of `output` where there is none.

    Raises:
        SettingsError: if the norm is not an RMSNorm.
    """
    gain = norm(torch.full_like(output[:1], LARGE)).double()
    normed, output = norm(output).double(), output.double()
    base, normed_base = (output, normed) if target is None else (target.double(), norm(target).double())
    scale = (gain * base).norm(dim=1, keepdim=True) / normed_base.norm(dim=1, keepdim=True)
    fits = (gain * base / scale - normed_base).norm(dim=1) <= TOLERANCE * normed_base.norm(dim=1)
    if bool((~fits & base.isfinite().all(1)).any()):
        raise SettingsError(
            f"the norm after the MLP, a {type(norm).__name__}, is not an RMSNorm without a bias; locate-then-edit methods fit edits "
            "before such a norm alone: use another method for this model"
        )
    return scale * nearest_direction(gain, normed + residuals.double()) - output


def nearest_direction(gain: Float64[Tensor, "1 d_out"], wanted: Float64[Tensor, "b d_out"]) -> Float64[Tensor, "b d_out"]:
    """The v with mean v² ≤ 1 for which gain ⊙ v is nearest to what is wanted.

    v = g ⊙ y / (g² + μ), with μ = 0 where mean (y / g)² ≤ 1, else the μ > 0 at which mean v² = 1, found by bisection.
    """
    low = torch.zeros_like(wanted[:, :1])
    high = (gain * wanted).square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(wanted.dtype).tiny)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_too_long = (gain * wanted / (gain.square() + middle)).square().mean(1, keepdim=True) > 1
        low, high = torch.where(is_too_long, middle, low), torch.where(is_too_long, high, middle)
    return gain * wanted / (gain.square() + high)
