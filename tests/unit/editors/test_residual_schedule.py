import math

import pytest

from d4s.editors.parts.part_families import ResidualSchedule


def achieved(residual_schedule: str, layers: int) -> float:
    """How much of a residual is taken over in all, if every layer does what it is asked to."""
    done = 0.0
    for index in range(layers):
        schedule = ResidualSchedule.choose(residual_schedule)
        done += schedule.weight(index, layers) * (1.0 - done if schedule.is_remeasured else 1.0)
    return done


@pytest.mark.parametrize("layers", [1, 3, 5, 6])
def test_what_each_way_of_sharing_adds_up_to(layers: int) -> None:
    assert achieved("remeasured", layers) == pytest.approx(1.0)
    assert achieved("even", layers) == pytest.approx(1.0)
    assert achieved("root", layers) == pytest.approx(1.0)
    assert achieved("static", layers) == pytest.approx(sum(1 / n for n in range(1, layers + 1)))


def test_the_released_share_overshoots_as_known() -> None:
    assert achieved("static", 5) == pytest.approx(2.283, abs=1e-3)
    assert achieved("static", 6) == pytest.approx(2.45, abs=1e-3)


def test_shares_by_layer() -> None:
    assert [ResidualSchedule.choose("remeasured").weight(i, 3) for i in range(3)] == pytest.approx([1 / 3, 1 / 2, 1.0])
    assert [ResidualSchedule.choose("even").weight(i, 3) for i in range(3)] == pytest.approx([1 / 3] * 3)
    assert [ResidualSchedule.choose("root").weight(i, 3) for i in range(3)] == pytest.approx([1 / math.sqrt(3), 1 / math.sqrt(2), 1.0])
