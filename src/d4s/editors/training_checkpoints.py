"""Checkpoints of what is trained before any edit: tensors, moments of Adam and the steps done, enough to continue bit for bit.

Terms and symbols: docs/notation.md.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from d4s.artifacts import write_tensors
from d4s.errors import ArtifactError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training is kept on its way, and whose it is."""

    path: Path
    identity: str

    def save(self, done: int, weights: Mapping[str, Tensor], adam: torch.optim.Adam, also: Mapping[str, Tensor] | None = None) -> None:
        """Write a training after a number of steps, with what else it needs to continue."""
        tensors = {f"weight.{name}": weight.detach().clone() for name, weight in weights.items()}
        tensors |= {f"also.{name}": tensor.detach().clone() for name, tensor in (also or {}).items()}
        for number, state in adam.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": torch.as_tensor(value).clone() for name, value in state.items()}
        write_tensors(self.path, tensors, {"identity": self.identity, "done": str(done)})

    def restore(self, weights: Mapping[str, Tensor], adam: torch.optim.Adam) -> tuple[int, dict[str, Tensor]]:
        """Load a training into its tensors; returns the steps done, and what else was kept. No step where nothing is there.

        Raises:
            ArtifactError: if it is another one's.
        """
        if not self.path.exists():
            return 0, {}
        also: dict[str, Tensor] = {}
        with safe_open(self.path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("identity") != self.identity:
                raise ArtifactError(f"{self.path} belongs to another training ({metadata.get('identity')!r}); delete it and run again")
            states: dict[int, dict[str, Tensor]] = {}
            for name in stored.keys():
                kind, _, rest = name.partition(".")
                if kind == "weight":
                    with torch.no_grad():
                        weights[rest].copy_(stored.get_tensor(name))
                elif kind == "also":
                    also[rest] = stored.get_tensor(name)
                else:
                    number, _, quantity = rest.partition(".")
                    states.setdefault(int(number), {})[quantity] = stored.get_tensor(name)
        adam.load_state_dict(adam.state_dict() | {"state": states})
        log.info("going on after step %s", metadata["done"])
        return int(metadata["done"]), also
