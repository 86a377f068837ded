"""Artefacts: atomic writes, manifests, and reads that refuse what is torn, foreign, renamed or of another schema."""

import json
import os
from dataclasses import asdict, replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from d4s import artifacts
from d4s.artifacts import (
    MANIFEST,
    Artifact,
    Manifest,
    StageJob,
    atomic_write,
    digest_of,
    read_table,
    sha256_of,
    write_json,
    write_table,
    write_tensors,
    write_text,
)
from d4s.config import FactsSettings
from d4s.errors import ArtifactError
from d4s.schema_version import SCHEMA_VERSION
from d4s.schemas import CURVE, NORMS

ROWS = [
    {"step": 1, "layer": 0, "quantity": "l1", "value": 0.5},
    {"step": 2, "layer": None, "quantity": "l2", "value": 1.5},
]


@pytest.fixture
def made(tmp_path):
    """A finished artefact with a table, tensors and JSON."""
    job = StageJob(kind="facts", settings=FactsSettings(source="world"), inputs={}, folder=tmp_path / "toy-0123456789", digest="0123456789")
    write_table(job.path("norms.parquet"), ROWS, NORMS)
    write_tensors(job.path("weights.safetensors"), {"w": torch.arange(6.0).reshape(2, 3).mT})
    write_json(job.path("notes.json"), {"b": 1, "a": "ü"})
    job.write_manifest(["norms.parquet", "weights.safetensors", "notes.json"], why="test")
    return job.folder


def altered(folder, **changes):
    path = folder / MANIFEST
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def test_an_artefact_reads_back(made):
    artifact = Artifact.open(made, "facts")
    assert artifact.table("norms.parquet", NORMS)["value"].tolist() == [0.5, 1.5]
    assert torch.equal(artifact.tensors("weights.safetensors")["w"], torch.arange(6.0).reshape(2, 3).mT)
    assert artifact.json("notes.json") == {"b": 1, "a": "ü"}
    manifest = artifact.manifest
    assert manifest.settings["source"] == "world"
    assert manifest.notes == {"why": "test"}
    assert manifest.files["notes.json"] == sha256_of(made / "notes.json")
    assert {"python", "torch", "transformers"} <= set(manifest.versions)


def test_the_same_artefact_is_the_same_bytes(made):
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    job = StageJob(kind="facts", settings=FactsSettings(source="world"), inputs={}, folder=made, digest="0123456789")
    write_table(job.path("norms.parquet"), pd.DataFrame(ROWS).astype({"layer": "Int64"}), NORMS)
    job.write_manifest(["weights.safetensors", "notes.json", "norms.parquet"], why="test")
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


class Crash(BaseException):
    """A kill in the middle of a write."""


@pytest.mark.parametrize("moment", ["writing", "flushing", "renaming"])
def test_a_crash_leaves_the_old_file_whole(tmp_path, monkeypatch, moment):
    path = tmp_path / "file.txt"
    write_text(path, "old and whole")

    def crash(*_):
        raise Crash

    if moment == "flushing":
        monkeypatch.setattr(artifacts.os, "fsync", crash)
    if moment == "renaming":
        monkeypatch.setattr(type(path), "replace", crash)
    with pytest.raises(Crash), atomic_write(path) as temporary:
        temporary.write_text("new but to", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old and whole"
        if moment == "writing":
            raise Crash
    assert path.read_text(encoding="utf-8") == "old and whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_before_the_manifest_leaves_no_artefact(tmp_path):
    folder = tmp_path / "toy-1"
    write_table(folder / "norms.parquet", ROWS, NORMS)
    (folder / f".norms.parquet.{os.getpid()}.part").write_bytes(b"PAR1 torn")
    with pytest.raises(ArtifactError, match="it was never finished"):
        Artifact.open(folder, "facts")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"norms\.parquet is truncated or altered"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\n"), r"norms\.parquet is truncated or altered"),
        (lambda path: path.write_bytes(b""), r"norms\.parquet is truncated or altered"),
        (lambda path: path.unlink(), r"norms\.parquet is missing"),
    ],
)
def test_a_damaged_file_is_refused_by_name(made, damage, message):
    damage(made / "norms.parquet")
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.open(made, "facts").table("norms.parquet", NORMS)
    assert f"delete {made} and run again" in str(caught.value)


def test_an_unlisted_file_is_refused(made):
    write_text(made / "guest.json", "{}")
    with pytest.raises(ArtifactError, match=r"guest\.json is missing or not listed"):
        Artifact.open(made, "facts").json("guest.json")


def test_an_artefact_of_another_kind_is_refused(made):
    with pytest.raises(ArtifactError, match="holds 'facts' of schema version 2, expected 'models'"):
        Artifact.open(made, "models")


def test_a_renamed_folder_is_refused(made):
    moved = made.rename(made.with_name("toy-9999999999"))
    with pytest.raises(ArtifactError, match="holds the artefact 'toy-0123456789': the folder was renamed or copied"):
        Artifact.open(moved, "facts")


def test_another_schema_version_is_refused(made):
    altered(made, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(ArtifactError, match=f"schema version {SCHEMA_VERSION + 1}, expected 'facts' of version {SCHEMA_VERSION}"):
        Artifact.open(made, "facts")


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "facts"}', '{"unheard": "of"}'])
def test_a_torn_manifest_is_refused(made, content):
    (made / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match="is no manifest"):
        Artifact.open(made, "facts")


def test_one_folder_may_hold_several_manifests(made):
    manifest = Artifact.open(made, "facts").manifest
    replace(manifest, files={"notes.json": manifest.files["notes.json"]}).write(made / "n10.json")
    artifact = Artifact.open(made, "facts", "n10.json")
    assert artifact.json("notes.json")["b"] == 1
    with pytest.raises(ArtifactError, match="not listed"):
        artifact.path("norms.parquet")


def test_a_manifest_survives_its_file(made):
    manifest = Artifact.open(made, "facts").manifest
    assert Manifest(**json.loads((made / MANIFEST).read_text(encoding="utf-8"))) == manifest
    assert asdict(manifest)["name"] == made.name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"step": 1, "layer": 0, "quantity": "l1"}], r"missing columns \['value'\]"),
        ([{**ROWS[0], "extra": 1}], r"unknown columns \['extra'\]"),
        (pd.DataFrame(ROWS).drop(columns="step"), r"missing columns \['step'\]"),
    ],
)
def test_a_table_has_exactly_its_schema(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "norms.parquet", rows, NORMS)
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_another_schema_or_version_is_refused(tmp_path):
    path = tmp_path / "norms.parquet"
    write_table(path, ROWS, NORMS)
    with pytest.raises(ArtifactError, match="expected"):
        read_table(path, CURVE)
    old = NORMS.with_metadata({"d4s_schema_version": "0"})
    pq.write_table(pa.Table.from_pylist(ROWS, schema=old), path)
    with pytest.raises(ArtifactError, match="of version 2"):
        read_table(path, NORMS)
    path.write_text("no parquet at all", encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot be read as Parquet"):
        read_table(path, NORMS)


def test_an_empty_table_keeps_its_columns(tmp_path):
    write_table(tmp_path / "norms.parquet", [], NORMS)
    frame = read_table(tmp_path / "norms.parquet", NORMS)
    assert list(frame.columns) == NORMS.names
    assert frame.empty


def test_a_digest_tells_everything_apart():
    base = {"kind": "facts", "settings": {"a": 1, "b": [1, 2]}, "inputs": {"world": "x"}, "code": "c"}
    same = {"kind": "facts", "settings": {"b": [1, 2], "a": 1}, "inputs": {"world": "x"}, "code": "c"}
    others = [
        {**base, "kind": "runs"},
        {**base, "settings": {"a": 1, "b": [2, 1]}},
        {**base, "inputs": {"world": "y"}},
        {**base, "inputs": {"records": "x"}},
        {**base, "code": "d"},
    ]
    assert digest_of(**base) == digest_of(**same)
    assert len({digest_of(**which) for which in (base, *others)}) == 1 + len(others)
    assert len(digest_of(**base)) == artifacts.DIGEST_LENGTH
