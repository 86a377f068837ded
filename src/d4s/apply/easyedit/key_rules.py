"""What a key of EasyEdit's hyperparameter files becomes: one rule per key, which reads a value and says of itself what it does.

Nothing here knows an algorithm; `algorithms.py` has a table of rules for each.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from d4s.editors.hparams import HParams
from d4s.editors.settings_file import ModelShape
from d4s.models.adapters import ADAPTERS

Outcome = Literal["translated", "without effect", "not representable", "unknown"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a value becomes: settings of ours, factors of settings, or a preset; `note` says which, or why nothing."""

    outcome: Outcome
    note: str
    settings: HParams = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    preset: str = ""


@dataclass(frozen=True, slots=True)
class TargetModel:
    """The model that settings are for: what it was named, and its shape."""

    source: str
    shape: ModelShape

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return self.shape[1]

    def mlp_output(self, layer: int | str) -> str | None:
        """The name of a block's MLP output matrix; None where no row of the adapters says it."""
        adapter = ADAPTERS.get(self.shape[0])
        return None if adapter is None else f"{adapter.blocks}.{layer}.{adapter.mlp_out}"

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse layers that the model does not have.

        Raises:
            ValueError: naming them.
        """
        if missing := [layer for layer in layers if not 0 <= layer < self.blocks]:
            raise ValueError(f"layers {missing} are not in the model, which has 0 to {self.blocks - 1}")


def nested(key: str, value: Any) -> dict[str, Any]:
    """A setting by its dotted name: `nested("target.lr", 0.5)` is `{"target": {"lr": 0.5}}`."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def written(settings: HParams, prefix: str = "") -> str:
    """Settings as dotted keys with their values, in one line."""
    parts = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        parts.append(written(value, f"{name}.") if isinstance(value, Mapping) else f"{name}: {_plain(value)}")
    return ", ".join(parts)


def _plain(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(item) for item in value)}]"
    return words[value] if value is None or isinstance(value, bool) else str(value)


def number(value: Any) -> int | float:
    """A value that is a number.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, found {value!r}")
    return value


@dataclass(frozen=True)
class Rule(ABC):
    """What one key becomes. A file must have every key that `gives` settings and is not `optional`."""

    gives: ClassVar[bool] = False
    optional: bool = field(default=False, kw_only=True)

    @abstractmethod
    def read(self, value: Any, model: TargetModel) -> Found:
        """What a value becomes for a model.

        Raises:
            ValueError: if it is no value of this key.
        """

    @abstractmethod
    def describe(self) -> str:
        """What the key becomes, in Markdown."""


@dataclass(frozen=True)
class To(Rule):
    """A number that is a setting of ours; with `or_none` false means that there is none. `as_read` says what it is in EasyEdit."""

    gives: ClassVar[bool] = True
    target: str
    or_none: bool = False
    as_read: str = ""

    def read(self, value: Any, model: TargetModel) -> Found:
        """The number as it is."""
        settings = nested(self.target, None if self.or_none and (value is None or value is False) else number(value))
        return Found("translated", f"{written(settings)}{self._remark()}", settings)

    def describe(self) -> str:
        """The setting's name."""
        return f"`{self.target}`{', `false` as `null`' if self.or_none else ''}{self._remark()}"

    def _remark(self) -> str:
        return f" ({self.as_read})" if self.as_read else ""


@dataclass(frozen=True)
class OfEveryLayer(Rule):
    """A list with a number for each layer, all equal, that is one setting of ours."""

    gives: ClassVar[bool] = True
    target: str = ""

    def read(self, value: Any, model: TargetModel) -> Found:
        """The number.

        Raises:
            ValueError: if it is no list of equal numbers.
        """
        if not isinstance(value, list) or len({number(item) for item in value}) != 1:
            raise ValueError(f"expected the same number for every layer, found {value!r}")
        settings = nested(self.target, value[0])
        return Found("translated", written(settings), settings)

    def describe(self) -> str:
        """The setting's name."""
        return f"`{self.target}`, the same for every layer"


@dataclass(frozen=True)
class ToSeveral(Rule):
    """A list of numbers, each of which is a setting of ours."""

    gives: ClassVar[bool] = True
    names: tuple[str, ...] = ()

    def read(self, value: Any, model: TargetModel) -> Found:
        """The numbers by name.

        Raises:
            ValueError: if they are not as many numbers.
        """
        if not isinstance(value, list) or len(value) != len(self.names):
            raise ValueError(f"expected {len(self.names)} numbers, found {value!r}")
        settings = {name: number(item) for name, item in zip(self.names, value, strict=True)}
        return Found("translated", written(settings), settings)

    def describe(self) -> str:
        """The settings' names."""
        return ", ".join(f"`{name}`" for name in self.names)


@dataclass(frozen=True)
class Factor(Rule):
    """A number that one or more settings of ours are multiples of: those that share a setting are multiplied."""

    gives: ClassVar[bool] = True
    multiplies: tuple[str, ...] = ()

    def read(self, value: Any, model: TargetModel) -> Found:
        """The factor."""
        found = float(number(value))
        return Found(
            "translated", " and ".join(f"a factor of {name}" for name in self.multiplies), factors=dict.fromkeys(self.multiplies, found)
        )

    def describe(self) -> str:
        """Which settings it multiplies."""
        return "a factor of " + " and ".join(f"`{name}`" for name in self.multiplies)


@dataclass(frozen=True)
class Ignored(Rule):
    """A key without effect here, whatever its value."""

    reason: str = ""

    def read(self, value: Any, model: TargetModel) -> Found:
        """Nothing."""
        return Found("without effect", self.reason)

    def describe(self) -> str:
        """The reason."""
        return f"without effect: {self.reason}"


@dataclass(frozen=True)
class Lacking(Rule):
    """A key that matters, and that settings of editors cannot say, whatever its value."""

    reason: str = ""

    def read(self, value: Any, model: TargetModel) -> Found:
        """Nothing."""
        return Found("not representable", self.reason)

    def describe(self) -> str:
        """The reason."""
        return f"not representable: {self.reason}"


@dataclass(frozen=True)
class Same(Rule):
    """A key of which we have some values, which are what is done anyway; others are not representable (`otherwise`, or the same reason)."""

    values: tuple[Any, ...] = ()
    reason: str = ""
    otherwise: str = ""

    def read(self, value: Any, model: TargetModel) -> Found:
        """Whether it is one of them."""
        if any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in self.values):
            return Found("without effect", self.reason)
        return Found("not representable", self.otherwise or self.reason)

    def describe(self) -> str:
        """The values, and what of others."""
        values = " or ".join(dict.fromkeys(f"`{_plain(value)}`" for value in self.values))
        otherwise = f": {self.otherwise}" if self.otherwise else ""
        return f"{values}: without effect, {self.reason}; else not representable{otherwise}"


@dataclass(frozen=True)
class Choice(Rule):
    """A key each of whose values stands for settings of ours."""

    gives: ClassVar[bool] = True
    options: Mapping[Hashable, HParams] = field(default_factory=dict)
    otherwise: str = ""

    def read(self, value: Any, model: TargetModel) -> Found:
        """The settings of a value."""
        if not isinstance(value, Hashable) or value not in self.options:
            return Found("not representable", self.otherwise)
        settings = self.options[value]
        return Found("translated", written(settings), settings)

    def describe(self) -> str:
        """Every value with its settings."""
        return "; ".join(f"`{_plain(value)}`: `{written(settings)}`" for value, settings in self.options.items())


@dataclass(frozen=True)
class PresetChoice(Rule):
    """A key that says which of ours an algorithm is."""

    gives: ClassVar[bool] = True
    options: Mapping[str, str] = field(default_factory=dict)

    def read(self, value: Any, model: TargetModel) -> Found:
        """The preset.

        Raises:
            ValueError: if the value names none.
        """
        if not isinstance(value, str) or value not in self.options:
            raise ValueError(f"expected {' or '.join(self.options)}, found {value!r}")
        return Found("translated", f"the preset {self.options[value]}", preset=self.options[value])

    def describe(self) -> str:
        """Every value with its preset."""
        return "the preset: " + ", ".join(f"`{value}` is `{preset}`" for value, preset in self.options.items())
