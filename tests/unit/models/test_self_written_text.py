import torch

from d4s.models.self_written_text import rows_from_model
from tests.tiny import tiny_model


def test_self_written_text_is_the_seeds_and_follows_the_model() -> None:
    model = tiny_model(scale=1.0)
    rows = rows_from_model(model, 700, seed=3)
    assert rows.shape == (11, 64) and set(rows[:, 0].tolist()) == {0}
    assert torch.equal(rows, rows_from_model(model, 700, seed=3)) and not torch.equal(rows, rows_from_model(model, 700, seed=4))
    sharp = tiny_model(scale=20.0)
    drawn = rows_from_model(sharp, 64 * 40, seed=3)
    with torch.no_grad():
        likely = sharp.network(input_ids=drawn).logits[:, :-1].softmax(-1)
    assert float(likely.gather(2, drawn[:, 1:, None]).mean()) > float(likely.mean()) * 5
