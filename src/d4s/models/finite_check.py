"""Checks that an unedited model's weights and logits are finite before anything is computed with them."""

import torch
from torch import Tensor

from d4s.errors import ArtifactError
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode

TEXT = "Ada Moss lives in the city of Paris."


@torch.no_grad()
def require_finite(model: LanguageModel) -> None:
    """Refuse a model with weights that are not finite, or whose logits for a plain text are not.

    Raises:
        ArtifactError: naming the first such weight, or the precision that the logits overflow in.
    """
    name = model.network.name_or_path
    for weight, tensor in model.network.named_parameters():
        if not _is_finite(tensor):
            raise ArtifactError(
                f"{name}: the weight {weight} of the unedited model holds numbers that are not finite; fetch the model again"
            )
    ids = torch.tensor([encode(model, TEXT)], device=model.device)
    logits = model.network(input_ids=ids, use_cache=False).logits
    broken = int((logits.isnan() | logits.isposinf()).sum())
    if broken:
        precision = str(model.dtype).removeprefix("torch.")
        raise ArtifactError(
            f"{name}: {broken} of {logits.numel()} logits of the unedited model for {TEXT!r} are not finite in {precision}, though its "
            "weights are; load it in another precision (--dtype float32, or bfloat16, which has its range)"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite; a NaN is both smallest and largest, so no copy is needed."""
    return tensor.is_meta or not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
