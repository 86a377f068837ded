"""The small model that the pipeline trains, and its two optimisers."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from d4s.config import PretrainSettings
from d4s.pretraining.muon import Muon

MOMENTUM, BETAS = 0.95, (0.9, 0.98)


def new_network(settings: PretrainSettings, vocabulary: int, bos: int) -> GPT2LMHeadModel:
    """A newly initialised GPT-2 of the given shape; `model_seed` alone determines its weights."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=settings.positions,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        n_inner=settings.mlp_width,
        activation_function="gelu_pytorch_tanh",  # the same function as `gelu_new`, which is far slower on CPUs
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=bos,
        eos_token_id=bos,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.model_seed)
        return GPT2LMHeadModel(config)


@dataclass(frozen=True)
class Optimisers:
    """Muon on the matrices of the blocks, AdamW on embeddings, norms and biases."""

    muon: Muon
    adam: torch.optim.Optimizer

    @classmethod
    def of(cls, network: nn.Module, settings: PretrainSettings) -> "Optimisers":
        """Optimisers of all parameters of a network."""
        named = list(network.named_parameters())
        matrices = [weight for name, weight in named if ".h." in name and weight.ndim == 2]
        others = [weight for name, weight in named if not (".h." in name and weight.ndim == 2)]
        return cls(
            Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay, momentum=MOMENTUM),
            torch.optim.AdamW(others, lr=settings.adam_lr, betas=BETAS, weight_decay=0.0, fused=True),
        )

    @property
    def both(self) -> Sequence[torch.optim.Optimizer]:
        """Muon, then AdamW."""
        return self.muon, self.adam

    def step(self, settings: PretrainSettings, share: float, pool: Executor) -> None:
        """One update at a share of the full learning rates, matrices in parallel; gradients are cleared afterwards."""
        for optimiser, rate in zip(self.both, (settings.muon_lr, settings.adam_lr), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
        self.muon.step_in(pool)
        self.adam.step()
        for optimiser in self.both:
            optimiser.zero_grad(set_to_none=True)


def lr_schedule(settings: PretrainSettings, step: int, steps: int) -> float:
    """Share of the full learning rates at a step counted from 0: a linear rise, a plateau, a linear fall to zero."""
    rise = (step + 1) / settings.warmup_steps if settings.warmup_steps else 1.0
    fall = (steps - step) / (steps * settings.decay_share) if settings.decay_share else 1.0
    return min(1.0, rise, fall)
