import pytest
import torch

from d4s.editors.editor_settings import resolve
from tools.key_modes import MODES, distances, row


def test_distances_are_relative_to_the_batch_by_layer() -> None:
    batch = {0: torch.eye(3), 2: torch.ones(2, 2)}
    ours = {0: 2 * torch.eye(3), 2: torch.ones(2, 2)}
    assert distances(ours, batch) == pytest.approx([1.0, 0.0])
    assert row("as released", 10, ours, batch) == "| as released | 10 | 1.000 | 0.000 |\n"


@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_an_editor(name: str) -> None:
    settings = resolve("variant", MODES[name], "mini")
    assert settings.family == "locate_then_edit" and settings.history.kind == "refit"
