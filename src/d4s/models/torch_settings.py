"""Context managers that set a model and PyTorch up for editing and restore both afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging


@contextmanager
def editing_mode(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no gradients for a caller's model; its modes, gradient flags and PyTorch's settings are restored."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(weight, weight.requires_grad) for weight in model.parameters()]
    with full_float32(), torch.inference_mode(False), torch.enable_grad():
        try:
            model.eval().requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for weight, wants in gradients:
                weight.requires_grad_(wants)


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 products computed in float32; PyTorch's settings are restored, through whichever of its two interfaces they were made."""
    modules = (
        (torch.backends.cuda, "matmul"),
        (torch.backends.mkldnn, "matmul"),
        (torch.backends.cudnn, "conv"),
        (torch.backends.cudnn, "rnn"),
    )
    places = [getattr(module, name) for module, name in modules]
    precisions: list[str] = [place.fp32_precision for place in places]
    try:
        legacy = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # PyTorch refuses to read the joint setting where parts were set one by one
        legacy = None
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy[0])
            torch.backends.cudnn.allow_tf32 = legacy[1]
        else:
            for place, precision in zip(places, precisions, strict=True):
                place.fp32_precision = precision


@contextmanager
def preserve_settings() -> Iterator[None]:
    """Load models within the block; PyTorch's settings and the verbosity of Transformers are restored afterwards."""
    verbosity, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        with full_float32():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bars:
            transformers_logging.enable_progress_bar()
