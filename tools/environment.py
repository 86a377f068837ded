"""Write environment.yml for conda from requirements.lock: the Python version, and every pin in its pip section.

The pins stand inline because Snakemake's `--use-conda` does not support `-r FILE` there. `--check` only compares.
"""

import argparse
import sys

from tools.lock import LOCK, ROOT, pins

ENVIRONMENT = ROOT / "environment.yml"
PYTHON = "3.11"


def render(versions: dict[str, str]) -> str:
    """The text of environment.yml for pinned versions by package name."""
    lines = [
        "# Written from requirements.lock by `make pages`; do not edit. Used by `snakemake --use-conda` and `conda env create -f`.",
        "name: d4s",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        f"  - python={PYTHON}",
        "  - pip",
        "  - pip:",
        *(f"      - {name}=={version}" for name, version in versions.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write environment.yml, or with --check fail where it differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is not up to date")
    options = parser.parse_args()
    text = render(pins(LOCK.read_text(encoding="utf-8")))
    if not options.check:
        ENVIRONMENT.write_text(text, encoding="utf-8")
    elif not ENVIRONMENT.is_file() or ENVIRONMENT.read_text(encoding="utf-8") != text:
        sys.exit(f"{ENVIRONMENT.name} does not match {LOCK.name}: run `make pages` and commit it")


if __name__ == "__main__":
    main()
