"""Changing the grid computes only what changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import Workdir

LAST = {"summarize": 1, "tables": 1, "figures": 1, "claims": 1, "report": 1}


def test_a_finished_study_has_its_report_and_nothing_to_do(finished: Workdir) -> None:
    results = finished.path / "results" / "tiny"
    assert (results / "report.html").stat().st_size > 10_000
    assert (results / "tables" / "tab_main.csv").is_file()
    assert finished.jobs() == {}


def _lengths(lengths: list[int]) -> Any:
    def edit(params: dict[str, Any]) -> None:
        params["grid"][0]["lengths"] = lengths

    return edit


def _dataset(params: dict[str, Any]) -> None:
    params["datasets"]["mqd_mc"] = {"source": "questions", "events": "world", "form": "multiple_choice"}
    params["grid"][1]["datasets"].append("mqd_mc")


@pytest.mark.parametrize(
    ("what", "edit", "expected"),
    [
        ("a removed length", _lengths([5]), {"edit": 4, "measure": 4, "benchmark": 4} | LAST),  # which find their parts
        ("an inserted length", _lengths([2, 3, 5]), {"edit": 4, "measure": 4, "benchmark": 4} | LAST),
        ("a longer length", _lengths([2, 5, 6]), {"edit": 4, "measure": 4, "benchmark": 4} | LAST),
        (
            "another editor",
            lambda p: p["grid"][0]["editors"].append("memit_seq"),
            {"edit": 1, "measure": 1, "benchmark": 1, "world_report": 1} | LAST,
        ),
        ("another data set", _dataset, {"baseline": 2, "objectives": 1, "edit": 1, "measure": 1} | LAST),
        ("another figure format", lambda p: p["figures"].update(dpi=60), {"learning": 1, "figures": 1, "report": 1}),
        (
            "another seed",
            lambda p: p.update(seeds=[1, 2]),
            {"contexts": 1, "baseline": 4, "targets": 1, "edit": 5, "measure": 5, "benchmark": 4} | LAST,
        ),
    ],
)  # fmt: skip
def test_only_what_changed_is_computed(copy: Workdir, what: str, edit: Any, expected: dict[str, int]) -> None:
    copy.change(edit)
    assert copy.jobs() == {stage: count for stage, count in expected.items() if count}, what


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_a_comment_reruns_nothing(copy: Workdir) -> None:
    for module in ("editors/least_squares.py", "facts/record.py", "figures/style.py", "runs/edit_sequence.py"):
        _append(copy.path / "src" / "d4s" / module, "\n# A remark.\n")
    assert copy.jobs() == {}


def test_changed_code_of_one_editor_reruns_that_editor_alone(copy: Workdir) -> None:
    _append(copy.path / "src" / "d4s" / "editors" / "finetune.py", "\nCHANGED = True\n")
    jobs = copy.jobs()
    assert (jobs.get("edit"), jobs.get("pretrain", 0)) == (1, 0)


def test_changed_code_of_a_figure_redraws_and_no_more(copy: Workdir) -> None:
    _append(copy.path / "src" / "d4s" / "figures" / "style.py", "\nCHANGED = True\n")
    jobs = copy.jobs()
    assert {"learning", "figures", "report"} <= set(jobs)
    assert not {"edit", "summarize", "tables", "claims"} & set(jobs)


def test_a_longer_run_continues_and_equals_a_straight_one(copy: Workdir, tmp_path: Path) -> None:
    before = copy.tables()
    copy.change(_lengths([2, 4, 5, 7]))
    copy.snakemake()
    copy.change(_lengths([2, 5]))
    copy.snakemake()
    assert copy.tables() == before
    assert copy.jobs() == {}


def test_until_edit_makes_runs_and_nothing_ahead_of_what_is_not_asked_for(copy: Workdir) -> None:
    before, store = copy.tables(), copy.path / "results" / "store"
    for kind in ("runs", "measures", "benchmarks"):
        (folder,) = (store / kind).glob("*.world_qa.memit.*")
        shutil.rmtree(folder)
    shutil.rmtree(copy.path / "results" / "tiny")  # Snakemake makes no missing input of a file that is there
    copy.snakemake("--until", "edit")
    assert [*store.glob("runs/*.world_qa.memit.*/done/2-5.json")] and not [*store.glob("measures/*.world_qa.memit.*")]
    copy.snakemake()
    assert copy.tables() == before and copy.jobs() == {}


def test_a_sweep_is_edited_in_one_process_and_a_lost_layer_is_made_by_its_own_job(copy: Workdir) -> None:
    row = {"models": ["mini"], "datasets": ["world_qa"], "editors": ["ft_m"], "protocol": "single", "lengths": [3], "probes": ["efficacy"]}
    copy.change(lambda params: params["grid"].append({**row, "sweep": {"layers": [0, 1, 2]}}))
    copy.snakemake()
    before, logs = copy.tables(), copy.path / "results" / "logs" / "edit_single"
    said = {layer: next(logs.glob(f"*.ft_m@{layer}.s1-*/*.log")).read_text() for layer in (0, 1, 2)}
    assert [("everything is there" in said[layer]) for layer in (0, 1, 2)] == [False, True, True]
    (lost,) = (copy.path / "results" / "store" / "singles").glob("*.ft_m@1.s1-*")
    shutil.rmtree(lost)
    shutil.rmtree(copy.path / "results" / "tiny")
    copy.snakemake()
    assert lost.is_dir() and copy.tables() == before and copy.jobs() == {}


def test_prune_removes_only_what_no_study_uses(copy: Workdir) -> None:
    copy.change(lambda params: params["grid"][0]["editors"].remove("ft_m"))
    copy.snakemake()
    listed = copy.run("python", "-m", "d4s", "prune")
    stale = [line for line in listed.splitlines() if line.startswith("unused")]
    of_editor, others = [line for line in stale if ".ft_m." in line], [line for line in stale if ".ft_m." not in line]
    assert len(of_editor) == 3 and len(others) == 1 and "/reports/" in others[0]  # the report on the model names its editors
    copy.run("python", "-m", "d4s", "prune", "--yes")
    assert copy.jobs() == {}
    assert "unused" not in copy.run("python", "-m", "d4s", "prune")
