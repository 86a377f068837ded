"""Removal of artefacts that no study uses any more."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from d4s.end_markers import is_marker
from d4s.errors import ArtifactError
from d4s.study.graph import STORE
from d4s.study.plan import StudyPlan
from d4s.study.summarize import STORE_LIST

LOCKS = Path(".snakemake/locks")


def unused(plans: Iterable[StudyPlan], root: Path = Path()) -> list[Path]:
    """Folders of the store that no finished study's list names, and none of the plans, however far they have come.

    Raises:
        ArtifactError: if a study is running here, or none has been finished, since then nothing tells what is in use.
    """
    if any((root / LOCKS).glob("*")):
        raise ArtifactError("a study is running in this folder, or was killed (then: python -m tools.unlock); prune when it is done")
    lists = sorted((root / STORE.parent).glob(f"*/{STORE_LIST}"))
    if not lists:
        raise ArtifactError(f"no {STORE.parent}/STUDY/{STORE_LIST} found: finish a study first, so that it is known what is in use")
    used = {root / name for path in lists for name in json.loads(path.read_text(encoding="utf-8"))}
    used |= {root / node.folder for plan in plans for node in plan.nodes}
    return [folder for folder in sorted((root / STORE).glob("*/*")) if folder.is_dir() and folder not in used]


def prune(plans: Iterable[StudyPlan], *, remove: bool, root: Path = Path()) -> Iterator[str]:
    """Name every unused folder with its size, and remove it when asked."""
    total = 0
    for folder in unused(plans, root):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        total += size
        if remove:
            shutil.rmtree(folder)
        yield f"{'removed' if remove else 'unused'} {folder} ({size / 2**20:.1f} MB)"
    yield f"{total / 2**20:.1f} MB {'removed' if remove else 'could be removed; pass --yes to do it'}"


def forget(outputs: Iterable[str]) -> None:
    """Remove artefacts that are to be made again, given by what their rules declare: their jobs must not find the parts that there are."""
    for path in map(Path, outputs):
        shutil.rmtree(path.parent.parent if is_marker(path) else path.parent, ignore_errors=True)
