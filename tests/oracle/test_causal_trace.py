"""Causal tracing against whole passes with hooks: one window, one token and one copy at a time."""

import pytest
import torch
from torch import Tensor

from d4s.config import NoiseSettings, TraceSettings
from d4s.models.causal_trace import CausalTrace, TracedPrompt
from d4s.models.language_model import LanguageModel
from d4s.models.layer_windows import layers_around
from d4s.models.subject_noise import subject_noise
from d4s.models.tokens import encode_pair, subject_tokens
from tests.oracle.plain import watching
from tests.tiny import bpe_tokenizer, tiny_facts, tiny_model

NOISE = NoiseSettings(scale=8.0, copies=3)
FAMILIES = ("gpt2", "gptj", "llama", "gemma2")


def model_of(family: str = "gpt2") -> LanguageModel:
    return tiny_model(family, dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96, layers=4)


def prompt_of(model: LanguageModel, number: int = 1, template: str = "The home town of {} is") -> TracedPrompt:
    fact = tiny_facts(8)[number]
    text = template.replace("{}", fact.subject)
    prompt, answer = encode_pair(model, text, fact.target_true)
    return TracedPrompt(tuple(prompt), subject_tokens(model, text, fact.subject, template), tuple(answer))


def settings_of(hook: str = "mlp_output", noise: NoiseSettings = NOISE) -> TraceSettings:
    return TraceSettings.model_validate({"noise": noise.model_dump(), "hook": hook})


@torch.no_grad()
def plainly(model: LanguageModel, prompt: TracedPrompt, settings: TraceSettings, layers: range, tokens: range) -> float:
    """The mean over copies of the answer's probability with hidden states restored, each copy in a whole pass of its own."""
    ids, probabilities = torch.tensor([prompt.teacher_forced]), []
    clean: dict[int, Tensor] = {}
    module = model.mlp_out if settings.hook == "mlp_output" else model.block
    for layer in layers:
        with watching(module(layer)) as seen:
            model.network(input_ids=ids)
        clean[layer] = seen["out"]
    for noise in subject_noise(model, prompt.ids, prompt.subject, settings.noise):

        def corrupt(embedded: Tensor, noise=noise) -> Tensor:
            changed = embedded.clone()
            changed[0, prompt.subject.start : prompt.subject.stop] += noise.to(embedded)
            return changed

        handles = [
            module(layer).register_forward_hook(lambda _m, _a, output, layer=layer: _replaced(output, clean[layer], tokens))
            for layer in layers
        ]
        with watching(model.network.get_input_embeddings(), corrupt):
            logits = model.network(input_ids=ids).logits[0].log_softmax(-1)
        for handle in handles:
            handle.remove()
        of_answer = [logits[len(prompt.ids) - 1 + place, token] for place, token in enumerate(prompt.answer)]
        probabilities.append(float(torch.stack(of_answer).sum().exp()))
    return sum(probabilities) / len(probabilities)


def _replaced(output, clean: Tensor, tokens: range):
    whole = (output if isinstance(output, Tensor) else output[0]).clone()
    whole[0, tokens.start : tokens.stop] = clean[0, tokens.start : tokens.stop]
    return whole if isinstance(output, Tensor) else (whole, *output[1:])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", ["mlp_output", "block_output"])
def test_all_windows_together_equal_whole_passes_one_by_one(family: str, hook: str) -> None:
    model, settings = model_of(family), settings_of(hook)
    prompt = prompt_of(model)
    traced = CausalTrace(model, prompt, settings)
    close = 1e-9 if family == "gpt2" else 1e-6
    windows = [layers_around(layer, width, model.n_layers) for width in (1, 3) for layer in reversed(range(model.n_layers))]
    assert traced.corrupted == pytest.approx(plainly(model, prompt, settings, range(0), range(0)), rel=close)
    assert traced.corrupted != pytest.approx(traced.clean, rel=1e-3)
    for position in (prompt.subject.start, prompt.subject[-1], len(prompt.ids) - 1):
        tokens = range(position, position + 1)
        together = traced.restored(windows, tokens)
        for window, found in zip(windows, together, strict=True):
            assert float(found) == pytest.approx(plainly(model, prompt, settings, window, tokens), rel=close)
            assert float(traced.restored([window], tokens)[0]) == pytest.approx(float(found), rel=close)


def test_several_tokens_are_restored_together() -> None:
    model, settings = model_of(), settings_of()
    prompt = prompt_of(model)
    tokens = range(prompt.subject.start, prompt.subject.stop + 1)
    found = CausalTrace(model, prompt, settings).restored([range(1, 3)], tokens)
    assert float(found[0]) == pytest.approx(plainly(model, prompt, settings, range(1, 3), tokens), rel=1e-9)


@pytest.mark.parametrize("hook", ["mlp_output", "block_output"])
def test_without_noise_nothing_is_lost_and_nothing_restored(hook: str) -> None:
    model = model_of()
    prompt = prompt_of(model)
    traced = CausalTrace(model, prompt, settings_of(hook, NOISE.model_copy(update={"scale": 0.0})))
    windows = [layers_around(layer, 1, model.n_layers) for layer in range(model.n_layers)]
    assert traced.corrupted == pytest.approx(traced.clean, rel=1e-12)
    for position in range(prompt.subject.start, len(prompt.ids)):
        assert traced.restored(windows, range(position, position + 1)).tolist() == pytest.approx([traced.clean] * 4, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_hidden_states_from_the_subject_on_restore_the_clean_answer(family: str) -> None:
    model = model_of(family)
    prompt = prompt_of(model)
    traced = CausalTrace(model, prompt, settings_of("block_output"))
    found = traced.restored([range(model.n_layers)], range(prompt.subject.start, len(prompt.teacher_forced)))
    assert float(found[0]) == pytest.approx(traced.clean, rel=1e-6)


@pytest.mark.parametrize("hook", ["mlp_output", "block_output"])
def test_a_token_before_the_subject_has_no_effect(hook: str) -> None:
    model = model_of()
    prompt = prompt_of(model)
    assert prompt.subject.start > 0
    traced = CausalTrace(model, prompt, settings_of(hook))
    windows = [layers_around(layer, 3, model.n_layers) for layer in range(model.n_layers)]
    assert traced.restored(windows, range(1)).tolist() == pytest.approx([traced.corrupted] * 4, rel=1e-9)


def test_the_model_is_left_as_it_was() -> None:
    model = model_of()
    prompt, ids = prompt_of(model), torch.tensor([[3, 4, 5, 6]])
    before = model.network(input_ids=ids).logits.detach()
    CausalTrace(model, prompt, settings_of()).restored([range(2)], range(prompt.subject.start, prompt.subject.start + 1))
    assert torch.equal(before, model.network(input_ids=ids).logits)


def test_roles_of_tokens() -> None:
    prompt = TracedPrompt((1, 2, 3, 4, 5, 6, 7), range(1, 4), (8,))
    assert [prompt.role(position) for position in range(1, 7)] == ["first_subject", "mid_subject", "last_subject", "after", "after", "last"]
    assert TracedPrompt((1, 2), range(1), (8,)).role(0) == "last_subject"
    assert TracedPrompt((1, 2), range(2), (8,)).role(1) == "last_subject"
