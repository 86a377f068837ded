"""LocFT, UltraEdit and StableEdit against slow transcriptions with explicit inverses, in float64; and what they must equal."""

import pytest
import torch
from torch import Tensor

from d4s.editors import gradient_session
from d4s.editors.answer_gradients import AnswerGradients
from d4s.editors.curvature import INPUTS, OUTPUTS, FreeDirections
from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.fine_tune_settings import FineTune
from d4s.editors.gradient_changes import regress
from d4s.editors.protocol import Prepared
from d4s.editors.states import RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pair
from tests.oracle.plain import keys_and_gradients, requests_of
from tests.tiny import bpe_tokenizer, tiny_model

LAYER = {"layer": 1, "epochs": 6, "lr": 1e-2}
TURNS = {"layers": (0, 2), "lr": 1e-2, "batch": 3}


def wide_model(family: str = "gpt2") -> LanguageModel:
    return tiny_model(family, dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)


def run(settings, model: LanguageModel, requests, prepared: Prepared | None = None) -> tuple[object, dict[int, Tensor]]:
    """The state after requests, and the change of weights that it describes."""
    editor, prepared = build(settings), prepared or Prepared()
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for first in range(0, len(requests), settings.batch):
            session.step(requests[first : first + settings.batch], None)
        state = session.state()
    return state, changes(settings, model, state, prepared)


def changes(settings, model: LanguageModel, state, prepared: Prepared | None = None) -> dict[int, Tensor]:
    with build(settings).edited(model, prepared or Prepared(), state) as view:
        return {layer: change.clone() for layer, change in view.weight_changes().items()}


def locft(name: str = "locft_bf", **more):
    return resolve("tested", {"preset": name, **LAYER, **more}, "mini")


def crispedit(**more):
    return resolve("tested", {"preset": "crispedit", **LAYER, "minibatch": 2, "stop_loss": 0.0, **more}, "mini")


def curvature_of(model: LanguageModel) -> Prepared:
    """Eigenbases of made-up curvature, in float64, the same for every model of one size."""
    extras: dict[str, Tensor] = {}
    for name, size, seed in ((INPUTS, model.d_in(1), 0), (OUTPUTS, model.d_out(1), 1)):
        part = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        extras[f"{name}.values"], extras[name] = torch.linalg.eigh(part @ part.mT)
    return Prepared(extras=extras)


def regression(name: str, **more):
    return resolve("tested", {"preset": name, **TURNS, "warm_up": 0, **more}, "mini")


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# --- LocFT ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("stop_loss", [0.0, 5.0])
@pytest.mark.parametrize("name", ["locft_bf", "locft_seq"])
def test_one_request_without_eos_is_ft_m_to_the_bit(family: str, stop_loss: float, name: str) -> None:
    request = requests_of(1)
    plain = FineTune(objective="target", layer=1, steps=6, lr=1e-2, stop_loss=stop_loss)
    expected = run(plain, wide_model(family), request)[1]
    found = run(locft(name, eos=False, minibatch=1, batch=1, stop_loss=stop_loss), wide_model(family), request)[1]
    assert torch.equal(found[1], expected[1]) and expected[1].norm() > 0


def plainly(model: LanguageModel, requests, epochs: int, lr: float, end: list[int]) -> Tensor:
    """All requests in one minibatch: whole passes, one text at a time, cross-entropy, torch's own Adam."""
    module = model.mlp_out(1)
    weight = model.weight(1).clone().requires_grad_()
    start, adam = weight.detach().clone(), torch.optim.Adam([weight], lr=lr)
    hook = module.register_forward_hook(lambda m, a, o: a[0] @ weight.T + (0 if m.bias is None else m.bias))
    for _ in range(epochs):
        loss = torch.zeros((), dtype=torch.float64)
        for request in requests:
            prompt, target = encode_pair(model, request.prompt, request.target)
            target = target + end
            logits = model.network(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(target)) / len(requests)
        adam.zero_grad()
        loss.backward()
        adam.step()
    hook.remove()
    return weight.detach() - start


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("eos", [True, False])
def test_a_batch_is_tuned_on_targets_with_the_eos_after_them(family: str, eos: bool) -> None:
    requests, model = requests_of(4), wide_model(family)
    found = run(locft(eos=eos, stop_loss=0.0), model, requests)[1]
    expected = plainly(wide_model(family), requests, 6, 1e-2, [model.tokenizer.eos_token_id] if eos else [])
    close = 1e-7 if family == "gpt2" else 1e-4  # norms of llama compute in single precision
    assert relative(found[1], expected) < close


@pytest.mark.parametrize("minibatch", [2, 10])
def test_requests_can_come_in_any_order(minibatch: int) -> None:
    model, requests = wide_model(), requests_of(5)
    forward, backward = (run(locft(minibatch=minibatch), model, order)[1] for order in (requests, requests[::-1]))
    assert torch.equal(forward[1], backward[1])
    together = run(locft("locft_seq", minibatch=minibatch, batch=5), model, requests[::-1])[1]
    assert relative(together[1], forward[1]) < 1e-10


def test_copies_of_a_request_are_one_request() -> None:
    model, (request,) = wide_model(), requests_of(1)
    once, often = (run(locft(), model, [request] * count)[1] for count in (1, 4))
    assert relative(often[1], once[1]) < 1e-10


@pytest.mark.parametrize("minibatch", [2, 10])
@pytest.mark.parametrize("gone", [0, 2, 4])
def test_a_request_taken_out_was_never_there(minibatch: int, gone: int) -> None:
    model, requests, settings = wide_model(), requests_of(5), locft(minibatch=minibatch)
    state, whole = run(settings, model, requests)
    assert isinstance(state, RecordState)
    without = run(settings, model, [request for number, request in enumerate(requests) if number != gone])[1]
    assert torch.equal(changes(settings, model, state.without({gone}))[1], without[1])
    assert not torch.equal(without[1], whole[1])


# --- CrispEdit --------------------------------------------------------------------------------------------------------


def protected_part(model: LanguageModel, change: Tensor, energy: float) -> float:
    """Share of a change's norm in the directions that are protected."""
    free = FreeDirections.of(curvature_of(model).extras, energy, change)
    return float((change - free.project(change)).norm() / change.norm())


@pytest.mark.parametrize("order", ["adam_then_project", "project_then_adam"])
@pytest.mark.parametrize("kind", ["refit", "dense"])
def test_without_protected_directions_crispedit_is_locft(order: str, kind: str) -> None:
    model, requests = wide_model(), requests_of(3)
    found = run(crispedit(state_kind=kind, batch=3, protect={"energy": 1e-12, "order": order}), model, requests, curvature_of(model))[1]
    name = "locft_bf" if kind == "refit" else "locft_seq"
    expected = run(locft(name, eos=False, minibatch=2, batch=3, stop_loss=0.0), wide_model(), requests)[1]
    assert relative(found[1], expected[1]) < 1e-9


def test_adam_in_its_usual_place_brings_protected_directions_back() -> None:
    model, requests, energy = wide_model(), requests_of(3), 0.8
    shares = {}
    for order in ("adam_then_project", "project_then_adam"):
        change = run(crispedit(protect={"energy": energy, "order": order}), model, requests, curvature_of(model))[1][1]
        shares[order] = protected_part(model, change, energy)
    assert shares["adam_then_project"] < 1e-12 and shares["project_then_adam"] > 0.05


def test_a_change_gets_smaller_the_more_is_protected() -> None:
    model, requests = wide_model(), requests_of(2)
    norms = [
        float(run(crispedit(protect={"energy": energy}), model, requests, curvature_of(model))[1][1].norm()) for energy in (0.2, 0.8, 0.99)
    ]
    assert norms[0] > norms[1] > norms[2] > 0


# --- UltraEdit and StableEdit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_the_regression_is_its_primal_form_and_its_explicit_inverse(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    keys, values = (torch.randn(tokens, width, generator=generator, dtype=torch.float64) for width in (24, 6))
    eye = torch.eye(24, dtype=torch.float64)
    primal = torch.linalg.solve(keys.mT @ keys + 3.0 * eye, keys.mT @ values).mT
    inverse = values.mT @ torch.linalg.inv(keys @ keys.mT + 3.0 * torch.eye(tokens, dtype=torch.float64)) @ keys
    assert relative(regress(keys, values, 3.0), primal) < 1e-12 > relative(regress(keys, values, 3.0), inverse)


def tokens_of(model: LanguageModel, request, layers) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Keys and gradients of one request where the tokens of its target are predicted."""
    inputs, gradients, first = keys_and_gradients(model, request, layers)
    return {layer: keys[first:] for layer, keys in inputs.items()}, {layer: found[first:] for layer, found in gradients.items()}


def untrained(model: LanguageModel, settings, turns) -> dict[int, Tensor]:
    """A hypernetwork of MALMEN as it begins, the identity, with the normalised key twice in the coefficient and λ = 0, turn by turn.

    Leaves the changed weights in the model.
    """
    start, seen = {layer: model.weight(layer).clone() for layer in settings.layers}, torch.zeros(0, model.d_in() + model.d_out()).double()
    for turn in turns:
        found = [tokens_of(model, request, settings.layers) for request in turn]
        rows = {layer: torch.cat([torch.cat([keys[layer], gradients[layer]], 1) for keys, gradients in found]) for layer in settings.layers}
        seen, width = torch.cat([seen, *rows.values()]), model.d_in()
        for layer, row in rows.items():
            hat = (row - seen.mean(0)) / seen.std(0)
            centred = (row - seen.mean(0))[:, width:]
            if settings.whiten and len(seen) > model.d_out() + 1:
                covariance = torch.cov(seen[:, width:].mT) * (len(seen) - 1) / (len(seen) - model.d_out() - 1)
                values, vectors = torch.linalg.eigh(covariance)
                gradients_hat = centred @ vectors @ torch.diag(values.clamp(min=1e-6 * values.max()).rsqrt()) @ vectors.mT
            else:
                gradients_hat = hat[:, width:]
            keys, keys_hat = row[:, :width], hat[:, :width]
            shifts = -settings.lr * (keys_hat * keys_hat).sum(1, keepdim=True) * gradients_hat
            ridge = settings.ridge * torch.eye(width, dtype=torch.float64)
            model.set_weight(layer, model.weight(layer) + (torch.linalg.inv(keys.mT @ keys + ridge) @ keys.mT @ shifts).mT)
    return {layer: model.weight(layer) - start[layer] for layer in settings.layers}


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
@pytest.mark.parametrize("name", ["ultraedit", "stableedit"])
def test_turns_are_those_of_an_untrained_hypernetwork(family: str, name: str) -> None:
    settings, requests = regression(name), requests_of(9)
    found = run(settings, wide_model(family), requests)[1]
    expected = untrained(wide_model(family), settings, [requests[0:3], requests[3:6], requests[6:9]])
    for layer in settings.layers:
        assert relative(found[layer], expected[layer]) < 1e-8


def altered(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Let sessions read gradients that were changed."""
    read = gradient_session.read_answer_gradients

    def changed(model, pairs, layers, **options) -> AnswerGradients:
        found = read(model, pairs, layers, **options)
        return AnswerGradients(found.keys, {layer: change(part) for layer, part in found.gradients.items()}, found.mean_nll)

    monkeypatch.setattr(gradient_session, "read_answer_gradients", changed)


@pytest.mark.parametrize("name", ["ultraedit", "stableedit"])
@pytest.mark.parametrize("change", [lambda part: 37.0 * part, lambda part: part + torch.arange(part.shape[1]) / 10], ids=["scale", "shift"])
def test_neither_the_scale_of_the_loss_nor_one_vector_in_all_gradients_matters(name: str, change, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, requests = regression(name), requests_of(9)
    expected = run(settings, wide_model(), requests)[1]
    altered(monkeypatch, change)
    found = run(settings, wide_model(), requests)[1]
    for layer in settings.layers:
        assert relative(found[layer], expected[layer]) < 1e-8


@pytest.mark.parametrize("together", [1, 2])
def test_how_requests_are_grouped_in_a_turn_does_not_matter(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, requests = regression("ultraedit", batch=6), requests_of(6)
    expected = run(settings, wide_model(), requests)[1]
    monkeypatch.setattr("d4s.editors.answer_gradients.GRADIENT_REQUESTS", together)
    found = run(settings, wide_model(), requests)[1]
    assert all(relative(found[layer], expected[layer]) < 1e-10 for layer in settings.layers)
