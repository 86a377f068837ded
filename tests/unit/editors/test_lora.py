import pytest
import torch
from peft import LoraConfig, get_peft_model

from d4s.editors.fine_tune_settings import FineTune, LowRank
from d4s.editors.finetune import FineTuneEditor
from d4s.editors.lora import low_rank_deltas, target_loss
from d4s.editors.prompts import PromptTooLong
from d4s.editors.protocol import Diverged, Prepared
from d4s.errors import SettingsError
from d4s.models.tokens import encode_pairs
from d4s.settings_base import validate
from tests.oracle.plain import requests_of
from tests.tiny import bpe_tokenizer

LORA = LowRank(rank=2, clip=0.3, weight_decay=0.1)
SETTINGS = FineTune(objective="target", parameters=LORA, steps=4, lr=1e-2, stop_loss=0.0)


def tuned(model, settings: FineTune, batches):
    """The state, the logs and the weights of all layers after some steps."""
    editor = FineTuneEditor(settings)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        logs = [session.step(batch, None).values for batch in batches]
        return session.state().dense, logs, [model.weight(layer).clone() for layer in range(model.n_layers)]


def with_peft(model, first, pairs, settings: FineTune) -> dict[int, torch.Tensor]:
    """The change of every layer's weight by one step with the layers of `peft`, from given factors A."""
    config = LoraConfig(
        r=LORA.rank, lora_alpha=LORA.alpha, lora_dropout=0.0, target_modules=r".*\.mlp\.c_proj", fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(model.network, config)
    layers = [block.mlp.c_proj for block in model.network.transformer.h]
    for layer, module in enumerate(layers):
        module.lora_A["default"].weight.data.copy_(first[layer])
    parameters = [weight for module in layers for weight in (module.lora_A["default"].weight, module.lora_B["default"].weight)]
    adam = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=LORA.weight_decay)
    for _ in range(settings.steps):
        losses = []
        for prompt, target in pairs:
            logits = wrapped(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target)))
        adam.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, LORA.clip)
        adam.step()
    return {layer: module.get_delta_weight("default").mT.detach() for layer, module in enumerate(layers)}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers for it
def test_a_step_equals_one_with_peft(tiny_model) -> None:
    def make():
        return tiny_model(dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)

    model, batch = make(), requests_of(2)
    unedited = [model.weight(layer).clone() for layer in range(model.n_layers)]
    _, _, weights = tuned(model, SETTINGS, [batch])
    start, _, _ = tuned(make(), SETTINGS.model_copy(update={"steps": 1, "lr": 1e-300}), [batch])
    pairs = encode_pairs(model, [one.prompt for one in batch], [one.target for one in batch])
    expected = with_peft(make(), {layer: start[f"{layer}.A"] for layer in range(3)}, pairs, SETTINGS)
    for layer, change in expected.items():
        assert change.norm() > 1e-3
        torch.testing.assert_close(weights[layer] - unedited[layer], change, rtol=1e-7, atol=1e-10)


def test_a_sequence_adds_factors_and_starts_anew(tiny_model) -> None:
    batches = [[one] for one in requests_of(3)]
    dense, _, weights = tuned(tiny_model(), SETTINGS, batches)
    once, _, _ = tuned(tiny_model(), SETTINGS, batches[:1])
    assert {name: tuple(tensor.shape) for name, tensor in dense.items() if name.startswith("1.")} == {"1.A": (6, 64), "1.B": (16, 6)}
    assert torch.equal(dense["1.A"][:2], once["1.A"]) and torch.equal(dense["1.B"][:, :2], once["1.B"])
    plain = tiny_model()
    for layer, change in low_rank_deltas(LORA, dense).items():
        torch.testing.assert_close(weights[layer].double(), plain.weight(layer).double() + change, rtol=1e-6, atol=1e-7)


def test_a_step_runs_all_its_steps_and_raises_the_target(tiny_model) -> None:
    settings = SETTINGS.model_copy(update={"steps": 30, "lr": 3e-2})
    _, (numbers,), _ = tuned(tiny_model(), settings, [requests_of(1)])
    found = {quantity: value for quantity, layer, value in numbers if layer is None}
    assert found["target_steps"] == 30
    assert found["target_probability_after"] > 5 * found["target_probability_before"]
    assert {layer for quantity, layer, _ in numbers if quantity == "delta_norm"} == {0, 1, 2}


def test_where_a_step_begins_depends_on_its_facts_alone(tiny_model) -> None:
    first, second = requests_of(2)
    starts = [tuned(tiny_model(), SETTINGS, batches)[0]["0.A"] for batches in ([[first], [second]], [[second]])]
    begun = [tuned(tiny_model(), SETTINGS.model_copy(update={"lr": 1e-30}), [[one]])[0]["0.A"] for one in (first, second)]
    assert not torch.equal(*begun) and float(begun[0].abs().max()) <= 64**-0.5
    assert float((starts[0][2:] - starts[1]).abs().max()) < 0.1


def test_only_the_named_layers_change(tiny_model) -> None:
    settings = SETTINGS.model_copy(update={"parameters": LORA.model_copy(update={"layers": (1,)})})
    dense, _, weights = tuned(tiny_model(), settings, [requests_of(1)])
    assert {*dense} == {"1.A", "1.B"} and settings.layers == (1,) and SETTINGS.layers == ()
    assert [torch.equal(weight, tiny_model().weight(layer)) for layer, weight in enumerate(weights)] == [True, False, True]


def test_the_loss_is_the_mean_over_prompts_of_the_mean_over_tokens(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)
    pairs = encode_pairs(model, [one.prompt for one in requests_of(4)], [one.target for one in requests_of(4)])
    assert len({len(target) for _, target in pairs}) > 1
    together = target_loss(model, pairs)
    torch.testing.assert_close(together, torch.stack([target_loss(model, [pair]) for pair in pairs]).mean())


def test_a_broken_model_diverges_and_a_long_prompt_is_refused(tiny_model) -> None:
    model = tiny_model()
    model.set_weight(0, torch.full_like(model.weight(0), torch.nan))
    with pytest.raises(Diverged, match="loss of fine-tuning is not finite"):
        tuned(model, SETTINGS, [requests_of(1)])
    with pytest.raises(PromptTooLong, match="the model takes 6"):
        tuned(tiny_model("llama", positions=6), SETTINGS, [requests_of(1)])


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"parameters": {"kind": "lora"}, "layer": 1}, "leave out layer"),
        ({"parameters": {"kind": "lora"}, "bound": 1e-3}, "leave out bound"),
        ({"parameters": {"kind": "lora"}, "objective": "prompt_last"}, "leave out objective"),
        ({}, "needs its layer"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        validate(FineTune, {"objective": "target", **settings}, "lora")
