"""End markers: names that stand for parts, what is written and when, and what is read through them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from d4s.artifacts import MANIFEST, Artifact, StageJob, write_json
from d4s.cli import app, stage_commands
from d4s.config import ObjectivesSettings
from d4s.end_markers import MAX_NAME, artifact_of, marker_name, outputs_of_marker, read_marker, write_marker
from d4s.errors import ArtifactError, SettingsError


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        (["n300.json", "n10.json", "n50.json"], "10-50-300.json"),
        ([f"b{number}.json" for number in range(7)], "0to6.json"),
        ([*(f"b{number}.json" for number in range(3)), "whole.json"], "0-1-2-whole.json"),
        ([f"n{number}.json" for number in (5, *range(100, 1001, 100))], "5-100to1000by100.json"),
        (["manifest.json"], "manifest.json"),
    ],
)
def test_a_marker_is_named_for_its_parts(outputs: list[str], name: str) -> None:
    assert marker_name(outputs) == name
    assert sorted(outputs_of_marker(name, outputs[0][0])) == sorted(outputs)


@given(st.sets(st.integers(0, 9999), min_size=1, max_size=25), st.booleans())
def test_parts_are_read_back_from_the_name(numbers: set[int], has_word: bool) -> None:
    outputs = [*(f"n{number}.json" for number in numbers), *(["whole.json"] if has_word else [])]
    name = marker_name(outputs)
    assert sorted(outputs_of_marker(name, "n")) == sorted(outputs) and len(name) <= MAX_NAME + len(".json")


def test_ten_thousand_edits_have_a_short_name_and_too_many_unequal_steps_are_refused() -> None:
    assert marker_name([f"b{number}.json" for number in range(200)]) == "0to199.json"
    with pytest.raises(SettingsError, match="in unequal steps are too many"):
        marker_name([f"n{number * number}.json" for number in range(80)])


@pytest.mark.parametrize("name", ["10_50.json", "n10.json", ".json", "10--50.json", "to5.json"])
def test_a_name_that_stands_for_no_parts_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="names no parts"):
        outputs_of_marker(name, "n")


def _job(folder: Path, *outputs: str) -> StageJob[Any]:
    return StageJob("objectives", ObjectivesSettings(), {}, folder, outputs or (MANIFEST,), digest="0123456789")


def test_a_marker_says_which_parts_are_there_and_never_before_they_are(tmp_path: Path) -> None:
    job = _job(tmp_path / "made", "n1.json", "n2.json")
    write_json(job.path("x.json"), {})
    job.write_manifest(["x.json"], "n1.json")
    marker = tmp_path / "made" / "done" / "1-2.json"
    with pytest.raises(ArtifactError, match=r"lacks n2\.json after its job"):
        write_marker(job, marker)
    job.write_manifest(["x.json"], "n2.json")
    write_marker(job, marker)
    assert read_marker(marker) == {"kind": "objectives", "name": "made", "digest": "0123456789", "parts": ["n1.json", "n2.json"]}
    assert artifact_of(marker) == artifact_of(tmp_path / "made") == tmp_path / "made"


def test_files_of_others_are_taken_for_no_marker_and_no_manifest(tmp_path: Path) -> None:
    for name in ("done/config.json", "manifest.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"digest": 3}')
        assert read_marker(tmp_path / name) is None and artifact_of(tmp_path / name) == tmp_path / name


def test_an_input_may_be_named_by_folder_manifest_or_marker(tmp_path: Path) -> None:
    job = _job(tmp_path / "made")
    write_json(job.path("x.json"), {})
    job.write_manifest(["x.json"])
    write_marker(job, job.path("done/manifest.json"))
    places = [job.folder, job.path(MANIFEST), job.path("done/manifest.json")]
    assert {stage_commands._input_digest(place) for place in places} == {"0123456789"}


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stage `objectives` with another entry, which notes the folders that it made."""
    made: list[str] = []

    def make(job: StageJob[Any]) -> None:
        made.append(job.folder.name)
        if job.folder.name == "broken":
            raise ValueError("no such thing")
        write_json(job.path("x.json"), {})
        job.write_manifest(["x.json"])

    class Entries:
        def load(self, name: str) -> Any:
            return make

    monkeypatch.setattr(stage_commands, "ENTRIES", Entries())
    monkeypatch.chdir(tmp_path)
    return made


def run(*words: str, fails: int = 0) -> str:
    found = CliRunner().invoke(app, ["objectives", *words])
    assert found.exit_code == fails, found.output
    return found.output + found.stderr


def test_what_is_there_is_not_made_again_and_costs_are_noted_once(stage: list[str]) -> None:
    for _ in range(2):
        run("one/done/manifest.json", "--code", "x")
        assert read_marker(Path("one/done/manifest.json"))
        Path("one/done/manifest.json").unlink()  # as the workflow does before a job
    assert stage == ["one"] and len(Path("one/costs.jsonl").read_text().splitlines()) == 1


def test_what_is_made_ahead_gets_parts_and_its_own_job_writes_the_marker(stage: list[str]) -> None:
    calls = [{"stage": "objectives", "output": f"{name}/done/manifest.json", "settings": "{}", "inputs": {}, "code": "x"} for name in "abc"]
    calls[1]["output"] = "broken/done/manifest.json"
    run("one/done/manifest.json", "--code", "x", "--ahead", json.dumps(calls))
    assert stage == ["one", "a", "broken", "c"] and read_marker(Path("one/done/manifest.json"))
    assert not Path("a/done").exists() and Artifact.open(Path("c"), "objectives")
    run("a/done/manifest.json", "--code", "x")
    assert stage == ["one", "a", "broken", "c"] and read_marker(Path("a/done/manifest.json"))


@pytest.mark.parametrize("output", ["one/manifest.json", "one/done/manifest.txt", "one/n10.json"])
def test_a_stage_in_parts_makes_nothing_but_a_marker(stage: list[str], output: str) -> None:
    assert f"objectives makes FOLDER/done/PARTS.json, such as done/manifest.json; found {output}" in run(output, fails=2)
    assert stage == []
