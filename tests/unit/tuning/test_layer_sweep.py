"""Which blocks are swept and chosen, and injection against a hook that adds the shift by hand."""

import pytest
import torch

from d4s.editors.edit_requests import draw_requests
from d4s.editors.prompts import build_prompts
from d4s.editors.settings_file import LayerScore
from d4s.editors.target_optimisation import build_target_loss
from d4s.models.tokens import encode_pair, subject_last_index
from d4s.tuning.layer_sweep import coarse_layers, fine_layers, hidden_norms, inject, layers_below, plateau, target_settings, usual_layer
from tests.tiny import tiny_facts, tiny_model


def score(layer: int, efficacy: float, paraphrase: float) -> LayerScore:
    numbers = {"probability": 0.5, "shift_ratio": 1.0, "seconds": 1.0, "paraphrases": 100}
    return LayerScore(layer=layer, lr=0.5, clamp=1.0, efficacy=efficacy, paraphrase=paraphrase, **numbers)


def test_blocks_reach_from_the_lowest_to_three_quarters_of_the_depth() -> None:
    assert coarse_layers(30, 6) == [2, 6, 10, 13, 17, 21]
    assert coarse_layers(6, 6) == [0, 1, 2, 3]
    assert coarse_layers(1, 6) == [0]
    assert coarse_layers(2, 4) == [0, 1]


def test_the_block_is_the_one_of_the_plateau_nearest_to_the_usual_depth() -> None:
    sweep = [score(2, 1.0, 0.8), score(6, 1.0, 0.9), score(10, 1.0, 0.92), score(13, 1.0, 0.93), score(17, 0.4, 0.2)]
    assert plateau(sweep) == [6, 10, 13]
    assert usual_layer(sweep, 30) == 10
    assert fine_layers(sweep, 30) == [8, 11]
    nothing = [score(layer, 0.0, 0.0) for layer in (0, 3, 6)]
    assert usual_layer(nothing, 10) == 3, "where no block takes a target, the usual depth decides"


def test_few_paraphrases_cannot_tell_blocks_apart() -> None:
    sweep = [score(8, 1.0, 0.62), score(21, 1.0, 0.75)]
    assert plateau(sweep) == [21]
    assert plateau([one.model_copy(update={"paraphrases": 8}) for one in sweep]) == [8, 21]


def test_edited_layers_are_at_most_five_and_half_of_all() -> None:
    assert layers_below(9, 30) == (5, 6, 7, 8, 9)
    assert layers_below(2, 30) == (0, 1, 2)
    assert layers_below(2, 6) == (0, 1, 2)
    assert layers_below(3, 6) == (1, 2, 3)
    assert layers_below(0, 1) == (0,)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_injecting_is_adding_the_shift_at_the_subjects_last_token(family: str) -> None:
    model, layer = tiny_model(family), 1
    shifted = model.block(layer) if model.post_norm(layer) is None else model.mlp_out(layer)  # there the weight writes before a norm
    requests = [request for request, _ in draw_requests(tiny_facts(3), 0)]
    shift = torch.randn(3, model.d_out(), generator=torch.Generator().manual_seed(0))
    is_top1, probability = inject(model, requests, shift, target_settings(layer, 2.0, model.d_out()))
    for number, request in enumerate(requests):
        ids, target = encode_pair(model, request.prompt, request.target)
        place = subject_last_index(model, request.prompt, request.subject, request.template)

        def add(_module: object, _args: object, output: torch.Tensor, place: int = place, number: int = number) -> torch.Tensor:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[:, place] += shift[number]
            return output

        handle = shifted.register_forward_hook(add)
        with torch.no_grad():
            logits = model.network(input_ids=torch.tensor([[*ids, *target]])).logits[0].double()
        handle.remove()
        rows = logits.log_softmax(-1)[len(ids) - 1 : len(ids) + len(target) - 1]
        expected = rows[torch.arange(len(target)), torch.tensor(target)].mean().exp()
        torch.testing.assert_close(probability[number].double(), expected, rtol=1e-4, atol=1e-6)
        assert bool(is_top1[number]) == (rows.argmax(-1).tolist() == target)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_rates_and_clamps_are_relative_to_the_same_norm(family: str) -> None:
    model, requests = tiny_model(family), [request for request, _ in draw_requests(tiny_facts(5), 0)]
    prompt_sets = [build_prompts(model, request, ()) for request in requests]
    for number, kind in enumerate(("block_output", "mlp_output")):
        found = hidden_norms(model, requests)[number]
        for layer, norm in enumerate(found):
            settings = target_settings(layer, norm, model.d_out()).model_copy(update={"hook": kind})
            clamped = build_target_loss(model, prompt_sets, settings)[0].hidden_norm
            assert norm == pytest.approx(float(clamped.median()), rel=1e-5)


def test_a_step_moves_the_shift_by_an_eighth_of_the_hidden_state() -> None:
    assert target_settings(5, 110.0, 576).lr == 0.55
