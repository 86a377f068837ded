from dataclasses import replace

import pytest
import torch

from d4s.editors import target_optimisation
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import PromptSet, pad_ids
from d4s.editors.target_optimisation import optimise
from d4s.models.restart import restart, restart_sublayers
from tests.oracle.plain import requests_of, rewritings_of, target_of
from tests.tiny import bpe_tokenizer

FAMILIES = ["gpt2", "gptj", "gpt_neox", "llama", "qwen2", "qwen3", "mistral"]


def settings_with(**changes) -> TargetSettings:
    return TargetSettings(**({"layer": 1, "steps": 12, "clamp": 2.0, "stop_probability": 0.9} | changes))


def agrees(model, settings: TargetSettings, count: int = 5, tolerance: float = 1e-8) -> list[int]:
    """Compare a batch with the plain loop; returns the steps that requests took."""
    batch = rewritings_of(model, requests_of(count))
    found = optimise(model, batch, settings)
    for number, one in enumerate(batch):
        expected = target_of(model, one, settings)
        for name in ("hidden_shift", "hidden", "probability_before", "probability_after"):
            wanted = expected[name]
            torch.testing.assert_close(getattr(found, name)[number].double(), wanted.double(), rtol=tolerance, atol=tolerance)
        assert int(found.steps[number]) == expected["steps"]
    return found.steps.int().tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_equals_the_plain_loop_in_every_architecture(tiny_model, family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    steps = agrees(model, settings_with(), tolerance=2e-4 if family == "gptj" else 1e-8)
    assert len(steps) == 5


def test_requests_stop_on_their_own_and_are_left_alone(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64, scale=12.0, width=32)
    steps = agrees(model, settings_with(layer=0, steps=15, clamp=4.0, stop_probability=0.02, weight_decay=0.0), count=8)
    assert len(set(steps)) > 2, "the test needs requests that stop at different steps"


@pytest.mark.parametrize(
    "changes",
    [
        {"hook": "mlp_output", "clamp": 20.0},
        {"clamp": 0.3},
        {"stop_probability": None, "stop_loss": 3.0},
        {"kl_weight": 2.0, "weight_decay": 5.0},
        {"layer": 0},
        {"steps": 1},
    ],
)
def test_every_setting_acts_as_in_the_plain_loop(tiny_model, changes: dict) -> None:
    agrees(tiny_model(dtype=torch.float64), settings_with(**changes), count=3)


def test_single_precision_agrees_to_rounding(tiny_model) -> None:
    agrees(tiny_model(dtype=torch.float32), settings_with(steps=6), tolerance=2e-4)


def test_targets_of_several_tokens(tiny_model) -> None:
    model = tiny_model("gpt2", dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)
    batch = rewritings_of(model, requests_of(4))
    assert max(len(one.prompts[0].target) for one in batch) > 1
    agrees(model, settings_with(), count=4)


def test_a_restarted_pass_is_the_whole_pass(tiny_model) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    batch = rewritings_of(model, requests_of(3))
    texts = [prompt.ids for one in batch for prompt in one.prompts]
    subject_lasts = torch.tensor([prompt.subject_last for one in batch for prompt in one.prompts])
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in texts])
    later_blocks, _ = restart(model, ids, subject_lasts, torch.tensor([len(text) for text in texts]), layer=0)
    after = model.final_norm(later_blocks.run(torch.zeros(len(texts), 1, 16, dtype=torch.float64)))
    for row, text in enumerate(texts):
        whole = model.network.base_model(input_ids=torch.tensor([text])).last_hidden_state[0, int(subject_lasts[row]) :]
        torch.testing.assert_close(after[row, : len(whole)], whole, rtol=1e-10, atol=1e-10)


def mixed(model, count: int) -> list[PromptSet]:
    """Requests whose subjects stand at the beginning, in the middle and at the end of long and short prompts."""
    templates = ("{} lives in the old town of", "The home of {} is", "You and I has an old home in the town of {}")
    requests = [
        replace(one, template=templates[n % 3], prompt=templates[n % 3].replace("{}", one.subject))
        for n, one in enumerate(requests_of(count))
    ]
    return rewritings_of(model, requests)


def test_requests_of_all_lengths_keep_their_order_and_little_filler_runs(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings, widths = tiny_model(dtype=torch.float64), settings_with(steps=4, stop_probability=None), []
    batch = mixed(model, 9)
    target_loss = target_optimisation.build_target_loss

    def watched(model, some, settings, held):
        found = target_loss(model, some, settings, held)
        widths.append(
            (found[0].later_blocks.hidden.shape[:2], [sum(len(w.teacher_forced) - w.subject_last for w in one.prompts) + 1 for one in some])
        )
        return found

    monkeypatch.setattr(target_optimisation, "build_target_loss", watched)
    found = optimise(model, batch, settings)
    for number, one in enumerate(batch):
        expected = target_of(model, one, settings)
        torch.testing.assert_close(found.hidden_shift[number], expected["hidden_shift"], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.hidden[number], expected["hidden"], rtol=1e-8, atol=1e-8)
    assert len(widths) > 1 and sum(len(real) for _, real in widths) == 9
    for (rows, width), real in widths:
        assert width == max(real) <= target_optimisation.MAX_PADDING_RATIO * min(real) and rows == len(real)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_some_tokens_gives_what_reading_all_gives(tiny_model, family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    texts = [prompt.ids for one in mixed(model, 3) for prompt in one.prompts]
    subject_lasts = torch.tensor([prompt.subject_last for one in mixed(model, 3) for prompt in one.prompts])
    ids, lengths = pad_ids(texts, model.device), torch.tensor([len(text) for text in texts])
    for take_up, layer, parts in (
        (restart, 0, 1),
        (restart, 2, 1),
        (restart_sublayers, 1, 2),
        (restart_sublayers, 2, 2),
        (restart_sublayers, 2, 1),
    ):
        later_blocks, _ = take_up(model, ids, subject_lasts, lengths, layer, texts_per_row=3)
        shift = torch.randn(3, parts, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        whole, read = later_blocks.run(shift), torch.tensor([0, 3, later_blocks.hidden.shape[1] + 1, 3])  # one of them twice
        some, of_all = later_blocks.run(shift, read), whole.flatten(0, 1)[read]
        torch.testing.assert_close(some, of_all, rtol=1e-10, atol=1e-10)
        (found,), (expected,) = (torch.autograd.grad(values.square().sum(), shift, retain_graph=True) for values in (some, of_all))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        rows = torch.tensor([2, 0])
        torch.testing.assert_close(later_blocks.select(rows).run(shift[rows]), whole[rows], rtol=1e-10, atol=1e-10)


def test_texts_of_one_row_do_not_see_each_other(tiny_model) -> None:
    model = tiny_model("qwen2", dtype=torch.float64)
    prompts = [prompt for one in mixed(model, 2) for prompt in one.prompts]
    ids = pad_ids([prompt.ids for prompt in prompts], model.device)
    subject_lasts, lengths = (torch.tensor([at(w) for w in prompts]) for at in (lambda w: w.subject_last, lambda w: len(w.ids)))
    alone, _ = restart(model, ids, subject_lasts, lengths, 0)
    packed, _ = restart(model, ids, subject_lasts, lengths, 0, texts_per_row=3)
    shift = torch.randn(2, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    apart, together = alone.run(shift.repeat_interleave(3, 0)), packed.run(shift)
    for number, prompt in enumerate(prompts):
        row, start, count = number // 3, int(packed.starts[number // 3, number % 3]), len(prompt.ids) - prompt.subject_last
        torch.testing.assert_close(together[row, start : start + count], apart[number, :count], rtol=1e-10, atol=1e-10)
