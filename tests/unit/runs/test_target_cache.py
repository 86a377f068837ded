from pathlib import Path

import pytest
import torch

from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.protocol import TARGET_FIELDS
from d4s.editors.target_optimisation import optimise_requests
from d4s.runs import target_cache
from d4s.runs.target_cache import TargetCache
from tests.oracle.plain import PREFIXES, requests_of
from tests.tiny import tiny_model

SETTINGS = TargetSettings(layer=1, at="original", steps=3, clamp=2.0)


def test_targets_on_disk_are_not_optimised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests, optimised = tiny_model(), requests_of(5), list[str]()

    def noted(model, block, *more):
        optimised.extend(request.request_id for request in block)
        return optimise_requests(model, block, *more)

    monkeypatch.setattr(target_cache, "optimise_requests", noted)
    first = TargetCache(tmp_path / "targets").load_or_optimise(model, requests[1:4], PREFIXES, SETTINGS)
    later = TargetCache(tmp_path / "targets").load_or_optimise(model, [*reversed(requests)], PREFIXES, SETTINGS)
    assert optimised == [requests[number].request_id for number in (1, 2, 3, 4, 0)]
    for name in TARGET_FIELDS:
        assert len(getattr(later, name)) == 5 and torch.equal(getattr(later, name)[1:4].flip(0), getattr(first, name))


def test_a_cleared_cache_holds_nothing(tmp_path: Path) -> None:
    cache = TargetCache(tmp_path / "targets")
    cache.clear()
    cache.load_or_optimise(tiny_model(), requests_of(2), PREFIXES, SETTINGS)
    cache.clear()
    assert not (tmp_path / "targets").exists()
