"""What an edited folder survives: a base model that moves, a stop in its first moment, files that were changed, rows said otherwise."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from d4s.apply.apply_memory import estimate_editing
from d4s.apply.apply_pipeline import REJECTED, apply
from d4s.apply.base_model import BaseModelSource
from d4s.apply.change import undo
from d4s.apply.edited_folder import PREPARED, EditedFolder
from d4s.apply.fact_files import read_facts
from d4s.apply.history import Conflict
from d4s.apply.input_preparation import TextSource
from d4s.artifacts import StageJob
from d4s.config import AdoptSettings
from d4s.errors import ArtifactError, RecordError, SettingsError
from d4s.models.adopt import adopt
from d4s.models.loading import load
from tests.applying import FACTS, applied, fact_file, options, saved_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved_model(tmp_path / "base")


def test_a_folder_goes_on_after_its_base_model_has_moved(base: Path, tmp_path: Path) -> None:
    applied(base, fact_file(tmp_path / "a.csv", FACTS[:3]), tmp_path / "out")
    moved = base.rename(tmp_path / "moved")
    folder, _ = applied(moved, fact_file(tmp_path / "b.csv", FACTS[3:4]), tmp_path / "out")
    assert folder.manifest.model.source == str(moved)
    undo(tmp_path / "out", [4], "cpu")
    assert len(EditedFolder.open(tmp_path / "out").active_edits()) == 3


def test_a_stop_before_the_first_manifest_is_whole_stops_nothing(base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".manifest.json.17.part").write_text("{")
    folder, _ = applied(base, fact_file(tmp_path / "facts.csv", FACTS[:2]), tmp_path / "out")
    assert len(folder.active_edits()) == 2


@pytest.mark.parametrize("name", ["prepared.safetensors", "prepared.json"])
def test_what_was_prepared_is_checked_before_it_is_used(base: Path, tmp_path: Path, name: str) -> None:
    applied(base, fact_file(tmp_path / "facts.csv", FACTS[:2]), tmp_path / "out")
    path = tmp_path / "out" / PREPARED / name
    path.write_bytes(path.read_bytes()[:-3] + b"\0\0\0")
    with pytest.raises(ArtifactError, match=name):
        undo(tmp_path / "out", [1], "cpu")


def test_one_prompt_is_one_prompt_however_it_is_split(base: Path, tmp_path: Path) -> None:
    subject, template = FACTS[0].subject, FACTS[0].template
    first, rest = subject.split(maxsplit=1)
    split_otherwise = template.replace("{}", "{} " + rest)
    facts = tmp_path / "facts.csv"
    facts.write_text(f"subject,prompt,target_new\n{subject},{template},Oslo\n{first},{split_otherwise},Rome\n")
    with pytest.raises(Conflict, match=r"1 conflicts[^$]*Oslo[^$]*line 3 says 'Rome'"):
        apply(options(base, facts, tmp_path / "out"), lambda plan: None)


def test_null_is_nothing_in_json_lines_too(tmp_path: Path) -> None:
    row = {"subject": "Ada", "prompt": "{} lives in", "target_new": "Oslo", "target_true": None, "paraphrase": None, "locality": None}
    (tmp_path / "f.jsonl").write_text(json.dumps(row) + "\n")
    lines = read_facts(tmp_path / "f.jsonl")
    assert not lines.rejects and lines.valid[0].raw.paraphrase == []


def test_rows_set_aside_are_those_of_the_last_file(base: Path, tmp_path: Path) -> None:
    good, bad = fact_file(tmp_path / "good.csv", FACTS[:2]), fact_file(tmp_path / "bad.csv", FACTS[2:4])
    bad.write_text(bad.read_text() + "Eva,Eva lives in {},\n")
    with pytest.raises(RecordError):
        applied(base, bad, tmp_path / "out")
    applied(base, bad, tmp_path / "out", skip_bad=True)
    assert len(pd.read_parquet(tmp_path / "out" / REJECTED)) == 1
    applied(base, good, tmp_path / "out")
    assert not (tmp_path / "out" / REJECTED).exists()


def test_a_hub_models_commit_is_recorded_and_kept_to(base: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--someone--tiny"
    commits = ["1" * 40, "2" * 40]
    for commit in commits:
        shutil.copytree(base, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    facts, out = fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out"
    code = f"""
from pathlib import Path
from d4s.errors import SettingsError
from tests.applying import applied
try:
    print(applied(Path("someone/tiny"), Path({str(facts)!r}), Path({str(out)!r}))[0].manifest.model.revision)
except SettingsError as error:
    print(error)
"""
    told = []
    for commit in commits:
        (cached / "refs" / "main").write_text(commit)
        hub = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        told.append(subprocess.run([sys.executable, "-c", code], env=hub, capture_output=True, text=True, check=True).stdout.strip())
    assert told[0] == commits[0]
    assert "was made otherwise" in told[1] and commits[0] in told[1] and commits[1] in told[1]


def test_a_precision_that_no_model_has_is_refused_before_anything_is_planned(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"dtype 'fp32' is no precision .* known: float32, bfloat16, float16, float64"):
        applied(base, fact_file(tmp_path / "facts.csv"), tmp_path / "out", dtype="fp32")
    folder, _ = applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", dtype="float64")
    assert folder.manifest.model.dtype == "float64"


def test_an_adopted_model_is_edited_in_its_precision_or_the_one_asked_for(base: Path, tmp_path: Path) -> None:
    (tmp_path / "adopted").mkdir()
    adopt(StageJob("models", AdoptSettings(path=str(base), dtype="bfloat16"), {}, tmp_path / "adopted"))
    assert BaseModelSource.of(str(tmp_path / "adopted"), None, "main").dtype == "bfloat16"
    assert str(load(tmp_path / "adopted").dtype) == "torch.bfloat16"
    assert str(load(tmp_path / "adopted", dtype="float32").dtype) == "torch.float32"


def test_the_forecast_counts_what_is_solved_at_the_end(base: Path, tmp_path: Path) -> None:
    folder, _ = applied(base, fact_file(tmp_path / "facts.csv", FACTS[:2]), tmp_path / "out", "one_time_batch")
    steps = dict(estimate_editing(folder, TextSource(tokens=1500), 100))
    assert steps["what comes out"].host["state"] > 0 == steps["edits"].host.get("state", 0)
