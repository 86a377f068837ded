"""Windows of layers around one."""

import pytest

from d4s.models.layer_windows import layers_around


@pytest.mark.parametrize(
    ("layer", "width", "expected"),
    [
        (0, 1, [0]),
        (5, 1, [5]),
        (0, 3, [0, 1]),
        (2, 3, [1, 2, 3]),
        (5, 3, [4, 5]),
        (0, 5, [0, 1, 2]),
        (3, 2, [2, 3]),
        (2, 10, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_windows_are_clipped_to_the_model(layer: int, width: int, expected: list[int]) -> None:
    assert list(layers_around(layer, width, 6)) == expected
