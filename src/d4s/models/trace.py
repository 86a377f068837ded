"""Hooks: inputs and outputs of named modules during one forward pass."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

K = TypeVar("K", bound=Hashable)


class _StopForward(Exception):
    """Ends a forward pass after the last module needed."""


@dataclass(slots=True)
class Trace(Generic[K]):
    """Hidden states by module name, of the latest call; not copied, gradients kept."""

    inputs: dict[K, Tensor] = field(default_factory=dict)
    outputs: dict[K, Tensor] = field(default_factory=dict)


@contextmanager
def trace(modules: Mapping[K, nn.Module], stop_after: K | None = None) -> Iterator[Trace[K]]:
    """Record the first input and the first output of modules while the block runs.

    With `stop_after` the forward pass ends after that module, and the block with it; read the trace afterwards.
    """
    found: Trace[K] = Trace()
    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(_recorder(found, name, name == stop_after), with_kwargs=True)
            stack.callback(handle.remove)
        try:
            yield found
        except _StopForward:
            pass


def _recorder(found: Trace[K], name: K, stop: bool) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found.inputs[name] = args[0] if args else kwargs["hidden_states"]
        found.outputs[name] = output[0] if isinstance(output, tuple) else output
        if stop:
            raise _StopForward

    return hook
