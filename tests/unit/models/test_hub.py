"""Models on the hub: resolved to a commit once, which is recorded, kept to, and the same for a whole store."""

from pathlib import Path

import pytest
import yaml

from d4s import digests
from d4s.artifacts import POINTER, Artifact, StageJob
from d4s.cli.study_commands import check
from d4s.config import AdoptSettings
from d4s.errors import ArtifactError
from d4s.facts.sources import SOURCES, load_sources
from d4s.models.adopt import adopt
from d4s.models.hub import COMMIT, commit_of
from d4s.models.loading import load
from tests.tiny import tiny_model
from tools.lock import ROOT

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without a connection that holds two commits of a model with different weights; `main` stands at the first."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--someone--tiny"
    for scale, commit in enumerate((FIRST, SECOND), start=1):
        model = tiny_model("gpt2", layers=1)
        model.weight(0).mul_(scale)
        model.network.save_pretrained(cached / "snapshots" / commit)
        model.tokenizer.save_pretrained(cached / "snapshots" / commit)
    moved(cached, FIRST)
    return cached


def moved(cached: Path, commit: str) -> None:
    (cached / "refs").mkdir(exist_ok=True)
    (cached / "refs" / "main").write_text(commit)


def adopted(folder: Path, revision: str = "main", dtype: str = "float32") -> str:
    """The commit in the pointer of an artefact that is made now."""
    adopt(StageJob("models", AdoptSettings(path="someone/tiny", revision=revision, dtype=dtype), {}, folder))
    return Artifact.open(folder, "models").json(POINTER)["revision"]


def test_a_branch_is_the_commit_it_stands_at_and_a_commit_is_itself(hub: Path) -> None:
    assert commit_of("someone/tiny", "main") == FIRST
    moved(hub, SECOND)
    assert commit_of("someone/tiny", "main") == SECOND
    assert commit_of("no/body", FIRST) == FIRST


@pytest.mark.parametrize(("name", "revision"), [("someone/else", "main"), ("someone/tiny", "v2"), ("not a name/at all/x", "main")])
def test_what_has_no_commit_is_named(hub: Path, name: str, revision: str) -> None:
    with pytest.raises(ArtifactError, match=f"no commit of {name} at revision '{revision}' was found"):
        commit_of(name, revision)


def test_an_adopted_model_stays_at_its_commit(hub: Path, tmp_path: Path) -> None:
    """In one store also after its folder was deleted, and in another precision: names of artefacts know the branch alone."""
    store = tmp_path / "store" / "models"
    assert adopted(store / "tiny-1") == FIRST
    weight = load(store / "tiny-1").weight(0)
    moved(hub, SECOND)
    assert load(store / "tiny-1").weight(0).equal(weight)
    assert adopted(store / "tiny-1") == adopted(store / "again-1") == adopted(store / "half-1", dtype="float16") == FIRST
    assert adopted(store / "pinned-1", SECOND) == adopted(tmp_path / "elsewhere" / "models" / "tiny-1") == SECOND
    assert not load(store / "pinned-1").weight(0).equal(weight)


def test_outside_a_store_nothing_is_written_beside_the_artefact(hub: Path, tmp_path: Path) -> None:
    assert adopted(tmp_path / "mine" / "tiny") == FIRST
    moved(hub, SECOND)
    assert adopted(tmp_path / "mine" / "tiny") == FIRST and [path.name for path in (tmp_path / "mine").iterdir()] == ["tiny"]


def test_check_reads_what_a_pointer_points_to_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that changed without the file system's notice: a digest that is remembered does not show it, `d4s check` does."""
    model = tiny_model("gpt2", layers=1)
    model.network.save_pretrained(tmp_path / "plain")
    model.tokenizer.save_pretrained(tmp_path / "plain")
    for name, value in {
        "MIN_CACHED_BYTES": 0,
        "MIN_AGE_NS": -(10**9),
        "_state": lambda _: {"size": 1, "mtime_ns": 0, "ctime_ns": 0},
    }.items():
        monkeypatch.setattr(digests, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    adopt(StageJob("models", AdoptSettings(path=str(tmp_path / "plain")), {}, tmp_path / "tiny"))
    check(tmp_path / "tiny")
    weights = tmp_path / "plain" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    load(tmp_path / "tiny")
    with pytest.raises(ArtifactError, match=r"model\.safetensors is not the file"):
        check(tmp_path / "tiny")


def test_every_hub_model_of_a_shipped_study_is_pinned_to_a_commit() -> None:
    studies = [yaml.safe_load(path.read_text()) for path in (ROOT / "grids").glob("*.yaml")]
    found = [model for study in studies for model in study["models"].values() if model["source"] == "hf"]
    models = [model for model in found if model["path"] not in load_sources(ROOT / SOURCES).models]  # whose commit is in that table
    assert len(models) == 7 and all(COMMIT.fullmatch(model["revision"]) for model in models)
