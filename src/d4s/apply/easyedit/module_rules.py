"""Rules for keys that name layers and modules, which have a meaning only for a model."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from d4s.apply.easyedit.key_rules import Found, Rule, TargetModel, number, written
from d4s.editors.hparams import HParams

PARAMETER = re.compile(r"(?P<blocks>.+?)(?:\.(?P<dotted>\d+)|\[(?P<bracketed>\d+)\])\.(?P<module>.+?)(?:\.weight)?")
"""The name of a weight in a block: `model.layers.5.mlp.up_proj` or `model.layers[5].mlp.up_proj.weight`."""


@dataclass(frozen=True)
class LossLayer(Rule):
    """The block after which the loss of targets is taken: ours is that of the model's output."""

    def read(self, value: Any, model: TargetModel) -> Found:
        """Whether it is the last block."""
        if number(value) == model.blocks - 1:
            return Found("without effect", "the last block: the loss is that of the model's output")
        return Found("not representable", f"the loss is taken after the last block ({model.blocks - 1})")

    def describe(self) -> str:
        """Only the last one."""
        return "the last block: without effect; else not representable, since the loss is that of the model's output"


def edited(layers: tuple[int, ...]) -> HParams:
    """Edited layers, with the target at the last."""
    return {"layers": layers, "target": {"layer": layers[-1]}}


def edited_alone(layers: tuple[int, ...]) -> HParams:
    """Edited layers, without a target at any."""
    return {"layers": layers}


def tuned(layers: tuple[int, ...]) -> HParams:
    """Blocks whose matrices are fine-tuned."""
    return {"layer": layers[0]} | ({"more_layers": layers[1:]} if layers[1:] else {})


def one(layers: tuple[int, ...]) -> HParams:
    """The first layer."""
    return {"layer": layers[0]}


def with_factors(layers: tuple[int, ...]) -> HParams:
    """Blocks whose matrices have low-rank factors; none named are all."""
    return {"parameters": {"layers": layers or "all"}}


@dataclass(frozen=True)
class LayerList(Rule):
    """A list of blocks."""

    gives: ClassVar[bool] = True
    given: Callable[[tuple[int, ...]], HParams] = edited
    may_be_empty: bool = False

    def read(self, value: Any, model: TargetModel) -> Found:
        """The settings that say these layers.

        Raises:
            ValueError: if it is no list of layers that the model has.
        """
        if not isinstance(value, list) or not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            raise ValueError(f"expected a list of layers, found {value!r}")
        if not value and not self.may_be_empty:
            raise ValueError("names no layer")
        model.check_layers(value)
        settings = self.given(tuple(value))
        return Found("translated", written(settings), settings)

    def describe(self) -> str:
        """The settings that layers give."""
        return " and ".join(f"`{name}`" for name in re.findall(r"[\w.]+(?=:)", written(self.given((0, 1)))))


@dataclass(frozen=True)
class ModuleTemplate(Rule):
    """The name of the edited matrix with `{}` for the block: here always the MLP's output."""

    def read(self, value: Any, model: TargetModel) -> Found:
        """Whether it, or the only one of a list, is the MLP's output."""
        expected = model.mlp_output("{}")
        if expected is None:
            return Found("not representable", f"which module the MLP's output is, no row for {model.shape[0]!r} says; ours is that one")
        names = [
            name.removesuffix(".weight") if isinstance(name, str) else name for name in (value if isinstance(value, list) else [value])
        ]
        if names == [expected]:
            return Found("without effect", "the MLP's output, which is edited anyway")
        return Found("not representable", f"only the MLP's output ({expected}) is edited")

    def describe(self) -> str:
        """Only the MLP's output."""
        return "the MLP's output: without effect, as it is edited anyway; else not representable"


@dataclass(frozen=True)
class ParameterNames(Rule):
    """Names of weights, of which those of MLP outputs say the layers; with `by_block` another module of a block stands for the block."""

    gives: ClassVar[bool] = True
    given: Callable[[tuple[int, ...]], HParams] = edited_alone
    by_block: bool = False

    def read(self, value: Any, model: TargetModel) -> Found:
        """The layers of the names, and which of them ours does not edit.

        Raises:
            ValueError: if they name no block of the model, or no MLP output where only those count.
        """
        if not isinstance(value, list) or not value:
            raise ValueError(f"expected a list of names of weights, found {value!r}")
        if model.mlp_output(0) is None:
            raise ValueError(f"which of these modules is an MLP's output, no row of d4s.models.adapters for {model.shape[0]!r} says")
        blocks = {name: self._block(name) for name in value}
        others = [
            name
            for name, layer in blocks.items()
            if str(name).removesuffix(".weight").replace(f"[{layer}]", f".{layer}") != model.mlp_output(layer)
        ]
        layers = tuple(sorted({layer for name, layer in blocks.items() if self.by_block or name not in others}))
        if not layers:
            raise ValueError(
                f"no MLP output ({model.mlp_output('N')}) is among these modules, and no other matrix is edited: {', '.join(others)}"
            )
        model.check_layers(layers)
        settings = self.given(layers)
        if others:
            return Found("not representable", f"{', '.join(others)}: only MLP outputs are edited; {written(settings)}", settings)
        return Found("translated", written(settings), settings)

    @staticmethod
    def _block(name: Any) -> int:
        match = PARAMETER.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise ValueError(f"{name!r} names no weight of a block")
        return int(match["dotted"] or match["bracketed"])

    def describe(self) -> str:
        """Only MLP outputs."""
        return f"{' and '.join(f'`{name}`' for name in self.given((0,)))} from MLP outputs; other modules are not representable"


@dataclass(frozen=True)
class FactorModules(Rule):
    """The last names of modules beside which low-rank factors are put: here the MLP's output."""

    def read(self, value: Any, model: TargetModel) -> Found:
        """Whether they are that one."""
        ours = (model.mlp_output(0) or "").rsplit(".", 1)[-1]
        if value == [ours]:
            return Found("without effect", "the MLP's output, beside which factors are put anyway")
        return Found("not representable", f"factors are put beside the MLP's output alone{f' ({ours})' if ours else ''}")

    def describe(self) -> str:
        """Only the MLP's output."""
        return "the MLP's output: without effect; else not representable: factors are put beside it alone"
