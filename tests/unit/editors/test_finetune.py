import pytest
import torch

from d4s.config import NoiseSettings
from d4s.editors.fine_tune_settings import FineTune
from d4s.editors.finetune import FineTuneEditor
from d4s.editors.prompts import PromptTooLong
from d4s.editors.protocol import Diverged, Prepared
from d4s.models.subject_noise import subject_noise
from d4s.models.tokens import encode_pair, subject_tokens
from tests.oracle.plain import got, put, requests_of
from tests.tiny import bpe_tokenizer

SETTINGS = FineTune(objective="target", layer=1, steps=5, lr=1e-2)


def tuned(model, settings: FineTune, requests) -> tuple[list[torch.Tensor], list[dict[str, float]]]:
    """The weight and the logged numbers after each request."""
    editor, weights, logs = FineTuneEditor(settings), [], []
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        for request in requests:
            log = session.step([request], None)
            weights.append(model.weight(settings.layer).clone())
            logs.append({quantity: value for quantity, _, value in log.values})
    return weights, logs


def plainly(model, settings: FineTune, request) -> torch.Tensor:
    """One edit with torch's own Adam, a whole forward pass and cross-entropy; leaves the weight in the model."""
    prompt, target = encode_pair(model, request.prompt, request.target)
    weight = got(model, settings.layer).requires_grad_(True)
    start = weight.detach().clone()
    adam = torch.optim.Adam([weight], lr=settings.lr)
    module = model.mlp_out(settings.layer)
    in_out = type(module).__name__ != "Linear"
    for _ in range(settings.steps):
        changed = {"weight": weight.T if in_out else weight}
        hook = module.register_forward_hook(
            lambda m, a, o, w=changed: a[0] @ (w["weight"] if in_out else w["weight"].T) + (m.bias if m.bias is not None else 0)
        )
        if settings.objective == "target":
            logits = model.network(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
        else:
            logits = model.network(input_ids=torch.tensor([prompt])).logits[0, -1:].expand(len(target), -1)
        hook.remove()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(target))
        if loss.item() < settings.stop_loss:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        if settings.bound is not None:
            with torch.no_grad():
                weight.copy_(torch.maximum(torch.minimum(weight, start + settings.bound), start - settings.bound))
    put(model, settings.layer, weight.detach())
    return weight.detach()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("objective", ["target", "prompt_last"])
@pytest.mark.parametrize("bound", [None, 5e-3])
def test_a_sequence_equals_the_plain_loop(tiny_model, family: str, objective: str, bound: float | None) -> None:
    def make():
        return tiny_model(family, dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)

    settings = SETTINGS.model_copy(update={"objective": objective, "bound": bound})
    requests, close = requests_of(3), 1e-7 if family == "gpt2" else 1e-4  # norms of the others compute in single precision
    weights, _ = tuned(make(), settings, requests)
    plain = make()
    for request, weight in zip(requests, weights, strict=True):
        torch.testing.assert_close(weight, plainly(plain, settings, request), rtol=close, atol=close / 100)


def test_the_two_objectives_differ_for_several_tokens_only(tiny_model) -> None:
    requests = [one for one in requests_of(6) if one.target == "Paris"]
    for tokenizer, same in ((None, True), (bpe_tokenizer(), False)):
        ends = [
            tuned(tiny_model(tokenizer=tokenizer, positions=96), SETTINGS.model_copy(update={"objective": objective}), requests)[0][0]
            for objective in ("target", "prompt_last")
        ]
        assert torch.equal(*ends) == same


def test_every_edit_stays_within_its_bound_and_the_sequence_drifts(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    start = model.weight(1).clone()
    weights, _ = tuned(model, SETTINGS.model_copy(update={"bound": 1e-3}), requests_of(4))
    steps = [float((now - before).abs().max()) for before, now in zip([start, *weights], weights, strict=False)]
    assert max(steps) <= 1e-3 * (1 + 1e-9)
    assert float((weights[-1] - start).abs().max()) > 2e-3


def test_it_stops_when_the_loss_is_small_and_logs_what_happened(tiny_model) -> None:
    request = requests_of(1) * 2
    _, logs = tuned(tiny_model(width=64, scale=6.0), SETTINGS.model_copy(update={"steps": 50, "stop_loss": 0.2, "lr": 3e-2}), request)
    assert 1 < logs[0]["target_steps"] < 50 and logs[1]["target_steps"] == 0
    assert logs[0]["target_probability_before"] < 0.5 < 0.81 < logs[0]["target_probability_after"]
    assert logs[0]["delta_norm"] == logs[1]["delta_norm"] > 0


def test_only_the_one_weight_moves(tiny_model) -> None:
    model, editor = tiny_model(), FineTuneEditor(SETTINGS)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        session.step(requests_of(1), None)
        moved = [name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["transformer.h.1.mlp.c_proj.weight"]


def test_a_broken_model_diverges(tiny_model) -> None:
    model, editor = tiny_model(), FineTuneEditor(SETTINGS)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        model.set_weight(0, torch.full_like(model.weight(0), torch.nan))
        with pytest.raises(Diverged, match="loss of fine-tuning is not finite"):
            session.step(requests_of(1), None)


def test_a_prompt_that_does_not_fit_is_refused(tiny_model) -> None:
    model = tiny_model("llama", positions=6)
    with pytest.raises(PromptTooLong, match="the model takes 6"):
        tuned(model, SETTINGS, requests_of(1))


def probability(model, request, noise: torch.Tensor | None = None) -> float:
    """The probability of a request's whole target, by a whole pass for every noised copy of the prompt, if there are any."""
    prompt, target = encode_pair(model, request.prompt, request.target)
    ids, found = torch.tensor([[*prompt, *target[:-1]]]), []
    for copy in [None] if noise is None else noise:
        embedded = model.network.get_input_embeddings()(ids).clone()
        if copy is not None:
            subject = subject_tokens(model, request.prompt, request.subject, request.template)
            embedded[0, subject.start : subject.stop] += copy
        likely = model.network(inputs_embeds=embedded).logits[0].log_softmax(-1)[len(prompt) - 1 :]
        found.append(float(likely.gather(1, torch.tensor(target)[:, None]).sum().exp()))
    return sum(found) / len(found)


def test_erasure_lowers_the_probability_of_the_target_and_never_stops_early(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)
    request = requests_of(1)[0]
    before = probability(model, request)
    settings = SETTINGS.model_copy(update={"objective": "erase", "stop_loss": 1e9, "steps": 4, "lr": 1e-3})
    weights, (log,) = tuned(model, settings, [request])
    assert log["target_steps"] == 4
    assert log["target_probability_before"] == pytest.approx(before, rel=1e-9)
    put(model, 1, weights[0])
    assert log["target_probability_after"] == pytest.approx(probability(model, request), rel=1e-9)
    assert log["target_probability_after"] < before


def test_the_first_step_of_erasure_goes_against_the_gradient_of_the_probability(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    request = requests_of(1)[0]
    start = got(model, 1)
    raised, lowered = (
        tuned(model, SETTINGS.model_copy(update={"objective": objective, "steps": 1, "lr": 1e-4}), [request])[0][0] - start
        for objective in ("target", "erase")
    )
    moved = raised.abs() > 1e-5  # the first step of Adam is the sign of the gradient
    assert moved.any() and torch.equal(raised[moved].sign(), -lowered[moved].sign())


def test_forcing_tunes_on_noised_copies_of_the_prompt(tiny_model) -> None:
    model, noise = tiny_model(dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96), NoiseSettings(copies=3)
    request = requests_of(1)[0]
    prompt, _ = encode_pair(model, request.prompt, request.target)
    drawn = subject_noise(model, prompt, subject_tokens(model, request.prompt, request.subject, request.template), noise)
    before = probability(model, request, drawn)
    weights, (log,) = tuned(model, SETTINGS.model_copy(update={"noise_subject": noise}), [request])
    assert log["noised_probability_before"] == pytest.approx(before, rel=1e-6)
    put(model, 1, weights[0])
    assert log["noised_probability_after"] == pytest.approx(probability(model, request, drawn), rel=1e-6)
    assert log["noised_probability_after"] > before


def test_forcing_without_noise_is_fine_tuning(tiny_model) -> None:
    still = NoiseSettings(scale=0.0, copies=2)
    plain, forced = (
        tuned(tiny_model(dtype=torch.float64), SETTINGS.model_copy(update={"noise_subject": noise}), requests_of(2))[0]
        for noise in (None, still)
    )
    for one, other in zip(plain, forced, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
