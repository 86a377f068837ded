"""Somebody's model used as editors need it, and left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging


@contextmanager
def editing_mode(model: PreTrainedModel) -> Iterator[None]:
    """Use a model as editors need it; its mode and gradient flags, and PyTorch's settings, are as before afterwards."""
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
    """Float32 products in float32; PyTorch's settings are as before afterwards, in whichever of its two ways they were made."""
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
    except RuntimeError:  # it refuses to sum up settings that were made one by one
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
    """Load models within the block; PyTorch's settings and what Transformers shows are as before afterwards."""
    verbosity, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        with full_float32():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bars:
            transformers_logging.enable_progress_bar()
