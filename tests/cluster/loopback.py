"""A real Slurm on this machine: unpacked from Debian's packages, nothing installed, two nodes with a made-up GPU each."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libmunge2", "libhwloc15")
NODES = ("node1", "node2")
DEVICES = ("/dev/null", "/dev/zero")  # their GPUs: only character devices are handed to jobs
PATIENCE = 180.0  # seconds until tests that need a cluster are skipped
CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MinJobAge=86400
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=32000 Gres=gpu:1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=32000 Gres=gpu:1
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=1-0
"""


class Unavailable(Exception):
    """No Slurm can be had on this machine, with the reason."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster. Its users have `bin` in their PATH."""

    folder: Path

    @property
    def bin(self) -> Path:
        """The commands of its users."""
        return self.folder / "bin"

    def run(self, command: str, *arguments: str) -> str:
        """The output of a Slurm command."""
        return subprocess.run([self.bin / command, *arguments], check=True, capture_output=True, text=True).stdout

    def jobs(self) -> list[dict[str, str]]:
        """All jobs so far by Slurm's own names, such as `JobId`, `Comment`, `JobState`, `NodeList`, `TresPerJob`."""
        lines = self.run("scontrol", "show", "jobs", "--oneliner").splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


def unpack(root: Path) -> Path:
    """Slurm's and MUNGE's programs under a folder.

    Raises:
        Unavailable: if there is no apt, no network, or it takes too long.
    """
    if not shutil.which("apt-get"):
        raise Unavailable("there is no apt-get: the packages of Slurm are Debian's")
    downloads = root / "packages"
    lists = root / "lists"
    for folder in (downloads, lists / "partial"):
        folder.mkdir(parents=True)
    own = ("-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={root / 'cache'}", "-o", "Debug::NoLocking=1", "-qq")
    started = time.monotonic()
    try:
        for command in (("update",), ("download", *PACKAGES)):
            left = PATIENCE - (time.monotonic() - started)
            subprocess.run(["apt-get", *own, *command], cwd=downloads, check=True, capture_output=True, text=True, timeout=left)
        for package in downloads.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, root], check=True, capture_output=True, text=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise Unavailable(f"Slurm's packages cannot be had: {getattr(error, 'stderr', None) or error}") from error
    # Slurm's daemons look at the name that they are called by; Debian's packages leave it to links made on installation.
    for name in ("slurmctld", "slurmd", "slurmstepd"):
        (root / "usr" / "sbin" / name).symlink_to(f"{name}-wlm")
    return root


@contextmanager
def running(root: Path, folder: Path) -> Iterator[Cluster]:
    """A cluster of unpacked programs, with all its files in a new folder; ended with everything that runs on it.

    Raises:
        Unavailable: if its nodes do not come up.
    """
    programs = root / "usr" / "sbin"
    (plugins,) = root.glob("usr/lib/*/slurm-wlm")
    environment = {"LD_LIBRARY_PATH": f"{plugins}:{plugins.parent}", "SLURM_CONF": str(folder / "slurm.conf")}
    _configure(folder, plugins)
    _wrap(root / "usr" / "bin", folder / "bin", environment)
    cluster = Cluster(folder)
    munge = ["--force", "--foreground", f"--socket={folder}/munge.sock", f"--key-file={folder}/munge.key"]
    munge += [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "log-file", "seed-file")]
    with ExitStack() as daemons:
        daemons.enter_context(_daemon(folder, environment, programs / "munged", *munge))
        _wait_until((folder / "munge.sock").exists, "munged does not start", folder)
        daemons.enter_context(_daemon(folder, environment, programs / "slurmctld", "-D"))
        for node in NODES:
            slurmd = ("-D", "-N", node, "-d", str(programs / "slurmstepd"))
            daemons.enter_context(_daemon(folder, environment, programs / "slurmd", *slurmd))
        _wait_until(lambda: _idle(cluster) == list(NODES), "the nodes do not come up", folder)
        try:
            yield cluster
        finally:
            cluster.run("scancel", f"--user={os.getuid()}")
            _wait_until(lambda: not cluster.run("squeue", "--noheader").strip(), "jobs do not end", folder)


def _configure(folder: Path, plugins: Path) -> None:
    """Settings, devices and a key."""
    (folder / "state").mkdir()
    for node in NODES:
        (folder / node).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    config = CONFIG.format(host=socket.gethostname(), ports=_free_ports(1 + len(NODES)), user=user, folder=folder, plugins=plugins)
    (folder / "slurm.conf").write_text(config)
    (folder / "gres.conf").write_text(
        "".join(f"NodeName={node} Name=gpu File={device}\n" for node, device in zip(NODES, DEVICES, strict=True))
    )


def _wrap(programs: Path, folder: Path, environment: dict[str, str]) -> None:
    """The users' commands with their environment built in: jobs of Snakemake drop SLURM_CONF, which a plain srun would need."""
    folder.mkdir()
    for program in programs.iterdir():
        script = folder / program.name
        variables = " ".join(f"{name}={value}" for name, value in environment.items())
        script.write_text(f'#!/bin/sh\n{variables} exec {program} "$@"\n')
        script.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def _daemon(folder: Path, environment: dict[str, str], program: Path, *arguments: str) -> Iterator[None]:
    """A program in the background, its output in the cluster's folder; ended on leaving."""
    with (folder / "daemons.log").open("a") as log:
        process = subprocess.Popen([program, *arguments], env=os.environ | environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _idle(cluster: Cluster) -> list[str]:
    try:
        return cluster.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").split()
    except subprocess.CalledProcessError:
        return []  # the controller does not listen yet


def _wait_until(reached: Callable[[], bool], otherwise: str, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE / 3
    while not reached():
        if time.monotonic() > deadline:
            log = (folder / "daemons.log").read_text()[-2000:]
            raise Unavailable(f"{otherwise}:\n{log}")
        time.sleep(0.1)
