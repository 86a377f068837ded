"""One thread, CPU time, and pairs: the plain version and ours take turns, and a ratio is the median over the turns."""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
import torch
import transformers


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["torch"], machine_info["transformers"] = torch.__version__, transformers.__version__


class Measure:
    """Times functions through pytest-benchmark and notes rows for the page, which `tools.performance_page` writes."""

    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark
        benchmark.extra_info["rows"] = []

    def seconds(self, function: Callable[[], Any], rounds: int) -> list[float]:
        """CPU seconds of each round."""
        self._benchmark.pedantic(function, rounds=rounds)
        return list(self._benchmark.stats.stats.data)

    def pairs(self, plain: Callable[[], Any], ours: Callable[[], Any], count: int, work: tuple[int, int] = (1, 1)) -> list[float]:
        """How many times the plain version's cost per unit of work ours takes, in each of so many turns; `work` are their units."""
        before: list[float] = []

        def turn() -> None:
            start = time.process_time()
            plain()
            before.append(time.process_time() - start)

        self._benchmark.pedantic(ours, setup=turn, rounds=count)
        after = list(self._benchmark.stats.stats.data)
        return [(theirs / work[0]) / (mine / work[1]) for theirs, mine in zip(before, after, strict=True)]

    def row(self, part: str, what: str, against: str, values: list[float], unit: str, goal: str = "", note: str = "") -> None:
        """A line of the page: the median of values, their range, and a goal such as "≥ 6"."""
        found = {"value": median(values), "low": min(values), "high": max(values), "count": len(values)}
        texts = {"part": part, "what": what, "against": against, "unit": unit, "goal": goal, "note": note}
        self._benchmark.extra_info["rows"].append(texts | found)


@pytest.fixture
def measure(benchmark: Any) -> Measure:
    return Measure(benchmark)
