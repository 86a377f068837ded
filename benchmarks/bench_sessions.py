"""Cost of an edit once its target is there, on the shape of the embedded model; and what a step allocates."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from benchmarks.conftest import Measure
from benchmarks.shapes import Allocations, embedded, token_rows
from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.locate_then_edit import LocateThenEditSession
from d4s.editors.moments import collect_moments
from d4s.editors.prompts import PromptSet
from d4s.editors.protocol import Prepared, Targets
from d4s.editors.target_optimisation import optimise
from d4s.models.language_model import LanguageModel
from tests.oracle.plain import requests_of, rewritings_of

PREFIXES = ("The old town is home .", "The job of Ada Reed : painter .", "Therefore It is true : yes .")
EDITS, ROUNDS = 40, 5


@contextmanager
def session_of(preset: str) -> Iterator[tuple[LocateThenEditSession, LanguageModel, list[PromptSet], Targets]]:
    """A session of a named editor, with requests and their targets."""
    model = embedded()
    settings: Any = resolve("measured", {"preset": preset}, "mini")
    texts = rewritings_of(model, requests_of(EDITS), PREFIXES)
    goal = optimise(model, texts, settings.target.model_copy(update={"steps": 4}))
    prepared = Prepared(PREFIXES, collect_moments(model, token_rows(model, 256, 64), settings.layers, 16, "text"))
    editor: Any = build(settings)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        yield session, model, texts, goal


@pytest.mark.parametrize("preset", ["memit", "d4s"])
def test_an_edit_after_its_target(measure: Measure, preset: str) -> None:
    with session_of(preset) as (session, _, texts, goal):

        def edit_all() -> None:
            for number, one in enumerate(texts):
                session.apply([one], goal[number : number + 1])

        edit_all()
        taken = [seconds / EDITS for seconds in measure.seconds(edit_all, ROUNDS)]
    what = f"an edit by `{preset}` after its target, 6 layers × 192, MLP 1024, three edited"
    measure.row("Sessions", what, "", [1000 * seconds for seconds in taken], "ms of CPU", note=f"{EDITS} edits, {ROUNDS} times over")


@pytest.mark.parametrize("preset", ["memit", "d4s"])
def test_a_step_copies_no_weights(measure: Measure, preset: str) -> None:
    with session_of(preset) as (session, model, texts, goal):
        weights = {layer: model.weight(layer) for layer in range(model.n_layers)}
        places = {layer: weight.data_ptr() for layer, weight in weights.items()}
        before = {layer: weight.clone() for layer, weight in weights.items()}
        session.apply([texts[0]], goal[:1])
        seen = Allocations()

        def step() -> None:
            with seen:
                session.apply([texts[1]], goal[1:2])

        measure.seconds(step, rounds=1)
        assert {layer: model.weight(layer).data_ptr() for layer in weights} == places
        assert [layer for layer in weights if not torch.equal(model.weight(layer), before[layer])] == [0, 1, 2]
    size = weights[0].numel() * weights[0].element_size()
    large = [name for name, made in seen.made if made >= size]
    assert "clone" not in large
    names = ", ".join(f"{large.count(name) // 3} × `{name}`" for name in dict.fromkeys(large))
    what = f"results as large as a weight, per layer and step of `{preset}`"
    note = f"{names or 'none'}: temporary, for sums in float64 and the norms that are logged; no weight moves and none is cloned"
    measure.row("Sessions", what, "", [len(large) / 3], "", note=note)
