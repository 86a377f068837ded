"""Every formula against its slow transcription, in float64; and the anchors that tie the methods to each other."""

from math import log10

import pytest
import torch
from torch import Tensor

from d4s.editors.edited_layers import layers_of
from d4s.editors.families import build
from d4s.editors.keys import read_activations
from d4s.editors.moments import SecondMoment
from d4s.editors.protocol import Prepared, Targets
from d4s.editors.target_optimisation import optimise
from tests.cases import SINGLE, SMALL
from tests.oracle import plain
from tests.oracle.bench import EDITS, Bench, agree, settings_for
from tests.tiny import tiny_model


def released(name: str, keys: Tensor, residuals: Tensor, earlier: tuple[Tensor, Tensor], weighted: Tensor) -> Tensor:
    """A step as the sources write it: one column per edit, one float64 solve with lambda C, and no ridge.

    `keys` (d_in, u) and `residuals` (d_out, u) are those of the step, `earlier` all before it; MEMIT has u edits, ROME one.
    """
    if name == "rome":
        direction = torch.linalg.solve(weighted, keys)
        return residuals @ (direction / (keys.mT @ direction)).mT
    if name == "memit":
        return torch.linalg.solve(weighted + keys @ keys.mT, keys @ residuals.mT).mT
    gram = weighted + earlier[0] @ earlier[0].mT + keys @ keys.mT
    if name == "memit_seq":
        return torch.linalg.solve(gram, keys @ residuals.mT).mT
    sums = earlier[1] @ earlier[0].mT + residuals @ keys.mT  # D4S: all edits from the original weights
    return torch.linalg.solve(gram, sums.mT).mT


@pytest.mark.parametrize("name", ["memit", "memit_seq", "d4s", "rome"])
@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_steps_are_those_of_the_released_solves_without_a_ridge(name: str, condition: float) -> None:
    """Keys and residuals are given, so nothing but the solve is compared; at a ridge of a millionth the gap is 1e-6 and more."""
    settings = settings_for(name, {"layers": (1,), "target": {"layer": 1}})
    model, generator = tiny_model(dtype=torch.float64), torch.Generator().manual_seed(7)
    d_out, d_in = model.weight(1).shape
    basis = torch.linalg.qr(torch.randn(d_in, d_in, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, -log10(condition), d_in, dtype=torch.float64)
    moment = (basis * values) @ basis.mT
    moment = (moment + moment.mT) / 2
    layer = layers_of(settings, model, Prepared(moments={1: SecondMoment(moment, 1, "text")}))[1]
    expected, seen = moment.new_zeros(d_out, d_in), (moment.new_zeros(d_in, 0), moment.new_zeros(d_out, 0))
    for step in range(12):
        keys = (basis * values.sqrt()) @ torch.randn(d_in, 1, generator=generator, dtype=torch.float64)
        residuals = torch.randn(d_out, 1, generator=generator, dtype=torch.float64)
        found = released(name, keys, residuals, seen, settings.preservation.weight * moment)
        expected = found if name == "d4s" else expected + found
        seen = torch.cat([seen[0], keys], 1), torch.cat([seen[1], residuals], 1)
        _, numbers = layer.fit(keys.mT, keys.mT, layer.residual_weight * residuals.mT)
        assert float((layer.delta - expected).norm() / expected.norm()) < 1e-10, step
        assert "preserved_ridge" not in numbers


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("residual_schedule", ["static", "even"])
def test_d4s_is_the_released_loop(family: str, residual_schedule: str) -> None:
    bench = Bench(settings_for("d4s", residual_schedule=residual_schedule), EDITS, family)
    agree(bench.run(bench.texts), plain.d4s(bench.model, bench.texts, bench.settings, bench.moments))


@pytest.mark.parametrize("name", ["memit", "memit_seq"])
def test_memit_is_its_closed_loop(name: str) -> None:
    bench = Bench(settings_for(name), EDITS)
    agree(bench.run(bench.texts), plain.memit(bench.model, [[one] for one in bench.texts], bench.settings, bench.moments))


def test_memit_in_batches_is_its_closed_loop() -> None:
    bench = Bench(settings_for("memit_seq", batch=4), 12)
    batches = [bench.texts[start : start + 4] for start in (0, 4, 8)]
    agree(bench.run(bench.texts, 4), plain.memit(bench.model, batches, bench.settings, bench.moments))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rome_is_its_rank_one_formula(family: str) -> None:
    bench = Bench(settings_for("rome", SINGLE), EDITS, family)
    agree(bench.run(bench.texts), plain.rome(bench.model, bench.texts, bench.settings, bench.moments))


def test_alphaedit_is_the_projected_system() -> None:
    small = {**SMALL, "preservation": {"threshold": 0.05}}
    bench = Bench(settings_for("alphaedit", small), EDITS)
    agree(bench.run(bench.texts), plain.alphaedit(bench.model, bench.texts, bench.settings, bench.moments))


def test_one_time_batch_is_one_memit_batch() -> None:
    bench = Bench(settings_for("one_time_batch"), 9)
    requests, editor = plain.requests_of(9), build(bench.settings)
    targets = optimise(bench.model, bench.texts, bench.settings.target)
    with editor.editing(bench.model, bench.prepared, editor.start(bench.model, bench.prepared)) as session:
        for step, request in enumerate(requests):
            session.step([request], targets[step : step + 1])
        state = session.state()
    (expected,) = plain.memit(bench.model, [bench.texts], bench.settings, bench.moments)
    original = {layer: bench.model.weight(layer).clone() for layer in bench.settings.layers}
    with editor.edited(bench.model, bench.prepared, state):
        agree([{layer: bench.model.weight(layer) - original[layer] for layer in original}], [expected])


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_the_first_edit_of_d4s_is_memits_at_the_first_layer_and_larger_above() -> None:
    ours = Bench(settings_for("d4s"), 1)
    memit = Bench(settings_for("memit", preservation=ours.settings.preservation.model_dump()), 1)
    (first,), (other,) = ours.run(ours.texts), memit.run(memit.texts)
    agree([{0: first[0]}], [{0: other[0]}], 1e-10)
    assert first[1].norm() > other[1].norm()


def test_on_one_layer_d4s_is_memit_with_key_history_and_targets_of_the_original_model() -> None:
    """Exact where the key is the unprefixed prompt's, at which MEMIT measures what is still missing."""
    unprefixed = {**SINGLE, "keys": {"average": "unprefixed"}}
    ours = Bench(settings_for("d4s", unprefixed), EDITS)
    at_original = {**unprefixed, "target": {**SINGLE["target"], "at": "original"}}
    theirs = Bench(settings_for("memit_seq", at_original, preservation=ours.settings.preservation.model_dump()), EDITS)
    agree(ours.run(ours.texts), theirs.run(theirs.texts))


def test_repeats_act_as_weights() -> None:
    bench = Bench(settings_for("d4s", SINGLE), 1)
    history = bench.run([bench.texts[0]] * 6)
    key = read_activations(bench.unedited, bench.texts[:1], (1,), bench.settings.keys).keys[1][0]
    base = bench.moments[1].mean() * bench.settings.preservation.weight
    product = key @ torch.linalg.solve(base, key)
    shift = optimise(bench.unedited, bench.texts[:1], bench.settings.target).hidden_shift[0]
    for count, delta in enumerate(history, start=1):
        torch.testing.assert_close(delta[1] @ key, count * product / (1 + count * product) * shift, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("mode", "moves"), [("progressive", True), ("frozen", False)])
def test_order_matters_only_above_the_first_layer_and_not_at_all_with_frozen_keys(mode: str, moves: bool) -> None:
    bench = Bench(settings_for("d4s", {**SMALL, "preservation": {"weight": 1.0}, "keys": {"mode": mode}}), 8)
    forward, backward = bench.run(bench.texts)[-1], bench.run(bench.texts[::-1])[-1]
    gaps = {layer: float((forward[layer] - backward[layer]).norm() / forward[layer].norm()) for layer in forward}
    assert gaps[0] < 1e-10
    assert (gaps[1] > 1e-4) if moves else (gaps[1] < 1e-10)


def test_undoing_an_edit_on_the_record_is_exact_at_the_first_layer() -> None:
    """Above it, keys were read while the undone edit was in place: the gap to a rerun is what `recorded` means."""
    bench = Bench(settings_for("d4s"), 6)
    editor = build(bench.settings)
    targets = optimise(bench.model, bench.texts, bench.settings.target)
    states = []
    for kept in (range(6), (0, 1, 3, 4, 5)):
        with editor.editing(bench.model, bench.prepared, editor.start(bench.model, bench.prepared)) as session:
            for step in kept:
                session.apply([bench.texts[step]], targets[step : step + 1])
            states.append(session.state())
    undone = editor.deltas(bench.model, bench.prepared, states[0].without({2}))
    rerun = editor.deltas(bench.model, bench.prepared, states[1])
    gaps = {layer: float((undone[layer] - rerun[layer]).norm() / rerun[layer].norm()) for layer in rerun}
    assert gaps[0] < 1e-10 < gaps[1] < 0.2


def test_merging_two_records_is_solving_all_rows() -> None:
    bench = Bench(settings_for("d4s", {**SMALL, "keys": {"mode": "frozen"}}), 6)
    editor = build(bench.settings)
    targets: Targets = optimise(bench.model, bench.texts, bench.settings.target)
    states = []
    for steps in (range(3), range(3, 6), range(6)):
        with editor.editing(bench.model, bench.prepared, editor.start(bench.model, bench.prepared)) as session:
            for step in steps:
                session.apply([bench.texts[step]], targets[step : step + 1])
            states.append(session.state())
    merged = editor.deltas(bench.model, bench.prepared, editor.restore([*states[0].records, *states[1].records], {}))
    agree([merged], [editor.deltas(bench.model, bench.prepared, states[2])], 1e-10)


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_of_several_rounds_are_taken_over_to_the_bit(batch: int) -> None:
    """A row joins the factors of all rounds; added at once they give other last digits than round by round."""
    bench = Bench(settings_for("nse", rounds={"most": 4, "above": 0.0, "below": 1e9}), 6)
    editor = build(bench.settings)
    with editor.editing(bench.model, bench.prepared, editor.start(bench.model, bench.prepared)) as session:
        for start in range(0, 6, batch):
            part = bench.texts[start : start + batch]
            session.apply(part, optimise(bench.model, part, bench.settings.target))
        state, straight = session.state(), {layer: delta.clone() for layer, delta in session.deltas().items()}
    assert all(len(row[f"{bench.settings.layers[0]}.left"]) > batch for row in state.records)
    with editor.editing(bench.model, bench.prepared, state) as again:
        assert all(torch.equal(again.deltas()[layer], delta) for layer, delta in straight.items())
