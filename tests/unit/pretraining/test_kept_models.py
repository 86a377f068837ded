"""Which models are kept on the way of a training."""

import pytest

from d4s.config import PretrainSettings
from d4s.pretraining.kept_models import kept_steps


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [100]), (2, [10, 100]), (4, [10, 40, 70, 100])])
def test_models_are_kept_evenly_from_a_tenth_to_the_end(count: int, expected: list[int]) -> None:
    assert kept_steps(100, count) == expected


def test_more_models_than_steps_are_every_step() -> None:
    assert kept_steps(3, 8) == [1, 2, 3]


def test_settings_that_keep_no_models_are_those_of_before() -> None:
    assert "keep_checkpoints" not in PretrainSettings().model_dump(mode="json")
    assert PretrainSettings(keep_checkpoints=2).model_dump(mode="json")["keep_checkpoints"] == 2
