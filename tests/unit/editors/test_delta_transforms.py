import pytest
import torch

from d4s.editors.parts.control_transforms import Rescale, Scramble
from d4s.editors.parts.interpolate import Interpolate, Validation
from d4s.editors.parts.prune import Prune
from d4s.editors.weights import apply_deltas
from tests.oracle.plain import requests_of, rewritings_of


def a_change(model, size: float) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {1: size * torch.randn(model.weight(1).shape, generator=generator, dtype=torch.float64)}


def answers(model, deltas: dict[int, torch.Tensor], share: float, prompt: tuple[int, ...]) -> int:
    """The most likely token after a prompt, so far along the way."""
    with apply_deltas(model, {layer: share * delta for layer, delta in deltas.items()}), torch.no_grad():
        return int(model.network(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())


def turning(model, deltas: dict[int, torch.Tensor]) -> tuple[Validation, float]:
    """A request whose target becomes the most likely token on the way, and where on the grid it does first."""
    grid = [point / 10 for point in range(11)]
    for one in rewritings_of(model, requests_of(6)):
        prompt = one.prompts[0].ids
        found = [answers(model, deltas, share, prompt) for share in grid]
        if found[-1] != found[0]:
            return Validation([(prompt, (found[-1],), one.kl_prompt.ids)], 1), grid[found.index(found[-1])]
    raise AssertionError("no request's answer turns on the way; make the change larger")


def test_the_share_goes_as_far_as_requests_ask_and_no_further(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    deltas = a_change(model, 20.0)
    kept, first = turning(model, deltas)
    assert 0 < first == Interpolate(floor=0.0).fraction(model, deltas, kept)


def test_essence_prompts_hold_the_share_back(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    deltas = a_change(model, 20.0)
    kept, first = turning(model, deltas)
    ((prompt, target, _),) = kept.entries
    own = Validation([(prompt, target, prompt)], 1)  # its essence prompt turns with the answer
    assert Interpolate(floor=1.0).fraction(model, deltas, own) < first


def test_without_requests_the_whole_way_is_gone(tiny_model) -> None:
    model = tiny_model()
    assert Interpolate().fraction(model, a_change(model, 1.0), Validation()) == 1.0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_fixed_share_is_the_change_rescaled(tiny_model, share: float) -> None:
    model = tiny_model()
    deltas, kept = a_change(model, 1.0), Validation(every=1)
    kept.offer(rewritings_of(model, requests_of(2)))
    interpolate = Interpolate(by="fixed", share=share)
    found, expected = (one.finish(model, deltas, kept) for one in (interpolate, Rescale(factor=share)))
    assert interpolate.validation(kept.tensors()) is None
    assert found.keys() == expected.keys() and all(torch.equal(found[layer], expected[layer]) for layer in found)


@pytest.mark.parametrize("changes", [{"by": "fixed"}, {"share": 0.5}])
def test_a_share_is_fixed_or_chosen(changes) -> None:
    with pytest.raises(ValueError, match="`share` is for `by: fixed`, which needs it"):
        Interpolate(**changes)


def test_the_output_of_the_layer_is_affine_in_the_share(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    deltas = a_change(model, 3.0)
    keys = torch.randn(5, model.weight(1).shape[1], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    outputs = []
    for share in (0.0, 0.25, 1.0):
        with apply_deltas(model, Interpolate(by="fixed", share=share).finish(model, deltas, None)):
            outputs.append(keys @ model.weight(1).mT)
    torch.testing.assert_close(outputs[1], 0.75 * outputs[0] + 0.25 * outputs[2], rtol=1e-6, atol=1e-9)


def test_every_so_many_th_request_is_kept_and_comes_back(tiny_model) -> None:
    model = tiny_model()
    kept = Validation(every=3)
    texts = rewritings_of(model, requests_of(7))
    for start in (0, 3, 5):
        kept.offer(texts[start : (3, 3, 5, 5, 5, 7)[start]])
    again = Validation.of(kept.tensors(), 3)
    assert (again.entries, again.seen) == (kept.entries, 7)
    assert [entry[0] for entry in kept.entries] == [texts[number].prompts[0].ids for number in (0, 3, 6)]


def test_pruned_changes_have_no_singular_value_far_above_the_originals() -> None:
    generator = torch.Generator().manual_seed(0)
    original, delta = (torch.randn(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    small, large = (Prune(base=1.2).of(size * delta, original, 0) for size in (0.01, 100))
    torch.testing.assert_close(small, 0.01 * delta)
    largest = float(torch.linalg.matrix_norm(original, 2))
    assert largest < float(torch.linalg.matrix_norm(large, 2)) < largest + 40
    left, right = (torch.linalg.svd(matrix)[0].abs() for matrix in (large, delta))
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("norm", [1, 2, "fro"])
def test_controls_keep_what_they_say(norm) -> None:
    generator = torch.Generator().manual_seed(0)
    original, delta = (torch.randn(6, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(torch.linalg.norm(Rescale(factor=3.0).of(delta, original, 0), norm), 3 * torch.linalg.norm(delta, norm))
    scrambled = Scramble().of(delta, original, 0)
    torch.testing.assert_close(scrambled.flatten().sort().values, delta.flatten().sort().values)
    assert not torch.equal(scrambled, delta) and torch.equal(scrambled, Scramble().of(delta, original, 0))


def test_layers_are_scrambled_in_orders_of_their_own() -> None:
    delta = torch.arange(600.0, dtype=torch.float64).view(20, 30)
    orders = {(seed, layer): Scramble(seed=seed).of(delta, delta, layer) for seed in range(3) for layer in range(3)}
    found = list(orders.values())
    assert all((one == other).double().mean() < 0.05 for number, one in enumerate(found) for other in found[:number])
