"""`d4s run`: what it hands to Snakemake, how it shows and tells, and how Ctrl-C ends it; a script stands in for Snakemake."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from d4s.cli import run_command as command
from d4s.cli.run_command import format_duration, format_line
from d4s.errors import SettingsError
from d4s.resources import machine_speed
from d4s.resources.progress import RunningStep, StudyProgress
from d4s.study.snakemake_process import end, failed_jobs, failure_report, warnings
from tests.workflow.conftest import TINY

ROOT = Path(__file__).resolve().parents[3]
JOB_FAILED = """\
[Sun Nov 29 23:56:45 2026]
localrule pretrain:
    log: results/logs/pretrain/mini.log
RuleException:
CalledProcessError in file "/checkout/workflow/rules/world.smk", line 6:
Command 'set -euo pipefail; python -m d4s pretrain' returned non-zero exit status 1.
[Sun Nov 29 23:56:45 2026]
Error in rule pretrain:
    message: None
    jobid: 1
    log: LOG (check log file(s) for error details)
    shell:
        python -m d4s pretrain
        (command exited with non-zero exit code)
Logfile LOG:
====================
error: training diverged
====================
Exiting because a job execution failed. Look above for error messages
"""


# --- what is handed on, what is shown ---------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").touch()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "other.yaml").touch()
    return tmp_path


def test_snakemake_gets_the_study_and_a_place(checkout: Path) -> None:
    assert command._snakemake_arguments("params.yaml", []) == ["--cores", "all"]
    assert command._snakemake_arguments("other.yaml", ["-c2"]) == ["-c2", "--configfile", "other.yaml"]
    assert command._snakemake_arguments("params.yaml", ["--profile", "slurm"]) == ["--profile", "slurm"]


@pytest.mark.parametrize("own", ["--config", "--configfile=x.yaml", "--directory", "-s"])
def test_arguments_that_would_change_the_study_are_refused(checkout: Path, own: str) -> None:
    with pytest.raises(SettingsError, match="name it by --study"):
        command._snakemake_arguments("params.yaml", [own, "x"])


def test_a_place_that_is_no_checkout_is_told(checkout: Path) -> None:
    with pytest.raises(SettingsError, match=r"found 'nowhere\.yaml'"):
        command._snakemake_arguments("nowhere.yaml", [])
    (checkout / "Snakefile").unlink()
    with pytest.raises(SettingsError, match="holds no Snakefile; run this in the folder of the checkout"):
        command._snakemake_arguments("params.yaml", [])


def test_a_line_for_a_log() -> None:
    running = (RunningStep("edit", "mini.world_qa.memit.s1", 9.0, 0.419), RunningStep("contexts", "mini-s1", 4.2, None))
    view = StudyProgress(0.379, 355.0, 20, 118, running)
    assert format_line(view, "12:03:10") == "12:03:10  37 %  edit mini.world_qa.memit.s1 41 %, contexts mini-s1 4 s; about 6 min left"
    assert (
        format_line(StudyProgress(0.0, 10.0, 0, 9, ()), "12:03:10")
        == "12:03:10   0 %  0 of 9 steps are done, none at work; less than a minute left"
    )
    assert format_duration(10_800.0) == "about 3.0 h"


def test_lines_come_now_and_then_and_what_is_told_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(command.time, "monotonic", lambda: now)
    view, lines = StudyProgress(0.5, 60.0, 1, 2, ()), 0
    with command._line_display() as show:
        for now in range(100, 161):
            show(view, "first figure: a.png" if now == 130 else "")
    lines = capsys.readouterr().err.splitlines()
    assert sum("50 %" in line for line in lines) == 4 and sum(line.endswith("first figure: a.png") for line in lines) == 1


def test_bars_are_drawn_for_the_study_and_each_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with command._bar_display() as show:
        show(StudyProgress(0.5, 60.0, 1, 2, (RunningStep("edit", "[bold]mini[/]", 3.0, 0.25),)), "first figure: [a].png")
    text = capsys.readouterr().err
    assert "edit [bold]mini[/]" in text and "50 %" in text and "25 %" in text and "first figure: [a].png" in text


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failed_job_is_told_in_full_with_the_place_of_its_log(tmp_path: Path) -> None:
    log, own = tmp_path / "snakemake.log", tmp_path / "pretrain.log"
    own.write_text("12:00:00 begins\n" * 100 + "error: training diverged\n")
    log.write_text(2 * JOB_FAILED.replace("LOG", str(own)))
    found = "\n".join(failure_report(log))
    assert found.startswith("pretrain failed (exit status 1)") and found.count("training diverged") == 1
    assert found.count("begins") == 100 and f"{own}:" in found and found.endswith(str(log))


def test_a_job_that_was_killed_leaves_no_words(tmp_path: Path) -> None:
    log, own = tmp_path / "snakemake.log", tmp_path / "pretrain.log"
    own.touch()
    log.write_text(JOB_FAILED.replace("LOG", str(own)).replace("returned non-zero exit status 1", "died with <Signals.SIGKILL: 9>"))
    found = "\n".join(failure_report(log))
    assert "pretrain failed (exit status <Signals.SIGKILL: 9>)" in found and "ended from outside" in found


def test_several_failed_jobs_are_all_told() -> None:
    one, other = (
        JOB_FAILED.replace("rule pretrain", "rule edit").replace("LOG", f"{log}.log").replace("status 1", f"status {status}")
        for log, status in (("b", 3), ("d", 4))
    )
    found = [*failed_jobs(JOB_FAILED.replace("LOG", "a.log, c.log") + one + other + one.replace("status 3", "status 5"))]
    assert found == [
        ("pretrain", (Path("a.log"), Path("c.log")), "1"),
        ("edit", (Path("b.log"),), "5"),  # was tried again
        ("edit", (Path("d.log"),), "4"),
    ]


def test_what_snakemake_itself_says_is_handed_on(tmp_path: Path) -> None:
    log = tmp_path / "snakemake.log"
    log.write_text("SNAKEMAKE\n  Host: vm\nBuilding DAG of jobs...\nError: Directory cannot be locked. Please make sure\n  again\n")
    first, *_ = failure_report(log)
    assert first == "Error: Directory cannot be locked. Please make sure\n  again"
    log.write_text("Warning: slow\nfine\n    warning of a job\nMissing files after 60 seconds. Wait\nWarning: slow\n")
    assert warnings(log) == ["Warning: slow", "Missing files after 60 seconds. Wait"]
    assert warnings(tmp_path / "none") == []


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def waited(found: Callable[[], object], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not found() and time.monotonic() < until:
        time.sleep(0.1)
    assert found()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_does_not_listen_is_killed_with_its_children(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True); {stubborn}"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() and process.stdout.readline()
    (child,) = psutil.Process(process.pid).children()
    end(process, grace=0.2)
    assert process.returncode == -signal.SIGKILL
    waited(lambda: is_gone(child.pid), 10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_everything_with_one_sentence(checkout: Path, number: signal.Signals) -> None:
    """Snakemake's part is played by a script that starts a job, which tells its progress, and waits."""
    known = {machine_speed._machine(on_device=False): {"single": 5e10, "double": 3e10, "call": 1e-4}}
    (checkout / "d4s").mkdir()
    (checkout / "d4s" / "machine_speed.json").write_text(json.dumps(known))
    (checkout / "standin").mkdir()
    script = """\
        import os, subprocess, sys
        print("begins", sys.argv[1:], flush=True)
        job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open("pids", "w").write(f"{os.getpid()} {job.pid}\\n")
        job.wait()
    """
    (checkout / "standin" / "snakemake.py").write_text(textwrap.dedent(script))
    paths = os.pathsep.join([str(checkout / "standin"), str(ROOT / "src")])
    environment = os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(checkout)}
    heeding = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    words = [sys.executable, "-c", heeding, sys.executable, "-m", "d4s", "run", "--", "--cores", "2"]  # whatever the tests ignore
    pids = checkout / "pids"
    with subprocess.Popen(words, cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        waited(lambda: process.poll() is not None or (pids.is_file() and pids.read_text().endswith("\n")))
        time.sleep(1.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "stopped; the same command continues where this one was" and "Traceback" not in err and not out
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())
    assert "begins ['--cores', '2']" in (checkout / "results" / "logs" / "tiny" / "snakemake.log").read_text()
