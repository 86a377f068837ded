"""What this machine has, and the one error that names every job it is too small for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from d4s.errors import D4SError
from d4s.resources.requirements import GIB, STUDY_REMEDIES, Number, Remedies, Requirements

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


class DoesNotFit(D4SError):
    """Jobs that need more memory than there is; the message names each with the setting to lower."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes of memory of the host, of a device where there is one, and of all visible devices where they were counted."""

    host: Number
    device: Number | None = None
    devices: Number | None = None

    def of(self, requirements: Requirements) -> Number:
        """Bytes of the device memory that a job may take."""
        found = self.devices if requirements.is_sharded and self.devices is not None else self.device
        return found or 0.0


def host_memory() -> Number:
    """Bytes of this machine's memory, or of what this process's control group, or one around it, may take of it."""
    lines = OWN_GROUP.read_text(encoding="utf-8").splitlines() if OWN_GROUP.is_file() else []
    inner = next((CGROUPS / line.removeprefix("0::/") for line in lines if line.startswith("0::/")), CGROUPS)
    groups = [group for group in (inner, *inner.parents) if group == CGROUPS or CGROUPS in group.parents]
    limits = [(group / "memory.max").read_text(encoding="utf-8").strip() for group in groups if (group / "memory.max").is_file()]
    return float(min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit != "max")]))


def this_machine(memory: Number | None = None, device_memory: Number | None = None, *, asks_device: bool = True) -> Machine:
    """The machine as it is, or with memory of given sizes in GiB; torch is asked for a device only where one may be used."""
    device = devices = None if device_memory is None else device_memory * GIB
    if device is None and asks_device:
        import torch

        if torch.cuda.is_available():
            device = float(torch.cuda.mem_get_info()[1])
            devices = float(sum(torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())))
    return Machine(host_memory() if memory is None else memory * GIB, device, devices)


def shortages(name: str, requirements: Requirements, machine: Machine, remedies: Remedies) -> Iterator[str]:
    """Where a job does not fit, in words: what it needs, what there is, what holds most, and what to lower."""
    for place, parts, there in (
        ("memory", requirements.host, machine.host),
        ("device memory", requirements.device, machine.of(requirements)),
    ):
        wanted = sum(parts.values())
        if wanted > there:
            most = sorted(parts, key=lambda part: -parts[part])[:3]
            held = ", ".join(f"{part} {parts[part] / GIB:.1f}" for part in most)
            advice = remedies.advice(parts, on_device=parts is requirements.device)
            yield f"{name} needs {wanted / GIB:.1f} GiB of {place} and there are {there / GIB:.1f} ({held}): {advice}"


def check_capacity(jobs: Iterable[tuple[str, Requirements]], machine: Machine, remedies: Remedies = STUDY_REMEDIES) -> None:
    """Do nothing where every job fits.

    Raises:
        DoesNotFit: naming every job that does not, with the setting to lower.
    """
    found = [line for name, requirements in jobs for line in shortages(name, requirements, machine, remedies)]
    if found:
        raise DoesNotFit(f"{len(found)} job(s) cannot fit into this machine:\n" + "\n".join(f"  {line}" for line in found))
