"""How fast this machine is: products in both precisions and the overhead of calling a block, timed once and remembered."""

import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4s.artifacts import write_json
from d4s.resources.requirements import Number, Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)
STARTUP, LIGHT_STARTUP = 8.0, 3.0  # seconds until a job with torch, or without it, begins its work


@dataclass(frozen=True, slots=True)
class Speed:
    """Operations per second in single and in double precision, and seconds per call of a block beyond its products."""

    single: float
    double: float
    call: float

    def seconds(self, work: Work) -> Number:
        """How long work takes."""
        return work.single / self.single + work.double / self.double + work.calls * self.call


SLOW_HOST = Speed(single=2e10, double=1e10, call=1e-3)
SLOW_DEVICE = Speed(single=1e13, double=5e12, call=4e-4)  # where nothing can be timed: a data-centre card at about half its rate


def speed_file() -> Path:
    """Where speeds are remembered, by machine: in the user's cache folder; without it they are measured again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d4s" / "speed.json"


def known_speed(*, on_device: bool = False) -> Speed:
    """The speed of this machine or of its accelerator, measured the first time that it is asked for."""
    path, machine = speed_file(), _machine(on_device=on_device)
    known = _cached_speeds(path)
    with suppress(KeyError, TypeError, ValueError):
        return Speed(**{name: float(value) for name, value in known[machine].items()})
    speed = calibrate(on_device=on_device)
    try:
        write_json(path, {**known, machine: asdict(speed)})
    except OSError as error:
        logger.info("this machine's speed is measured each time, since it cannot be kept: %s", error)
    return speed


def _cached_speeds(path: Path) -> Mapping[str, Any]:
    """The content of a file of speeds; empty where it is missing or truncated."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _machine(*, on_device: bool) -> str:
    """What a speed holds for: a machine, its processor, threads, and the library; a home may be shared by many machines."""
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    parts = [platform.node(), platform.machine(), _processor(), f"{threads} threads", f"torch {importlib.metadata.version('torch')}"]
    return ", ".join([*parts, *(["accelerator " + os.environ.get("CUDA_VISIBLE_DEVICES", "any")] if on_device else [])])


def _processor() -> str:
    """The name of the processor, as far as the system tells it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor()


def calibrate(*, on_device: bool = False) -> Speed:
    """The speed of this machine with the threads that torch has, or of its accelerator."""
    import torch

    found = torch.accelerator.current_accelerator() if on_device else None
    device = found or torch.get_default_device()
    torch.set_float32_matmul_precision("highest")
    rates = []
    for dtype, size in ((torch.float32, 1024), (torch.float64, 768)):
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        rates.append(2.0 * size**3 / _time(lambda matrix=matrix: matrix @ matrix, device, 5))
    call = _time(_small_block(device), device, 20)
    return Speed(rates[0], rates[1], call)


def _small_block(device: "torch.device") -> Callable[[], "Tensor"]:
    """A block too small for its products to matter: what is left is the overhead of its calls."""
    import torch
    from torch import nn

    norms = [nn.LayerNorm(32, device=device) for _ in range(2)]
    qkv, out = nn.Linear(32, 96, device=device), nn.Linear(32, 32, device=device)
    up, down = nn.Linear(32, 64, device=device), nn.Linear(64, 32, device=device)
    hidden = torch.ones(4, 8, 32, device=device)

    @torch.no_grad()
    def run() -> Any:
        parts = qkv(norms[0](hidden)).view(4, 8, 2, 48).transpose(1, 2).chunk(3, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).reshape(4, 8, 32)
        middle = hidden + out(attended)
        return middle + down(nn.functional.gelu(up(norms[1](middle)), approximate="tanh"))

    return run


def _time(action: Callable[[], Any], device: "torch.device", times: int) -> float:
    """Fewest seconds of an action after one that warms up: what it takes while nothing else runs.

    One thread of a processor is timed by its own clock, which other programs cannot slow down.
    """
    import torch

    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def once() -> float:
        start = clock()
        action()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return clock() - start

    once()
    return min(once() for _ in range(times))
