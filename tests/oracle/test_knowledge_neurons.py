"""Knowledge neurons against a slow transcription: one layer, one step and one neuron at a time, in float64."""

import pytest
import torch
from torch import Tensor

from d4s.editors import knowledge_neurons
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import KnowledgeNeurons, resolve
from d4s.editors.knowledge_neurons import KnowledgeNeuronsEditor, NoOriginalAnswer, attributions, deltas_of
from d4s.editors.protocol import Diverged, Prepared
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pair
from tests.oracle.plain import got, put, requests_of, watching
from tests.tiny import bpe_tokenizer

STEPS = 4
SETTINGS = KnowledgeNeurons(steps=STEPS)


def small(tiny_model, family: str, several: bool) -> LanguageModel:
    tokens = {"tokenizer": bpe_tokenizer(), "positions": 96} if several else {}
    return tiny_model(family, dtype=torch.float64, layers=2, mlp_width=12, **tokens)


def probability(model: LanguageModel, prompt: list[int], answer: list[int]) -> Tensor:
    """P(answer | prompt) as the product over its tokens, the network run anew for each."""
    product = torch.ones((), dtype=torch.float64)
    for number, token in enumerate(answer):
        logits = model.network(input_ids=torch.tensor([prompt + answer[:number]])).logits[0, -1]
        product = product * logits.softmax(-1)[token]
    return product


def plain_attributions(model: LanguageModel, prompt: list[int], answer: list[int], steps: int) -> Tensor:
    """a_i / m · sum of dP/da_i, each derivative with respect to one number put into one place of one activation."""
    last, table = len(prompt) - 1, []
    for layer in range(model.n_layers):
        with watching(model.mlp_out(layer)) as seen:
            model.network(input_ids=torch.tensor([prompt]))
        activation, row = seen["in"][0, last], []
        for neuron in range(len(activation)):
            total = 0.0
            for step in range(steps):
                share = 0.0 if steps == 1 else step / (steps - 1)
                one = (share * activation[neuron]).clone().requires_grad_()
                replaced = torch.cat([share * activation[:neuron], one[None], share * activation[neuron + 1 :]])

                def put_in(_module, args, replaced=replaced):
                    return (torch.cat([args[0][:, :last], replaced[None, None], args[0][:, last + 1 :]], dim=1),)

                handle = model.mlp_out(layer).register_forward_pre_hook(put_in)
                (gradient,) = torch.autograd.grad(probability(model, prompt, answer), one)
                handle.remove()
                total += float(gradient)
            row.append(float(activation[neuron]) * total / steps)
        table.append(row)
    return torch.tensor(table, dtype=torch.float64)


def plain_edit(model: LanguageModel, request: EditRequest, settings: KnowledgeNeurons) -> int:
    """One edit written into the weights, column by column; returns how many neurons were kept."""
    prompt, target = encode_pair(model, request.prompt, request.target)
    answer = encode_pair(model, request.prompt, request.target_true)[1]
    table = plain_attributions(model, prompt, answer, settings.steps)
    own = list(prompt)
    for _ in target:
        own.append(int(model.network(input_ids=torch.tensor([own])).logits[0, -1].argmax()))
    embedding = model.network.get_input_embeddings().weight
    least = settings.threshold * table.max()
    kept = [(layer, neuron) for layer, row in enumerate(table.tolist()) for neuron, value in enumerate(row) if value > least]
    for layer, neuron in kept:
        weight = got(model, layer)
        for new, old in zip(target, own[len(prompt) :], strict=True):
            factor = 2 if len(target) == 1 else 1
            weight[:, neuron] -= factor * embedding[old].detach()
            weight[:, neuron] += factor * embedding[new].detach()
        put(model, layer, weight)
    return len(kept)


@pytest.mark.parametrize("several", [False, True], ids=["one token", "several tokens"])
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_attributions_are_those_of_one_neuron_at_a_time(tiny_model, family: str, several: bool) -> None:
    model, request = small(tiny_model, family, several), requests_of(2)[1]
    prompt, answer = encode_pair(model, request.prompt, request.target_true)
    answer = answer[:3]
    assert (len(answer) > 1) == several
    for steps in (STEPS, 1) if family == "gpt2" else (STEPS,):
        found, expected = attributions(model, prompt, answer, steps), plain_attributions(model, prompt, answer, steps)
        close = 1e-4 if family == "gemma2" else 1e-6  # whose norms compute in single precision
        torch.testing.assert_close(found, expected, rtol=close, atol=1e-3 * close * float(expected.abs().max()))


def test_layers_in_one_pass_are_attributed_as_one_by_one(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    model, request = tiny_model("gptj", dtype=torch.float64, layers=4, mlp_width=12), requests_of(2)[1]
    prompt, answer = encode_pair(model, request.prompt, request.target_true)
    together = attributions(model, prompt, [*answer, *answer], STEPS)
    monkeypatch.setattr(knowledge_neurons, "ATTRIBUTED_TOKENS", 2 * STEPS * 2)
    by_twos = attributions(model, prompt, [*answer, *answer], STEPS)
    monkeypatch.setattr(knowledge_neurons, "ATTRIBUTED_TOKENS", 1)
    for found in (by_twos, attributions(model, prompt, [*answer, *answer], STEPS)):
        torch.testing.assert_close(found, together, rtol=1e-9, atol=1e-12 * float(together.abs().max()))


def test_attributions_run_the_network_once_and_then_each_block_once(tiny_model) -> None:
    model, request, calls = tiny_model(layers=4), requests_of(1)[0], []
    prompt, answer = encode_pair(model, request.prompt, request.target_true)
    handles = [
        model.block(layer).register_forward_pre_hook(lambda _module, args, layer=layer: calls.append((layer, len(args[0]))))
        for layer in range(model.n_layers)
    ]
    attributions(model, prompt, answer, STEPS)
    for handle in handles:
        handle.remove()
    assert calls == [(0, 1), (1, 1), (2, 1), (3, 1), (1, STEPS), (2, 2 * STEPS), (3, 3 * STEPS)]


@pytest.mark.parametrize("several", [False, True], ids=["one token", "several tokens"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_sequence_of_edits_is_written_column_by_column(tiny_model, family: str, several: bool) -> None:
    model, plain = small(tiny_model, family, several), small(tiny_model, family, several)
    editor, requests = KnowledgeNeuronsEditor(SETTINGS), requests_of(2)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    original = [got(plain, layer) for layer in range(plain.n_layers)]
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        for request in requests:
            log = {quantity: value for quantity, layer, value in session.step([request], None).values if layer is None}
            assert log["neurons"] == plain_edit(plain, request, SETTINGS) > 0
            for layer in range(plain.n_layers):
                gap = (model.weight(layer) - original[layer]) - (got(plain, layer) - original[layer])
                assert float(gap.norm()) <= 1e-8 * float((got(plain, layer) - original[layer]).norm())
        state = session.state()
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    for layer, delta in deltas_of(model, state.records).items():
        expected = got(plain, layer) - original[layer]
        assert float((delta - expected).norm()) <= 1e-8 * float(expected.norm())


def test_the_attributions_of_an_unlikely_answer_do_not_vanish(tiny_model) -> None:
    wide, narrow = (tiny_model(dtype=dtype, scale=14.0) for dtype in (torch.float64, torch.float32))
    prompt, _ = encode_pair(wide, requests_of(1)[0].prompt, "Rome")
    answer = [7, 11, 13, 17, 19, 23] * 3
    exact, found = (attributions(model, prompt, answer, STEPS) for model in (wide, narrow))
    assert 0 < float(exact.abs().max()) < 1e-38
    torch.testing.assert_close(found / exact.abs().max(), exact / exact.abs().max(), rtol=0, atol=1e-2)


def test_where_nothing_speaks_for_the_answer_nothing_is_edited(tiny_model) -> None:
    model, editor = tiny_model(), KnowledgeNeuronsEditor(SETTINGS)
    for layer in range(model.n_layers):
        model.set_weight(layer, torch.zeros_like(model.weight(layer)))
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        log = session.step(requests_of(1), None)
        assert ("neurons", None, 0.0) in log.values
        assert session.state().records[0]["neurons"].shape == (0, 2)


def test_a_request_without_a_true_target_is_refused_by_name(tiny_model) -> None:
    model, editor = tiny_model(), KnowledgeNeuronsEditor(SETTINGS)
    request = EditRequest("000001:a", "a", 1, "Ada Moss lives in", "Ada Moss", "{} lives in", "Rome", "")
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        with pytest.raises(NoOriginalAnswer, match="000001:a has no true target"):
            session.step([request], None)


def test_a_broken_model_diverges(tiny_model) -> None:
    model, editor = tiny_model(), KnowledgeNeuronsEditor(SETTINGS)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        model.set_weight(0, torch.full_like(model.weight(0), torch.nan))
        with pytest.raises(Diverged, match="attributions"):
            session.step(requests_of(1), None)


def test_released_settings_stand_as_released() -> None:
    for column, steps, threshold in (("gpt2-xl", 20, 0.2), ("gpt-j-6b", 20, 0.1), ("llama2-7b", 1, 0.2), ("qwen2.5-7b", 1, 0.2)):
        assert resolve("kn", {}, column) == KnowledgeNeurons(steps=steps, threshold=threshold)
