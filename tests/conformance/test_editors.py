from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from d4s.editors.checks import Case, NotConformant, check_editor
from d4s.editors.families import FAMILIES, build
from d4s.editors.locate_then_edit import LocateThenEditEditor
from d4s.editors.prepare import free_directions
from d4s.editors.presets import PRESETS, merged
from d4s.editors.protocol import Prepared
from d4s.editors.settings import resolve
from d4s.editors.states import RowState
from d4s.editors.targets import optimise
from d4s.statistics.moments import collect
from tests.oracle.plain import PREFIXES, requests_of, rewritings_of
from tests.tiny import tiny_model

SMALL = {"layers": (0, 1), "target": {"layer": 1, "steps": 3, "clamp": 2.0}}
SINGLE = {"layers": (1,), "target": {"layer": 1, "steps": 3, "clamp": 2.0}}
CHANGED: Mapping[str, dict[str, Any]] = {
    "d4s_even": {"preset": "d4s", "spread": "even"},
    "d4s_frozen": {"preset": "d4s", "keys": {"mode": "frozen"}},
    "d4s_remeasured": {"preset": "d4s", "spread": "remeasured"},
    "memit_static": {"preset": "memit", "spread": "static"},
    "memit_root": {"preset": "memit_seq", "spread": "root"},
    "memit_frozen": {"preset": "memit_seq", "keys": {"mode": "frozen"}},
    "memit_original": {"preset": "memit_seq", "target": {"at": "original"}, "spread": "even"},
    "memit_ridge": {"preset": "memit", "preserve": {"ridge": 0.5}},
    "memit_batches": {"preset": "memit_seq", "batch": 2},
    "d4s_batches": {"preset": "d4s", "batch": 2},
    "d4s_null_space": {"preset": "d4s", "preserve": {"kind": "null_space", "threshold": 0.05, "weight": 1.0}},
}


def settings_for(name: str):
    """The named editor with its parts cut down to a model of three layers."""
    overrides = CHANGED.get(name, {"preset": name})
    family = resolve("tested", overrides, "mini").family
    if family in {"fine_tune", "unedited"}:
        small = {"layer": 1, "steps": 3} if family == "fine_tune" else {}
    else:
        small = SINGLE if len(resolve("tested", overrides, "mini").layers) == 1 else SMALL
    threshold = {"preserve": {"threshold": 0.05}} if name == "alphaedit" else {}
    return resolve("tested", merged(overrides, small, threshold), "mini")


def case_for(settings, *, family: str = "gpt2", count: int = 4, dtype: torch.dtype = torch.float32) -> Case:
    def make_model():
        return tiny_model(family, dtype=dtype)

    model = make_model()
    rows = torch.randint(2, 60, (60, 16), generator=torch.Generator().manual_seed(1))
    moments = collect(model, rows, settings.layers, 16, "text") if settings.layers else {}
    prepare = settings.prepare_settings()
    extras = {f"{layer}.basis": free_directions(moments[layer].mean(), prepare.threshold) for layer in prepare.layers} if prepare else {}
    requests = requests_of(count)
    shared = settings.shared_targets()
    targets = optimise(model, rewritings_of(model, requests), shared) if shared else None
    prepared = Prepared(PREFIXES, moments, extras)
    return Case(lambda: build(settings), make_model, prepared, requests, targets, getattr(settings, "batch", 1))


@pytest.mark.parametrize("name", [*PRESETS, *CHANGED])
def test_every_named_editor_keeps_the_contract(name: str) -> None:
    check_editor(case_for(settings_for(name)))


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("name", ["memit_seq", "d4s", "ft_m"])
def test_the_contract_holds_in_other_layouts(name: str, family: str) -> None:
    check_editor(case_for(settings_for(name), family=family))


def test_the_contract_holds_in_half_precision() -> None:
    check_editor(case_for(settings_for("d4s"), dtype=torch.bfloat16))


def test_every_family_is_covered() -> None:
    assert {resolve("tested", {"preset": name}, "mini").family for name in PRESETS} == set(FAMILIES)


class Leaky(LocateThenEditEditor):
    """Leaves weights edited, loses a row on restoring, and claims what is not so."""

    @contextmanager
    def editing(self, model, prepared, state) -> Iterator[Any]:
        with super().editing(model, prepared, state) as session:
            yield session
            spoiled = model.weight(0) + 1.0
        model.set_weight(0, spoiled)

    def restore(self, rows, dense):
        return RowState("refit", tuple(rows)[:-1])


def test_an_editor_that_breaks_the_contract_is_told_how() -> None:
    good = case_for(settings_for("memit"))
    bad = Case(lambda: Leaky(settings_for("memit")), good.make_model, good.prepared, good.requests)
    with pytest.raises(NotConformant) as caught:
        check_editor(bad)
    for part in ("original bits come back: a session leaves", "saving loses", "a resumed run differs", "must add up"):
        assert part in str(caught.value)
