"""Large files are hashed once, and again whenever they may have changed; whatever is kept of them, no wrong digest comes back."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from d4s import digests
from d4s.artifacts import sha256_of
from d4s.digests import MIN_CACHED_BYTES, cache_folder, cached_sha256

LARGE = b"w" * MIN_CACHED_BYTES


@pytest.fixture(autouse=True)
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read whole; changes count as settled at once, and the cache is the test's own."""
    read: list[str] = []
    file_digest = hashlib.file_digest

    def counted(stream, kind: str):
        read.append(Path(stream.name).name)
        return file_digest(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    monkeypatch.setattr(digests, "MIN_AGE_NS", -(10**9))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "möd el's [1]" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(LARGE)
    return path


def test_a_large_file_is_read_once_by_whatever_name(weights: Path, tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "link").symlink_to(weights)
    found = {cached_sha256(path) for path in (weights, weights, tmp_path / "link")}
    assert found == {hashlib.sha256(LARGE).hexdigest()} and reads == ["model.safetensors"]


def test_a_small_file_is_read_and_nothing_kept_of_it(tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert cached_sha256(tmp_path / "config.json") == cached_sha256(tmp_path / "config.json") == hashlib.sha256(b"{}").hexdigest()
    assert len(reads) == 2 and not cache_folder().exists()


def rewritten(path: Path) -> None:
    """In place, of the same size, with its time set back."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"v")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(b"v" + LARGE[1:])
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)


def grown(path: Path) -> None:
    path.write_bytes(LARGE + b"w")


@pytest.mark.parametrize("change", [rewritten, replaced, grown])
def test_a_changed_file_is_read_again(weights: Path, change: Callable[[Path], None]) -> None:
    first = cached_sha256(weights)
    change(weights)
    assert cached_sha256(weights) == hashlib.sha256(weights.read_bytes()).hexdigest() != first


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": 1}', '{"sha256": "0", "size": 1}'])
def test_what_is_kept_badly_is_not_believed(weights: Path, content: str) -> None:
    expected = cached_sha256(weights)
    (kept,) = cache_folder().iterdir()
    kept.write_text(content)
    assert cached_sha256(weights) == expected == json.loads(kept.read_text())["sha256"]


def test_nothing_is_kept_of_a_file_that_just_changed_or_changes_meanwhile(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MIN_AGE_NS", 10**12)
    cached_sha256(weights)
    monkeypatch.setattr(digests, "MIN_AGE_NS", -(10**9))
    digest = hashlib.file_digest

    def changing(stream, kind: str):
        grown(weights)
        return digest(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", changing)
    cached_sha256(weights)
    assert not cache_folder().exists()


def test_without_a_place_to_keep_them_digests_are_computed(weights: Path, tmp_path: Path, reads: list[str]) -> None:
    (tmp_path / "cache").touch()
    assert cached_sha256(weights) == cached_sha256(weights) == sha256_of(weights)
    assert len(reads) == 3


def test_many_processes_agree(weights: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        assert set(pool.map(cached_sha256, [weights] * 8)) == {hashlib.sha256(LARGE).hexdigest()}
    assert [path.suffix for path in cache_folder().iterdir()] == [".json"]
