"""Perplexities against sums written out, and what happens to numbers that are too large."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from d4s.metrics.perplexity import perplexities, perplexity_rows
from d4s.models.tokens import encode
from d4s.models.views import LiveModel
from tests.scripted import Told


class Reader(Told):
    """Gives rows known losses."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__({})
        self.losses = losses

    def sample(self, prompts: Sequence[str], draws: Tensor, top_k: int) -> list[str]:
        raise NotImplementedError

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(self.losses)


def test_total_mean_and_median_weigh_rows_differently():
    rows = [[0] * 3, [0] * 5, [0] * 2]
    found = perplexities(Reader([2.0, 8.0, 5.0]), rows)
    assert found["perplexity"] == pytest.approx(float(torch.tensor(15 / 7).exp()))
    assert found["perplexity_row_mean"] == pytest.approx(float(torch.tensor([1.0, 2.0, 5.0]).exp().mean()), rel=1e-6)
    assert found["perplexity_row_median"] == pytest.approx(float(torch.tensor(2.0).exp()), rel=1e-6)


def test_all_three_of_a_uniform_model_are_the_size_of_its_vocabulary():
    rows, vocabulary = [[0] * 3, [0] * 5, [0] * 2], 48
    found = perplexities(Reader([(len(row) - 1) * math.log(vocabulary) for row in rows]), rows)
    assert set(found) == {"perplexity", "perplexity_row_mean", "perplexity_row_median"}
    assert list(found.values()) == pytest.approx([vocabulary] * 3, rel=1e-6)


def test_one_ruined_row_moves_the_mean_far_more_than_the_median():
    rows = [[0] * 3] * 5
    before, after = (perplexities(Reader([2.0 * factor, 2.0, 2.2, 2.4, 2.6]), rows) for factor in (1, 10))
    ratios = {name: after[name] / before[name] for name in before}
    assert (
        ratios["perplexity_row_mean"] > 1000 > 10 > ratios["perplexity"] > ratios["perplexity_row_median"]
        and ratios["perplexity_row_median"] < 1.2
    )


def test_it_is_the_exponent_of_the_networks_own_loss(tiny_model):
    model = tiny_model()
    rows = [encode(model, "Ada Moss lives in the city of Paris ."), encode(model, "Ben works as a pilot in Rome , yes")]
    ids = torch.tensor(rows)
    loss = model.network(ids, labels=ids).loss
    assert perplexities(LiveModel(model), rows)["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)


def test_a_collapsed_model_has_an_infinite_one():
    found = perplexities(Reader([1e4, 3.0]), [[0, 1], [0, 1]])
    assert found["perplexity"] == found["perplexity_row_mean"] == float("inf")
    assert perplexities(Reader([float("nan"), 3.0]), [[0, 1], [0, 1]])["perplexity"] != found["perplexity"]


def test_rows_say_how_it_compares_with_before():
    rows = perplexity_rows(7, "heldout", {"perplexity": 6.0, "perplexity_row_mean": 7.0}, {"perplexity": 4.0})
    assert {row["quantity"]: row["value"] for row in rows} == {"perplexity": 6.0, "perplexity_row_mean": 7.0, "perplexity_ratio": 1.5}
    assert {(row["step"], row["text"]) for row in rows} == {(7, "heldout")}


@pytest.mark.parametrize("rows", [[], [[0, 1], [0]]])
def test_rows_without_a_token_to_predict_are_refused(rows):
    with pytest.raises(ValueError, match="at least two tokens"):
        perplexities(Reader([1.0, 1.0]), rows)
