"""Checkpoints of a training: weights, both optimisers, step and curve in one safetensors file, enough to continue exactly."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GPT2LMHeadModel

from d4s.artifacts import write_tensors
from d4s.errors import ArtifactError
from d4s.pretraining.network import Optimisers

NAME = "checkpoint.safetensors"
CurveRow = tuple[int, int, float, float, float]


@dataclass
class TrainingState:
    """The state of a training: what it changes, the steps done, and its curve so far."""

    network: GPT2LMHeadModel
    optimisers: Optimisers
    done: int = 0
    curve: list[CurveRow] = field(default_factory=list)

    def save(self, path: Path, identity: str) -> None:
        """Write the state atomically."""
        tensors: dict[str, Tensor] = {f"weight.{name}": value.detach() for name, value in self.network.named_parameters()}
        for number, optimiser in enumerate(self.optimisers.both):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{number}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        tensors["curve"] = torch.tensor(self.curve, dtype=torch.float64).reshape(len(self.curve), 5)
        write_tensors(path, {name: value.clone() for name, value in tensors.items()}, {"identity": identity, "done": str(self.done)})

    def restore(self, path: Path, identity: str) -> None:
        """Load a saved state into the existing tensors.

        Raises:
            ArtifactError: if the file is truncated or belongs to another training.
        """
        tensors, metadata = _read(path)
        if metadata.get("identity") != identity:
            raise ArtifactError(f"{path} belongs to another training ({metadata.get('identity')!r}); delete it and run again")
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(tensors[f"weight.{name}"])
        for number, optimiser in enumerate(self.optimisers.both):
            states: dict[int, dict[str, Tensor]] = {}
            prefix = f"optimiser.{number}."
            for name in tensors:
                if name.startswith(prefix):
                    index, _, quantity = name.removeprefix(prefix).partition(".")
                    states.setdefault(int(index), {})[quantity] = tensors[name]
            optimiser.load_state_dict(optimiser.state_dict() | {"state": states})
        rows: list[list[float]] = tensors["curve"].tolist()
        self.curve = [(int(row[0]), int(row[1]), row[2], row[3], row[4]) for row in rows]
        self.done = int(metadata["done"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run again") from None
