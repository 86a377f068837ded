import pytest
import torch

from d4s.editors.curvature import INPUTS, OUTPUTS, FreeDirections, output_moment, prepare_curvature
from d4s.editors.parts.input_settings import CurvatureSettings, PrepareSettings
from d4s.editors.preparation import prepare_tensors
from d4s.models.self_written_text import rows_from_model
from tests.tiny import tiny_model

SETTINGS = CurvatureSettings(layer=1, tokens=200, seed=3)


def symmetric(size: int, seed: int) -> torch.Tensor:
    part = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return part @ part.mT / size


def extras_of(inputs: torch.Tensor, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, side in ((INPUTS, inputs), (OUTPUTS, outputs)):
        found[f"{name}.values"], found[name] = torch.linalg.eigh(side)
    return found


def test_the_output_moment_is_the_mean_of_squared_gradients_of_the_models_own_text() -> None:
    model = tiny_model(dtype=torch.float64)
    expected, count = torch.zeros(model.d_out(1), model.d_out(1), dtype=torch.float64), 0
    for row in rows_from_model(model, 200, 3):
        kept: list[torch.Tensor] = []
        hook = model.mlp_out(1).register_forward_hook(lambda m, a, o, kept=kept: kept.append(o.requires_grad_()))
        with torch.enable_grad():
            logits = model.network(input_ids=row[None]).logits[0, :-1]
            torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").backward(inputs=kept)
        hook.remove()
        gradient = kept[0].grad[0, :-1]
        expected, count = expected + gradient.mT @ gradient, count + len(gradient)
    torch.testing.assert_close(output_moment(model, SETTINGS), expected / count)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_what_is_prepared_is_both_eigenbases_and_the_seeds() -> None:
    model, moment = tiny_model(), symmetric(tiny_model().d_in(1), 0)
    found = prepare_curvature(SETTINGS, model, moment)
    torch.testing.assert_close(found[INPUTS] * found[f"{INPUTS}.values"] @ found[INPUTS].mT, moment)
    torch.testing.assert_close(found[OUTPUTS] * found[f"{OUTPUTS}.values"] @ found[OUTPUTS].mT, output_moment(model, SETTINGS))
    other = prepare_curvature(SETTINGS.model_copy(update={"seed": 4}), model, moment)
    assert not torch.equal(other[OUTPUTS], found[OUTPUTS]) and torch.equal(other[INPUTS], found[INPUTS])


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.99])
def test_a_projection_is_that_of_the_products_explicit_eigenvectors(energy: float) -> None:
    inputs, outputs = symmetric(7, 1), symmetric(5, 2)
    step = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    free = FreeDirections.of(extras_of(inputs, outputs), energy, step)
    values, vectors = torch.linalg.eigh(torch.kron(outputs, inputs))
    values, vectors = values.flip(0), vectors.flip(1)
    protected = vectors[:, values.cumsum(0) <= energy * values.sum()]
    assert 0 < protected.shape[1] < 35
    expected = step.flatten() - protected @ (protected.mT @ step.flatten())
    torch.testing.assert_close(free.project(step).flatten(), expected)
    torch.testing.assert_close(free.project(free.project(step)), free.project(step))


def test_little_energy_protects_nothing() -> None:
    step = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    free = FreeDirections.of(extras_of(symmetric(7, 1), symmetric(5, 2)), 1e-9, step)
    assert free.free.all() and free.inputs.dtype == torch.float32
    torch.testing.assert_close(free.project(step), step)


def test_curvature_needs_a_model_and_says_which_layer_it_reads() -> None:
    settings = PrepareSettings(curvature=SETTINGS)
    assert settings.reads_model and not settings.reads_requests and settings.moment_layers == (1,)
    with pytest.raises(ValueError, match="curvature is a model's, and none was given"):
        prepare_tensors(settings, {}, None, ())
