import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d4s.editors.least_squares import (
    DirectSolver,
    LeastSquaresSolver,
    LowRankSolver,
    ProjectedSolver,
    RecursiveSolver,
    SolveError,
    SubsetSolver,
    choose_solver,
    exact_gain,
    factor,
    factorable,
    preserved_matrix,
    solve_delta,
)

HOLDERS = {"direct": DirectSolver, "recursive": RecursiveSolver, "lowrank": LowRankSolver}
sizes = st.tuples(st.integers(2, 12), st.integers(1, 6), st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 2**31))


def rows(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem(d_in: int, d_out: int, batches: list[int], seed: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    text = rows(generator, 3 * d_in, d_in)
    base = preserved_matrix(text.mT @ text / len(text), 2.0)
    return base, [rows(generator, size, d_in) for size in batches], [rows(generator, size, d_out) for size in batches]


def dense(base: Tensor, keys: Tensor, residuals: Tensor) -> Tensor:
    """The formula as written, with an inverse and one term per edit."""
    gram, cross = base.clone(), base.new_zeros(residuals.shape[1], base.shape[0])
    for key, residual in zip(keys, residuals, strict=True):
        gram += torch.outer(key, key)
        cross += torch.outer(residual, key)
    return cross @ torch.linalg.inv(gram)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max() + 1e-30))


def fitted(holder: LeastSquaresSolver, keys: list[Tensor], residuals: list[Tensor]) -> Tensor:
    """The change of weights after all batches, each fitted with those before it."""
    delta = torch.zeros(residuals[0].shape[1], keys[0].shape[1], dtype=torch.float64)
    for batch, wanted in zip(keys, residuals, strict=True):
        gain = holder.add(batch)
        delta += (wanted - batch @ delta.mT).mT @ gain
    return delta


@pytest.mark.parametrize("holder", HOLDERS)
@given(sizes)
@settings(max_examples=25, deadline=None)
def test_a_sequence_of_batches_equals_one_batch(holder: str, drawn: tuple) -> None:
    base, keys, residuals = problem(*drawn)
    expected = dense(base, torch.cat(keys), torch.cat(residuals))
    close(fitted(HOLDERS[holder](base), keys, residuals), expected)
    close(solve_delta(torch.cat(residuals), torch.cat(keys), base), expected)


@given(sizes)
@settings(max_examples=25, deadline=None)
def test_order_changes_nothing(drawn: tuple) -> None:
    base, keys, residuals = problem(*drawn)
    close(fitted(RecursiveSolver(base), keys[::-1], residuals[::-1]), fitted(RecursiveSolver(base), keys, residuals))


@pytest.mark.parametrize("holder", HOLDERS)
def test_gain_without_adding_is_the_batch_form(holder: str) -> None:
    base, keys, residuals = problem(9, 4, [3, 2], 5)
    held = HOLDERS[holder](base)
    before = held.gain(keys[0])
    close(residuals[0].mT @ before, dense(base, keys[0], residuals[0]))
    close(held.gain(keys[0]), before)
    close(held.add(keys[0]), before)
    close(held.gain(keys[1]), torch.linalg.solve(base + keys[0].mT @ keys[0] + keys[1].mT @ keys[1], keys[1].mT).mT)


def test_delayed_updates_survive_many_edits_and_large_batches() -> None:
    base, keys, residuals = problem(40, 6, [1] * 70 + [45] + [1] * 20 + [7] * 5, 11)
    close(fitted(RecursiveSolver(base), keys, residuals), dense(base, torch.cat(keys), torch.cat(residuals)), 1e-8)


def test_recursion_does_not_drift_at_bad_condition() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(rows(generator, 64, 64))[0]
    base = basis @ torch.diag(torch.logspace(-5, 0, 64, dtype=torch.float64)) @ basis.mT
    keys, residuals = [rows(generator, 1, 64) for _ in range(1000)], [rows(generator, 1, 8) for _ in range(1000)]
    close(fitted(RecursiveSolver(base), keys, residuals), solve_delta(torch.cat(residuals), torch.cat(keys), base), 1e-8)


@given(sizes, st.floats(1e-3, 10.0))
@settings(max_examples=25, deadline=None)
def test_emmet_is_memit_at_another_weight(drawn: tuple, ridge: float) -> None:
    base, batches, wanted = problem(*drawn)
    keys, residuals = torch.cat(batches), torch.cat(wanted)
    inverse = torch.linalg.inv(base)
    middle = keys @ inverse @ keys.mT + ridge * torch.eye(len(keys), dtype=torch.float64)
    close(solve_delta(residuals, keys, ridge * base), residuals.mT @ torch.linalg.inv(middle) @ keys @ inverse, 1e-7)


@given(sizes)
@settings(max_examples=25, deadline=None)
def test_without_a_ridge_emmet_on_one_fact_is_rank_one_model_editing(drawn: tuple) -> None:
    base, batches, wanted = problem(*drawn)
    key, residual = batches[0][:1], wanted[0][:1]
    exact = residual.mT @ exact_gain(choose_solver(base, batch=1, grows=False).apply(key), key)
    reach = float(key @ torch.linalg.solve(base, key.mT))
    for ridge in (1.0, 1e-2, 1e-4):
        close(solve_delta(residual, key, ridge * base), reach / (ridge + reach) * exact, 1e-7)


@given(sizes)
@settings(max_examples=25, deadline=None)
def test_alphaedit_with_history_is_one_batch_in_its_free_directions(drawn: tuple) -> None:
    base, keys, residuals = problem(*drawn)
    values, vectors = torch.linalg.eigh(base)
    basis = vectors[:, values <= values.median()]
    held = ProjectedSolver(RecursiveSolver(0.5 * torch.eye(basis.shape[1], dtype=torch.float64)), basis)
    free = torch.cat(keys) @ basis
    expected = dense(0.5 * torch.eye(basis.shape[1], dtype=torch.float64), free, torch.cat(residuals)) @ basis.mT
    close(fitted(held, keys, residuals), expected, 1e-8)


@given(sizes)
@settings(max_examples=25, deadline=None)
def test_what_feedback_returns_brings_the_solution_back_to_the_batch(drawn: tuple) -> None:
    """A step that was written in part only: with its defect returned, what was solved for stays the batch solution (OTE-SE)."""
    base, keys, residuals = problem(*drawn)
    held, delta, defect = RecursiveSolver(base), torch.zeros(residuals[0].shape[1], len(base), dtype=torch.float64), 0.0
    for batch, wanted in zip(keys, residuals, strict=True):
        gain = held.add(batch)
        missing = wanted - batch @ delta.mT
        step = missing.mT @ gain if isinstance(defect, float) else (missing + batch @ defect.mT).mT @ gain - defect
        written = 0.7 * step
        solved, delta, defect = delta + step, delta + written, written - step
    close(solved, dense(base, torch.cat(keys), torch.cat(residuals)), 1e-7)


@given(sizes)
@settings(max_examples=25, deadline=None)
def test_a_share_of_all_neurons_is_the_plain_gain_and_less_leaves_neurons_alone(drawn: tuple) -> None:
    base, keys, _ = problem(*drawn)
    close(SubsetSolver(base, 1.0).gain(keys[0]), DirectSolver(base).gain(keys[0]))
    gain = SubsetSolver(base, 0.3).gain(keys[0])
    sizes_of = keys[0].abs().sum(0)
    changed = gain.abs().sum(0) > 0
    assert sizes_of[changed].min() >= sizes_of[~changed].max() if (~changed).any() else True
    assert float(sizes_of[changed].sum()) >= 0.3 * float(sizes_of.sum()) - 1e-12


def test_without_history_a_sequence_is_no_batch() -> None:
    base, keys, residuals = problem(12, 4, [1] * 8, 31)
    delta = sum(wanted.mT @ LowRankSolver(0.01 * base).gain(key) for key, wanted in zip(keys, residuals, strict=True))
    batch = dense(0.01 * base, torch.cat(keys), torch.cat(residuals))
    assert float((delta - batch).norm() / batch.norm()) > 0.3


def test_exact_gain_is_rank_one_model_editing() -> None:
    base, (key, unprefixed), (residual, _) = problem(10, 4, [1, 1], 9)
    gain = exact_gain(choose_solver(base, batch=1, grows=False).apply(key), unprefixed)
    direction = torch.linalg.inv(base) @ key[0]
    direction /= direction.norm()
    close(residual.mT @ gain, torch.outer(residual[0] / (unprefixed[0] @ direction), direction))
    close(unprefixed @ (residual.mT @ gain).mT, residual)


def test_confined_is_the_projected_system_of_alphaedit() -> None:
    base, (earlier, keys), (_, residuals) = problem(12, 4, [3, 2], 13)
    values, vectors = torch.linalg.eigh(base)
    basis = vectors[:, values < values.median()]
    projector = basis @ basis.mT
    gram = keys.mT @ keys + earlier.mT @ earlier
    expected = torch.linalg.solve(projector @ gram + 10.0 * torch.eye(12, dtype=torch.float64), projector @ keys.mT @ residuals).mT
    confined = ProjectedSolver(RecursiveSolver(10.0 * torch.eye(basis.shape[1], dtype=torch.float64)), basis)
    confined.add(earlier)
    close(residuals.mT @ confined.gain(keys), expected)
    assert (confined.gain(keys) @ (torch.eye(12, dtype=torch.float64) - projector)).abs().max() < 1e-14


def test_the_way_of_holding_follows_batch_and_history() -> None:
    base = torch.eye(16, dtype=torch.float64)
    assert isinstance(choose_solver(base, batch=1, grows=False), LowRankSolver)
    assert isinstance(choose_solver(base, batch=3, grows=True), RecursiveSolver)
    assert isinstance(choose_solver(base, batch=4, grows=True), DirectSolver)


def test_double_precision_matters() -> None:
    """The reason for float64: in float32 forty edits in another order already differ visibly."""
    base, keys, residuals = problem(30, 4, [1] * 40, 23)
    forward = fitted(RecursiveSolver(base), keys, residuals)
    backward = fitted(RecursiveSolver(base), keys[::-1], residuals[::-1])
    gap64 = (forward - backward).norm() / forward.norm()
    single = dense(base.float(), torch.cat(keys).float(), torch.cat(residuals).float())
    gap32 = (single.double() - forward).norm() / forward.norm()
    assert gap64 < 1e-12 < gap32 < 1.0


def test_refactoring_takes_drift_out_and_tells_it() -> None:
    base, keys, residuals = problem(30, 4, [1] * 40, 29)
    rows, held = torch.cat(keys), RecursiveSolver(base)
    fitted(held, keys, residuals)
    held._inverse += 1e-5 * torch.eye(30, dtype=torch.float64)
    assert held.refactor(base + rows.mT @ rows) > 1e-7
    assert held.refactor(base + rows.mT @ rows) < 1e-14
    torch.testing.assert_close(held.apply(rows), torch.linalg.solve(base + rows.mT @ rows, rows.mT).mT)


def test_what_is_preserved_is_the_weighted_moment_and_the_ridge_that_was_asked_for() -> None:
    moment = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert torch.equal(preserved_matrix(moment, 10.0, ridge=2.0).diagonal(), torch.tensor([12.0, 32.0], dtype=torch.float64))
    assert torch.equal(preserved_matrix(moment, 10.0), 10.0 * moment)
    assert moment[0, 0] == 1.0


@pytest.mark.parametrize("least", [1.0, 1e-3, 1e-9, 1e-14])
def test_a_matrix_that_has_a_factor_stays_as_it_is_however_small_its_eigenvalues(least: float) -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, least], dtype=torch.float64))
    found, ridge = factorable(matrix, "the preserved matrix")
    assert torch.equal(found, matrix) and ridge == 0.0


def test_a_matrix_without_a_factor_gets_a_millionth_of_its_mean_diagonal() -> None:
    generator = torch.Generator().manual_seed(1)
    some = rows(generator, 4, 9)
    some[:, 3] = 0.0  # a neuron that never fires
    matrix = some.mT @ some / 4
    with pytest.raises(SolveError):
        factor(matrix, "it")
    found, ridge = factorable(matrix, "the preserved matrix")
    assert ridge == pytest.approx(1e-6 * float(matrix.trace()) / 9)
    close(found - matrix, ridge * torch.eye(9, dtype=torch.float64), 1e-7)
    assert factor(found, "it").isfinite().all()


@pytest.mark.parametrize(
    ("diagonal", "said"),
    [
        ([1.0, 1.0, -1.0], "with a ridge of 3.3e-07, .3 x 3. is not positive definite; raise"),
        ([1.0, float("nan"), 1.0], "are not finite; look"),
        ([float("inf"), 1.0, 1.0], "are not finite; look"),
        ([0.0, 0.0, 0.0], "is not positive definite"),
    ],
)
def test_a_matrix_that_no_small_ridge_helps_is_refused(diagonal: list[float], said: str) -> None:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    with pytest.raises(SolveError, match=said):
        factorable(matrix, "the preserved matrix")


def test_keys_that_no_direction_reaches_are_refused() -> None:
    held = choose_solver(torch.eye(3, dtype=torch.float64), batch=1, grows=False)
    with pytest.raises(SolveError, match="orthogonal"):
        exact_gain(held.apply(torch.tensor([[1.0, 0.0, 0.0]]).double()), torch.tensor([[0.0, 1.0, 0.0]]).double())
