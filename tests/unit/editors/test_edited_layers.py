"""What one edited layer builds, solves afresh, and says of a second moment that has no factor."""

import logging
from typing import Any

import pytest
import torch

from d4s.editors import locate_then_edit
from d4s.editors.edited_layers import EditedLayer, layers_of
from d4s.editors.families import build
from d4s.editors.least_squares import RecursiveSolver, SolveError
from d4s.editors.moments import SecondMoment
from d4s.editors.parts.histories import AdaptiveHistory
from tests.cases import case_for, settings_for


def test_a_queue_builds_no_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for("lyaplock")
    case = case_for(settings)
    model = case.make_model()

    def never(*_: Any) -> None:
        raise AssertionError("an inverse was built")

    monkeypatch.setattr(torch, "cholesky_inverse", never)
    with pytest.raises(AssertionError, match="an inverse"):
        layers_of(settings_for("memit_seq"), model, case.prepared)
    with build(settings).editing(model, case.prepared, build(settings).start(model, case.prepared)) as session:
        session.step(case.requests[:1], None)
        assert all(isinstance(part.history, AdaptiveHistory) and not inverses(part) for part in session._layers.values())


def inverses(part: EditedLayer) -> list[RecursiveSolver]:
    """The recursive solvers that a layer holds."""
    held = (*vars(part.history).values(), *vars(part.transform).values())
    return [value for value in held if isinstance(value, RecursiveSolver)]


@pytest.mark.parametrize(("name", "recursive"), [("simie", 1), ("memit_seq_simie", 2), ("memit_seq", 1), ("d4s", 1)])
def test_every_recursive_solver_is_solved_afresh(name: str, recursive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is spoiled on its own; the third step has to find out, tell it, and put the inverse of the recorded keys there."""
    monkeypatch.setattr(locate_then_edit, "REFACTOR_EVERY", 3)
    case = case_for(settings_for(name), count=3)
    for spoiled in range(recursive):
        model, editor = case.make_model(), case.make_editor()
        with editor.editing(model, case.prepared, editor.start(model, case.prepared)) as session:
            for step in range(3):
                for part in session._layers.values() if step == 2 else ():
                    assert len(inverses(part)) == recursive
                    inverses(part)[spoiled]._inverse.mul_(1 + 1e-4)
                targets = None if case.targets is None else case.targets[step : step + 1]
                logged = session.step(case.requests[step : step + 1], targets)
            drifts = [value for quantity, _, value in logged.values if quantity == "solver_drift"]
            assert len(drifts) == len(case.make_editor().settings.layers) and min(drifts) > 1e-6
            rows = session.state().records
            for part in session._layers.values():
                assert part.refactor(rows) < 1e-12


def singular(case: Any, layers: tuple[int, ...]) -> dict[int, SecondMoment]:
    """The moments of a case with one neuron per layer that never fires."""
    found = {}
    for layer in layers:
        sums = case.prepared.moments[layer].sum_kk.clone()
        sums[5], sums[:, 5] = 0.0, 0.0
        found[layer] = SecondMoment(sums, case.prepared.moments[layer].n_tokens, "text")
    return found


@pytest.mark.parametrize("name", ["memit", "memit_seq", "d4s", "lyaplock", "rect"])
def test_a_ridge_is_added_only_where_it_is_needed_and_then_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    case = case_for(settings_for(name), count=1)
    for moments, needed in ((case.prepared.moments, False), (singular(case, (0,)) | {1: case.prepared.moments[1]}, True)):
        caplog.clear()
        model, editor = case.make_model(), case.make_editor()
        prepared = type(case.prepared)(case.prepared.contexts, moments, case.prepared.extras)
        with caplog.at_level(logging.WARNING), editor.editing(model, prepared, editor.start(model, prepared)) as session:
            logged = session.step(case.requests[:1], case.targets)
        noted = {layer: value for quantity, layer, value in logged.values if quantity == "preserved_ridge"}
        weight = editor.settings.preservation.weight
        expected = {0: pytest.approx(1e-6 * weight * float(moments[0].mean().diagonal().mean()))} if needed else {}
        assert noted == expected
        assert ("layer 0: the preserved matrix has no Cholesky factor" in caplog.text) is needed and "layer 1" not in caplog.text


def test_a_moment_that_is_not_finite_is_refused_by_layer() -> None:
    case = case_for(settings_for("memit"), count=1)
    spoiled = case.prepared.moments[0].sum_kk.clone()
    spoiled[2, 3] = spoiled[3, 2] = float("nan")
    prepared = type(case.prepared)(case.prepared.contexts, {**case.prepared.moments, 0: SecondMoment(spoiled, 1, "text")}, {})
    with pytest.raises(SolveError, match=r"layer 0.*64 x 64.* holds numbers that are not finite"):
        layers_of(case.make_editor().settings, case.make_model(), prepared)
