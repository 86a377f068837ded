"""What tuning has measured so far, on disk after every trial, so that the same command resumes and takes the same choices."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d4s.artifacts import write_json
from d4s.errors import SettingsError
from d4s.settings_base import canonical


class TrialRecord:
    """Results of trials by name, with the seconds that they took; in a file, or in memory alone where `path` is None.

    `identity` says what is tuned, on what and how; a file of another identity is refused.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._content: dict[str, Any] = {"identity": json.loads(canonical(identity)), "trials": {}}
        self._used: set[str] = set()
        if path is not None and path.is_file():
            self._content = _read(path, self._content["identity"])

    @property
    def seconds(self) -> float:
        """Seconds that the trials took that this command has used so far, whether it measured them or found them in the record.

        So a command that resumes decides by the same numbers as the one before it.
        """
        return sum(self._content["trials"][name]["seconds"] for name in self._used)

    def forget(self, name: str) -> None:
        """Drop a result whose files are gone, so that it is measured again."""
        self._content["trials"].pop(name, None)

    def measure(self, name: str, run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The result of a trial with its `seconds`, from the record or measured now."""
        if name not in self._content["trials"]:
            begun = time.monotonic()
            found = dict(run())
            self._content["trials"][name] = {**found, "seconds": round(time.monotonic() - begun, 1)}
            if self._path is not None:
                write_json(self._path, self._content)
        self._used.add(name)
        return self._content["trials"][name]


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a record of this identity.

    Raises:
        SettingsError: if it is of another one, naming every difference, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        there = content["identity"]
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{path} is no record of trials ({error}); delete it or give another --out") from None
    changed = [f"{key}: {there.get(key)!r} there, {value!r} now" for key, value in identity.items() if there.get(key) != value]
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise SettingsError(f"{path} is of another tuning; give another --out, or the same options:\n{lines}")
    return content
