"""Where training stands: weights, both optimisers, step and curve in one safetensors file, enough to go on bit for bit."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from d4s.artifacts import write_tensors
from d4s.errors import ArtifactError
from d4s.pretraining.network import Optimisers

NAME = "checkpoint.safetensors"
CurveRow = tuple[float, float, float, float, float]


def save(path: Path, identity: str, step: int, network: nn.Module, optimisers: Optimisers, curve: Sequence[CurveRow]) -> None:
    """Write the state after `step` steps atomically."""
    tensors: dict[str, Tensor] = {f"weight.{name}": value.detach() for name, value in network.named_parameters()}
    for number, optimiser in enumerate(optimisers.both):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors["curve"] = torch.tensor(curve, dtype=torch.float64).reshape(len(curve), 5)
    write_tensors(path, {name: value.clone() for name, value in tensors.items()}, {"identity": identity, "step": json.dumps(step)})


def restore(path: Path, identity: str, network: nn.Module, optimisers: Optimisers) -> tuple[int, list[CurveRow]]:
    """Put a saved state back in place; gives the steps done and the curve so far.

    Raises:
        ArtifactError: if the file is torn or belongs to another training.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors: dict[str, Tensor] = {name: stored.get_tensor(name) for name in stored.keys()}
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run again") from None
    if metadata.get("identity") != identity:
        raise ArtifactError(f"{path} belongs to another training ({metadata.get('identity')!r}); delete it and run again")
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(tensors[f"weight.{name}"])
    for number, optimiser in enumerate(optimisers.both):
        content = optimiser.state_dict()
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(f".{number}.")
            if kind == "optimiser":
                index, _, quantity = rest.partition(".")
                states.setdefault(int(index), {})[quantity] = value
        optimiser.load_state_dict(content | {"state": states})
    curve: list[CurveRow] = [tuple(row) for row in tensors["curve"].tolist()]
    return int(json.loads(metadata["step"])), curve
