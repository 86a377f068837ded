"""A registry of named objects, imported on first use; refuses duplicate names and suggests near ones."""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from d4s.errors import SettingsError


def nearest(name: str, known: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    """A hint for an error message: the closest known name, or all of them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


class Registry(Mapping[str, str]):
    """Names mapped to `module:attribute` targets that are imported on first use.

    An entry's value is its target as text, so that a module can be hashed without being imported; `load` imports it.
    """

    def __init__(self, what: str, entries: Mapping[str, str] | None = None) -> None:
        self.what = what
        self._entries: dict[str, str] = {}
        for name, target in (entries or {}).items():
            self.add(name, target)

    def add(self, name: str, target: str) -> None:
        """Register a target under a name.

        Raises:
            ValueError: if the name is taken or the target is not `module:attribute`.
        """
        if name in self._entries:
            raise ValueError(f"{self.what} {name!r} is already registered as {self._entries[name]}")
        if target.count(":") != 1:
            raise ValueError(f"{self.what} {name!r}: target {target!r} is not of the form 'module:attribute'")
        self._entries[name] = target

    def __getitem__(self, name: str) -> str:
        if name not in self._entries:
            raise SettingsError(f"unknown {self.what} {name!r}; {nearest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def module(self, name: str) -> str:
        """The dotted name of the module that holds an entry, without importing it."""
        return self[name].split(":")[0]

    def load(self, name: str) -> Any:
        """The object registered under a name, imported."""
        module, attribute = self[name].split(":")
        return getattr(importlib.import_module(module), attribute)
