"""Nothing on a CPU computes in half precision: processors without units for it are many times slower there."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d4s.config import PretrainSettings
from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.moments import collect_moments
from d4s.editors.preparation import prepare_tensors
from d4s.editors.protocol import Prepared
from d4s.metrics.perplexity import perplexities
from d4s.metrics.scoring import FactEvaluation
from d4s.models.views import LiveModel
from d4s.pretraining.checkpoint import TrainingState
from d4s.pretraining.network import Optimisers, new_network
from d4s.pretraining.train import update
from tests.oracle.plain import requests_of
from tests.tiny import tiny_facts, tiny_model

HALVES = (torch.bfloat16, torch.float16)
SMALL = {"layers": (0, 1), "target": {"layer": 1, "steps": 2}}


class Watch(TorchDispatchMode):
    """Notes every operator that takes or gives a tensor of half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.count += 1
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype in HALVES for leaf in tree_leaves((args, kwargs, found))):
            self.seen.add(str(func))
        return found


class AtOnce(Executor):
    """Runs everything in the calling thread, the only one that is watched."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def train() -> None:
    settings = PretrainSettings(layers=2, width=16, mlp_width=32, heads=2, positions=8, batch_rows=2)
    network = new_network(settings, 12, 0)
    training = TrainingState(network, Optimisers.of(network, settings))
    ids = torch.arange(16).reshape(2, 8) % 12
    update(training, (ids, torch.ones(2, 8)), settings, 1.0, AtOnce())


SETTINGS: dict[str, dict[str, Any]] = {
    "memit": SMALL,
    "alphaedit": SMALL | {"preservation": {"threshold": 0.05}},
    "ft_l": {"layer": 1, "steps": 2},
    "kn": {"steps": 2},
    "grace": {"layer": 1, "steps": 2},
    "wise": {"layer": 1, "steps": 2, "sentences": 2},
    "memoir": {"layer": 1, "steps": 2, "columns": 20},
    "defer": {"layer": 1, "steps": 2},
    "t_patcher": {"layer": 1, "steps": 2, "sentences": 2},
    "melo": {"layer": 1, "steps": 2},
}


def edit(preset: str) -> None:
    model, requests = tiny_model("gpt2"), requests_of(1)
    settings = resolve("tested", {"preset": preset, **SETTINGS[preset]}, "mini")
    rows = torch.randint(0, 30, (8, 12), generator=torch.Generator().manual_seed(0))
    moments = collect_moments(model, rows, settings.moment_layers, 4, "text") if settings.moment_layers else {}
    wanted = settings.prepare_settings()
    extras = {} if wanted is None else prepare_tensors(wanted, moments, model, requests)
    editor, prepared = build(settings), Prepared((), moments, extras)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        session.step(requests, None)


def measure() -> None:
    model, facts = tiny_model("gpt2"), tiny_facts()
    view = LiveModel(model)
    evaluation = FactEvaluation.of(view, facts[:2], probes_per_fact=1, max_new_tokens=2)
    evaluation.scores(view, 1, {fact.fact_id: 1 for fact in facts[:2]})
    perplexities(view, [[1, 2, 3, 4]])


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(train, id="train"),
        pytest.param(measure, id="measure"),
        *(pytest.param(partial(edit, name), id=name) for name in SETTINGS),
    ],
)
def test_no_operator_works_in_half_precision(act: Callable[[], None]) -> None:
    with Watch() as watch:
        act()
    assert watch.count > 50
    assert not watch.seen


def test_the_watch_sees_half_precision() -> None:
    with Watch() as watch, torch.autocast("cpu", dtype=torch.bfloat16):
        (torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)).sum().backward()
    assert any("mm" in name for name in watch.seen)
