"""How far a study is: notes of running jobs, the estimate made of them and of a made-up store, and a machine's remembered speed."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.log import NOTES, progress, progress_notes
from d4s.resources import machine_speed
from d4s.resources import progress as watching
from d4s.resources.capacity import Machine
from d4s.resources.job_estimates import ResourceEstimates
from d4s.resources.machine_estimates import MachineEstimates
from d4s.resources.machine_speed import Speed, known_speed, speed_file
from d4s.resources.progress import STALE_AFTER, ProgressMonitor, Step, percent, seconds_left, slots_of
from d4s.resources.requirements import GIB
from d4s.study.resolve import resolve
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]
SPEED = Speed(single=5e10, double=3e10, call=1e-4)


# --- notes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for notes that the environment names; each loop may write as often as it likes."""
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    monkeypatch.setattr("d4s.log.WRITE_INTERVAL_S", 0.0)
    return tmp_path / "notes"


def told(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def test_a_stage_tells_what_it_makes_and_how_much_is_done(notes: Path) -> None:
    with progress_notes(Path("runs/a/n3.json")):
        assert told(notes) | {"first": None, "share": 0.0} == told(notes)
        seen = [told(notes) for _ in progress([10, 30], "lengths", 40, weigh=float)]
    assert [(note["share"], note["following"]) for note in seen] == [(0.0, 0.25), (0.25, 1.0)]
    assert seen[0] | {"output": "runs/a/n3.json", "host": socket.gethostname(), "pid": os.getpid()} == seen[0]
    assert [*notes.iterdir()] == []


def test_work_that_goes_on_begins_where_it_was(notes: Path) -> None:
    with progress_notes(Path("a")):
        seen = [told(notes) for _ in progress(range(60, 80), "steps", 80, done=60)]
    assert (seen[0]["first"], seen[0]["share"], seen[10]["share"]) == (0.75, 0.75, 0.875)


def test_only_the_outer_of_two_loops_tells(notes: Path) -> None:
    with progress_notes(Path("a")):
        seen = [told(notes)["share"] for _ in progress("ab", "outer", 2) for _ in progress("cde", "inner", 3)]
        after = [told(notes)["share"] for _ in progress("xy", "next", 2)]
    assert (seen, after) == ([0, 0, 0, 0.5, 0.5, 0.5], [0, 0.5])


def test_a_note_goes_with_the_stage_that_fails(notes: Path) -> None:
    with pytest.raises(ValueError, match="broken"), progress_notes(Path("a")):
        for _ in progress("ab", "letters", 2):
            raise ValueError("broken")
    assert [*notes.iterdir()] == []


def test_notes_are_few_and_no_disk_that_takes_none_ends_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "file"
    closed.touch()
    monkeypatch.setenv(NOTES, str(closed / "notes"))
    with progress_notes(Path("a")):
        assert [*progress(range(3), "numbers", 3)] == [0, 1, 2]
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    written: list[float] = []
    with progress_notes(Path("a")):
        monkeypatch.setattr("d4s.log._Note.write", lambda self, *told: written.append(told[1]))
        assert len([*progress(range(5000), "numbers", 5000)]) == 5000
    assert len(written) < 3


def test_without_being_asked_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NOTES, raising=False)
    monkeypatch.chdir(tmp_path)
    with progress_notes(Path("a")):
        assert [*progress(iter("ab"), "letters")] == ["a", "b"]
    assert [*tmp_path.iterdir()] == []


# --- the estimate -----------------------------------------------------------------------------------------------------


def step(*after: int) -> Step:
    return Step("edit", "a", (Path("a"),), after)


@pytest.mark.parametrize(
    ("left", "running", "slots", "expected"),
    [
        ([10.0, 5.0, 5.0, 1.0], [], 2, 16.0),  # one, then two side by side, then the last
        ([10.0, 5.0, 5.0, 1.0], [], 1, 21.0),
        ([0.0, 5.0, 2.0, 1.0], [2], 2, 6.0),
        ([0.0, 5.0, 2.0, 1.0], [2, 1], 1, 6.0),  # two are at work, whatever was asked for
        ([3.0, 5.0, 0.0, 0.0], [1], 1, 8.0),  # at work, though what it reads is made again
        ([0.0, 0.0, 0.0, 0.0], [], 2, 0.0),
    ],
)
def test_seconds_left_follow_from_what_waits_for_what(left: list[float], running: list[int], slots: int, expected: float) -> None:
    assert seconds_left([step(), step(0), step(0), step(1, 2)], left, running, slots) == expected


@dataclass
class Store:
    """A made-up store of the default study, and a clock that stands still."""

    notes: Path
    found: MachineEstimates
    now: float = 0.0

    def watch(self, slots: int | None = 2) -> ProgressMonitor:
        return ProgressMonitor(self.found, self.notes, slots, lambda: self.now)

    def finish(self, one: Step, seconds: float | None = None) -> None:
        for path in one.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if seconds is not None:
            line = json.dumps({"stage": one.stage, "wall_s": seconds})
            (one.outputs[0].parent / "costs.jsonl").write_text(line + "\n")

    def tell(self, one: Step, share: float = 0.0, following: float = 1.0, *, first: float | None = 0.0, **more: Any) -> Path:
        process = {"host": socket.gethostname(), "pid": os.getpid()} | more
        path = self.notes / f"{process['host']}-{process['pid']}.json"
        told = {"output": str(one.outputs[0]), "first": first, "share": share, "following": following}
        path.write_text(json.dumps(process | told))
        return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    study = Study.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()))
    yield Store(
        tmp_path / "notes", MachineEstimates(ResourceEstimates(resolve(study), has_device=False), Machine(24.0 * GIB), SPEED, SPEED)
    )


def of(watch: ProgressMonitor, stage: str) -> Step:
    return next(one for one in watch.steps if one.stage == stage)


def test_the_share_counts_seconds_and_not_jobs(store: Store) -> None:
    watch = store.watch()
    empty = watch.poll()
    assert (empty.share, empty.done, empty.running) == (0.0, 0, ())
    for one in watch.steps[:6]:
        store.finish(one)
    few = watch.poll()
    store.finish(of(watch, "pretrain"))
    view = watch.poll()
    assert few.done >= 6 and view.done == few.done + 1
    assert few.share < 0.05 and view.share - few.share > 4 * few.share
    total = sum(one.seconds(store.found) for one in watch.steps)
    assert empty.left == pytest.approx(total / 2, rel=0.5) and empty.left > total / 2
    assert view.left < empty.left - 0.9 * of(watch, "pretrain").seconds(store.found)


def test_a_running_job_is_named_with_its_percentage_and_goes_on_at_its_own_pace(store: Store) -> None:
    watch = store.watch()
    one = of(watch, "pretrain")
    store.tell(one, first=None)
    store.now = 5.0
    assert str(watch.poll().running[0]) == "pretrain mini-m0 0 s"  # since it was first seen; nothing is counted yet
    store.now = 10.0
    store.tell(one, 0.25, 0.26)
    before = watch.poll()
    assert str(before.running[0]) == "pretrain mini-m0 25 %"
    store.now = 1000.0
    store.tell(one, 0.5, 0.51)
    view = watch.poll()
    assert str(view.running[0]).startswith("pretrain mini-m0 50 %")
    assert view.share > before.share and view.left > before.left + 500  # it is slow: as long again


def test_within_a_long_item_the_share_goes_on_by_time_but_not_beyond_it(store: Store) -> None:
    watch = store.watch()
    one = of(watch, "edit")
    store.tell(one, 0.2, 0.6)
    watch.poll()
    shares = []
    for passed in (0.3, 0.5, 1e6):
        store.now = passed * one.seconds(store.found)
        (running,) = watch.poll().running
        shares.append(running.share)
    assert shares == [pytest.approx(0.3), pytest.approx(0.5), pytest.approx(0.596)]


def test_the_share_never_falls(store: Store) -> None:
    watch = store.watch()
    one = of(watch, "pretrain")
    path = store.tell(one, 0.9, 0.91)
    high = watch.poll().share
    path.unlink()
    assert watch.poll().share == high > 0


def test_notes_of_the_dead_are_left_out(store: Store) -> None:
    watch = store.watch()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    store.tell(of(watch, "pretrain"), 0.5, pid=gone.pid)
    assert watch.poll().running == ()
    store.tell(of(watch, "edit"), 0.5, host="another", pid=1)
    assert len(watch.poll().running) == 1
    store.now = STALE_AFTER + 1
    assert watch.poll().running == ()
    (store.notes / "torn.json").write_text("{")
    (store.notes / "foreign.json").write_text(json.dumps({"output": 3}))
    assert watch.poll().running == ()


def test_one_process_may_go_from_stage_to_stage(store: Store) -> None:
    watch = store.watch()
    edit, measure = of(watch, "edit"), of(watch, "measure")
    store.tell(edit, 0.9)
    assert [one.stage for one in watch.poll().running] == ["edit"]
    store.finish(edit)
    store.tell(measure, first=None)
    store.now = 7.0
    (running,) = watch.poll().running
    assert (running.stage, running.seconds, running.share) == ("measure", 0.0, None)


def test_what_finished_jobs_took_corrects_their_stage_and_all_together_the_others(store: Store) -> None:
    watch = store.watch()
    one = of(watch, "pretrain")
    before = watch.poll().left
    store.finish(one, 3 * one.seconds(store.found))
    watch.poll()
    store.now = watching.REFRESH + 1
    assert watch.poll().left > before
    later = store.found.with_latest_costs()
    assert later.corrections == {"pretrain": pytest.approx(3.0)} and 1.5 < later.overall_ratio < 3.0
    assert of(watch, "edit").seconds(later) == pytest.approx(later.overall_ratio * of(watch, "edit").seconds(store.found))


def test_the_last_steps_are_done_once_they_are_as_new_as_what_they_read(store: Store) -> None:
    watch = store.watch()
    for one in watch.steps:
        store.finish(one)
    view = watch.poll()
    assert (view.share, view.left, view.done) == (1.0, 0.0, view.steps)
    again = store.watch()
    os.utime(of(again, "figures").outputs[0], (1.0, 1.0))
    view = again.poll()
    assert view.steps - view.done == 2 and view.share < 1  # the report reads it
    os.utime(of(again, "world").outputs[0])  # paths of hashed ones say what they are
    assert again.poll().done == view.done


def test_slots_are_what_snakemake_is_told() -> None:
    assert [slots_of(text.split()) for text in ("--cores 3", "-c4 -n", "--jobs=5", "-j 6", "--profile slurm")] == [3, 4, 5, 6, None]
    assert slots_of(["--cores", "all"]) == os.cpu_count()


def test_percent_is_never_more_than_is_done() -> None:
    assert [percent(share) for share in (0.0, 0.29, 0.999, 1.0)] == ["0 %", "29 %", "99 %", "100 %"]


# --- speed ------------------------------------------------------------------------------------------------------------


def test_a_machine_is_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[bool] = []

    def calibrate(*, on_device: bool = False) -> Speed:
        timed.append(on_device)
        return SPEED

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine_speed, "calibrate", calibrate)
    assert known_speed() == known_speed() == SPEED and timed == [False]
    assert known_speed(on_device=True) == SPEED and timed == [False, True]
    monkeypatch.setattr("platform.node", lambda: "another")
    assert known_speed() == SPEED and len(timed) == 3
    speed_file().write_text("{torn")
    assert known_speed() == SPEED and len(timed) == 4
    speed_file().write_text(json.dumps({machine_speed._machine(on_device=False): {"single": 1.0}}))
    assert known_speed() == SPEED and len(timed) == 5


def test_a_folder_that_takes_no_file_only_costs_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(machine_speed, "calibrate", lambda **_: SPEED)
    assert known_speed() == SPEED
