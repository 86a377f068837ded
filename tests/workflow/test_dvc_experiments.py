"""Experiments of DVC over the workflow: run, queued, compared, left and come back to."""

import json
import time
from typing import Any

from tests.workflow.conftest import Workdir, commit, sync

FEWER = "grid.0.editors=[unedited,memit,d4s]"
PATIENCE = 1800.0  # seconds, against waiting for ever; no measure of speed


def found(work: Workdir, *command: str) -> Any:
    """What a command of DVC says in JSON."""
    output = work.run("dvc", *command, "--json")
    return json.loads(output[output.index(next(letter for letter in output if letter in "[{")) :])


def editors(work: Workdir) -> set[str]:
    """The editors in the table that DVC plots."""
    lines = (work.path / "results" / "tiny" / "curves.csv").read_text().splitlines()
    column = lines[0].split(",").index("editor")
    return {line.split(",")[column] for line in lines[1:]}


def test_an_experiment_is_compared_and_an_older_result_comes_back(mine: Workdir) -> None:
    before, everyone = mine.tables(), editors(mine)
    mine.run("dvc", "exp", "run", "--name", "fewer", "-S", FEWER)
    assert mine.params["grid"][0]["editors"] == ["unedited", "memit", "d4s"]
    assert everyone - editors(mine) == {"ft_m"}
    assert mine.jobs() == {}

    (changed,) = found(mine, "params", "diff")["params.yaml"].values()
    assert changed["new"] if "new" in changed else changed
    metrics = found(mine, "metrics", "diff")["results/tiny/metrics.json"]
    assert metrics and all(".ft_m." in name for name in metrics)
    plot = mine.run("dvc", "plots", "diff", "--json", "HEAD", "workspace")
    assert '"color": {"field": "editor"' in plot and '"ft_m"' in plot

    mine.run("git", "checkout", "-q", ".")
    mine.run("dvc", "checkout")
    sync(mine)
    assert mine.jobs() == {}
    assert mine.tables() == before
    assert "up to date" in mine.run("dvc", "status")


def test_queued_experiments_run_apart_and_can_be_applied(mine: Workdir) -> None:
    before = mine.tables()
    mine.run("dvc", "exp", "run", "--queue", "--name", "fewer", "-S", FEWER)
    mine.run("dvc", "queue", "start")
    deadline = time.monotonic() + PATIENCE
    while "Success" not in (status := mine.run("dvc", "queue", "status")):
        assert "Failed" not in status, mine.run("dvc", "queue", "logs", "fewer")
        assert time.monotonic() < deadline, status
        time.sleep(2.0)
    assert mine.tables() == before, "a queued experiment leaves the workspace alone"
    assert "fewer" in mine.run("dvc", "exp", "show", "--no-pager", "--csv")

    mine.run("dvc", "exp", "apply", "fewer")
    assert "ft_m" not in editors(mine)
    sync(mine)
    assert mine.jobs() == {}
    commit(mine, "fewer")
    assert "up to date" in mine.run("dvc", "status")
