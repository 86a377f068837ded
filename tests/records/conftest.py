"""Real records from the folder that `D4S_DATA` names; without it these tests are skipped."""

import json
import os
from pathlib import Path

import pytest

DATA = os.environ.get("D4S_DATA")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with one sub-folder per data set."""
    if not DATA:
        pytest.skip("D4S_DATA names no folder with real records")
    folder = Path(DATA)
    if not folder.is_dir():
        pytest.fail(f"D4S_DATA names {folder}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def path_of(data):
    """The raw file of a data set."""

    def find(name: str) -> Path:
        path = data / name / f"{name}.jsonl"
        if not path.is_file():
            pytest.skip(f"{path} does not exist")
        return path

    return find


@pytest.fixture(scope="session")
def raw(path_of):
    """The raw records of a data set, read without any code of ours."""

    def load(name: str) -> list[dict]:
        return [json.loads(line) for line in path_of(name).read_text(encoding="utf-8").split("\n") if line]

    return load
