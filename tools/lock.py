"""Resolve pyproject.toml with all its extras into requirements.lock: exact versions, no hashes, no addresses.

Hashes are left out because one file has to serve the CPU and the CUDA build of torch. pip-tools lives in a temporary
environment for the time of the call. Pins that still fit are kept; `--upgrade` looks for newer ones.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
RESOLVER = ("pip", "pip-tools==7.6.2")
OPTIONS = (
    "--all-extras",
    "--allow-unsafe",  # setuptools too: the package itself is built without isolation
    "--annotation-style=line",
    "--no-config",
    "--no-emit-find-links",
    "--no-emit-index-url",
    "--no-emit-options",
    "--no-emit-trusted-host",
    "--no-header",
    "--quiet",
    "--strip-extras",
)
HEADER = """\
# Every package of the one environment that runs, tests and checks d4s. Written by `make lock`; do not edit.
# Versions without hashes: the same line serves the CPU and the CUDA build of torch.
"""
PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!]+)(?:\+[A-Za-z0-9.]+)?(?P<via>\s+#.*)?$")


def clean(resolved: str) -> str:
    """The text of a lock file from what pip-compile wrote: pins with local parts such as `+cpu` dropped, sorted, and our header.

    Raises:
        ValueError: if a line is anything but a pin, an address above all.
    """
    pins = []
    for line in resolved.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = PIN.match(line.rstrip())
        if not found:
            raise ValueError(f"pip-compile wrote {line!r}, expected NAME==VERSION; no option or address belongs into the lock")
        pins.append(f"{found['name']}=={found['version']}{found['via'] or ''}")
    return HEADER + "\n".join(sorted(pins, key=str.lower)) + "\n"


def pins(text: str) -> dict[str, str]:
    """Versions by package name, from the text of a lock file."""
    found = (PIN.match(line) for line in text.splitlines())
    return {match["name"]: match["version"] for match in found if match}


def resolve(upgrade: bool, upgraded: list[str]) -> str:
    """What pip-compile makes of pyproject.toml, starting from the present pins."""
    with tempfile.TemporaryDirectory(prefix="d4s-lock-") as scratch:
        folder = Path(scratch)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *RESOLVER], check=True)
        draft = folder / "requirements.lock"
        if LOCK.is_file():
            shutil.copy(LOCK, draft)
        wishes = ["--upgrade"] * upgrade + [f"--upgrade-package={name}" for name in upgraded]
        command = [python, "-m", "piptools", "compile", *OPTIONS, *wishes, f"--output-file={draft}", "pyproject.toml"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return draft.read_text(encoding="utf-8")


def main() -> None:
    """Write requirements.lock and say what changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="look for newer versions of everything")
    parser.add_argument(
        "--upgrade-package", action="append", default=[], metavar="NAME", help="look for a newer version of this package only"
    )
    options = parser.parse_args()
    before = pins(LOCK.read_text(encoding="utf-8")) if LOCK.is_file() else {}
    text = clean(resolve(options.upgrade, options.upgrade_package))
    LOCK.write_text(text, encoding="utf-8")
    after = pins(text)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            print(f"{name}: {before.get(name, 'new')} -> {after.get(name, 'gone')}")
    print(f"{LOCK.name}: {len(after)} packages; now `make pages` writes environment.yml from it", file=sys.stderr)


if __name__ == "__main__":
    main()
