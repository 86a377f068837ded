from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from d4s.editors import locate_then_edit
from d4s.editors.checks import Case, NotConformant, check_editor, differing
from d4s.editors.columns import merged
from d4s.editors.families import FAMILIES, build
from d4s.editors.grace import GraceEditor
from d4s.editors.locate_then_edit import LocateThenEditEditor
from d4s.editors.memory_views import MemoryModel
from d4s.editors.prepare import prepared_tensors
from d4s.editors.presets import PRESETS
from d4s.editors.protocol import Prepared
from d4s.editors.settings import resolve
from d4s.editors.states import RowState
from d4s.editors.targets import optimise
from d4s.statistics.moments import collect
from tests.oracle.plain import PREFIXES, requests_of, rewritings_of
from tests.tiny import tiny_model

SMALL = {"layers": (0, 1), "target": {"layer": 1, "steps": 3, "clamp": 2.0}}
SINGLE = {"layers": (1,), "target": {"layer": 1, "steps": 3, "clamp": 2.0}}
OWN = {
    "fine_tune": {"layer": 1, "steps": 3},
    "grace": {"layer": 1, "steps": 3, "eps_init": 1e-3},
    "knowledge_neurons": {"steps": 4},
    "unedited": {},
}
CHANGED: Mapping[str, dict[str, Any]] = {
    "d4s_refreshed_at_once": {"preset": "d4s_refreshed", "keys": {"every": 2}},
    "d4s_scrambled": {"preset": "d4s", "finish": {"kind": "scramble"}},
    "memit_rescaled": {"preset": "memit", "finish": {"kind": "rescale", "factor": 0.5}},
    "memit_seq_pruned": {"preset": "memit_seq", "finish": {"kind": "prune", "base": 2.0}},
    "alphaedit_rect": {"preset": "alphaedit", "preserve": {"threshold": 0.05}, "after": {"kind": "rect", "keep": 0.5}},
    "memit_seq_simie": {"preset": "memit_seq", "after": {"kind": "simie", "weight": 0.1}},
    "nse_neurons": {"preset": "nse", "neurons": 0.7},
    "d4s_anchored": {"preset": "d4s", "anchor": {"requests": 4}},
    "d4s_remeasured": {"preset": "d4s", "spread": "remeasured"},
    "memit_static": {"preset": "memit", "spread": "static"},
    "memit_root": {"preset": "memit_seq", "spread": "root"},
    "memit_frozen": {"preset": "memit_seq", "keys": {"mode": "frozen"}},
    "memit_original": {"preset": "memit_seq", "target": {"at": "original"}, "spread": "even"},
    "memit_ridge": {"preset": "memit", "preserve": {"ridge": 0.5}},
    "memit_batches": {"preset": "memit_seq", "batch": 2},
    "d4s_batches": {"preset": "d4s", "batch": 2},
    "grace_warm": {"preset": "grace", "value": "warm"},
    "d4s_null_space": {"preset": "d4s", "preserve": {"kind": "null_space", "threshold": 0.05, "weight": 1.0}},
}


def settings_for(name: str):
    """The named editor with its parts cut down to a model of three layers."""
    overrides = CHANGED.get(name, {"preset": name})
    family = resolve("tested", overrides, "mini").family
    if family in OWN:
        small = OWN[family]
    else:
        small = SINGLE if len(resolve("tested", overrides, "mini").layers) == 1 else SMALL
    confined = overrides.get("preset") in {"alphaedit", "nas", "sphere"}
    threshold = {"preserve": {"threshold": 0.05}} if confined else {}
    if overrides.get("preset") == "nse":
        threshold = {"rounds": {"above": 1e-3}}
    if overrides.get("preset") == "one_li":
        threshold = {"finish": {"floor": 0.0}}
    return resolve("tested", merged(overrides, small, threshold), "mini")


def case_for(settings, *, family: str = "gpt2", count: int = 4, dtype: torch.dtype = torch.float32) -> Case:
    def make_model():
        return tiny_model(family, dtype=dtype)

    model = make_model()
    rows = torch.randint(2, 60, (60, 16), generator=torch.Generator().manual_seed(1))
    moments = collect(model, rows, settings.layers, 16, "text") if settings.layers else {}
    prepare = settings.prepare_settings()
    requests = requests_of(count)
    extras = prepared_tensors(prepare, moments, model, requests) if prepare else {}
    shared = settings.shared_targets()
    targets = optimise(model, rewritings_of(model, requests), shared) if shared else None
    prepared = Prepared(PREFIXES, moments, extras)
    return Case(lambda: build(settings), make_model, prepared, requests, targets, getattr(settings, "batch", 1))


@pytest.mark.parametrize("name", [*PRESETS, *CHANGED])
def test_every_named_editor_keeps_the_contract(name: str) -> None:
    case = case_for(settings_for(name))
    check_editor(case)
    leaves_weights_alone = settings_for(name).family in {"unedited", "grace"} or name == "one_li"  # nothing is answered on the way
    assert leaves_weights_alone == (not differing(case.weights(case.straight), case.before))


@pytest.mark.parametrize("name", ["memit_seq", "alphaedit", "d4s", "simie", "d4s_refreshed_at_once"])
def test_the_contract_holds_where_solvers_are_refactored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate_then_edit, "REFACTOR_EVERY", 3)
    check_editor(case_for(settings_for(name), count=8))


def changes_of(settings: Any, case: Case, batches: list[slice]) -> dict[int, torch.Tensor]:
    """The changes of weights after some batches of a case's requests."""
    model, editor = case.make_model(), build(settings)
    with editor.editing(model, case.prepared, editor.start(model, case.prepared)) as session:
        for batch in batches:
            session.step(case.requests[batch], case.targets[batch])
        return session.deltas()


@pytest.mark.parametrize("anchor", [None, {"requests": 4}])
def test_a_refresh_gives_the_batch(anchor: dict[str, int] | None) -> None:
    changes = {"preset": "d4s_refreshed", "anchor": anchor} if anchor else {"preset": "d4s_refreshed"}
    settings = resolve("tested", merged(changes, SMALL, {"keys": {"every": 2}}), "mini")
    case = case_for(settings)
    one_by_one = changes_of(settings, case, [slice(0, 1), slice(1, 2)])
    at_once = changes_of(settings.model_copy(update={"batch": 2}), case, [slice(0, 2)])
    for layer, change in at_once.items():
        assert torch.allclose(one_by_one[layer], change, rtol=1e-6, atol=1e-9) and change.norm() > 0


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("name", ["memit_seq", "d4s", "ft_m", "grace", "kn"])
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


class Intrusive(GraceEditor):
    """Answers with its nearest entry, however far that is, and at the first prompt of a batch only."""

    @contextmanager
    def edited(self, model, prepared, state) -> Iterator[Any]:
        with super().edited(model, prepared, state) as view:
            view.book.radii.fill_(torch.inf)
            yield FirstOnly(model, view.layer, view.book)


class FirstOnly(MemoryModel):
    def generate(self, prompts, max_new_tokens):
        return super().generate(prompts[:1], max_new_tokens) + [""] * (len(prompts) - 1)


def test_a_memory_that_breaks_the_contract_is_told_how() -> None:
    good = case_for(settings_for("grace"))
    bad = Case(lambda: Intrusive(settings_for("grace")), good.make_model, good.prepared, good.requests)
    with pytest.raises(NotConformant) as caught:
        check_editor(bad)
    for part in ("the empty memory changes", "undoing step 0 leaves or loses answers", "a prompt asked alone changes", "answers otherwise"):
        assert part in str(caught.value)
