"""Data sets from a server on this machine: whole, in parts, altered, refused; what is there is never lost."""

import errno
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from pytest_httpserver import HTTPServer
from typer.testing import CliRunner
from werkzeug import Response

from d4s.cli import app
from d4s.errors import FetchError, SettingsError
from d4s.facts import download as downloading
from d4s.facts.download import download
from d4s.facts.fetch import fetch, fetch_status
from d4s.facts.sources import SOURCES, GithubFile, HubFile, ManualFile, PublicDataset, PublicSources, load_sources
from tests.shelf import CONTENT, ROWS, Shelf, records, source_of
from tools.lock import ROOT

HALF = len(CONTENT) // 2


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what should happen -----------------------------------------------------------------------------------------------


def test_a_data_set_is_fetched_checked_recorded_and_turned(shelf: Shelf, tmp_path: Path) -> None:
    source = source_of(shelf.url, sha256=sha256(CONTENT), size=len(CONTENT))
    found = fetch("made", source, tmp_path)
    assert records(tmp_path) == ROWS
    assert found.files["file.json"] == {"sha256": sha256(CONTENT), "size": len(CONTENT), "from": shelf.url}
    assert found.records["made.jsonl"]["records"] == 2000
    assert set(tree(tmp_path)) == {"made/made.jsonl", "made/fetched.json", "made/original/file.json"}
    assert fetch_status("made", source, tmp_path) == "fetched"


def test_what_is_there_is_not_fetched_again_unless_forced(shelf: Shelf, tmp_path: Path) -> None:
    source = source_of(shelf.url)
    fetch("made", source, tmp_path)
    before = tree(tmp_path)
    fetch("made", source, tmp_path)
    assert len(shelf.ranges) == 1
    fetch("made", source, tmp_path, force=True)
    assert len(shelf.ranges) == 2
    assert tree(tmp_path) == before


def test_records_are_made_again_when_they_are_missing_or_made_otherwise(shelf: Shelf, tmp_path: Path) -> None:
    fetch("made", source_of(shelf.url), tmp_path)
    (tmp_path / "made" / "made.jsonl").unlink()
    fetch("made", source_of(shelf.url), tmp_path)
    assert records(tmp_path) == ROWS
    part = {"file": "file.json", "shape": "json_list", "limit": 3, "add": {"split": "test"}, "number": "index"}
    shorter = source_of(shelf.url).model_dump() | {"records": [{"to": "made.jsonl", "of": [part]}]}
    fetch("made", PublicDataset.model_validate(shorter), tmp_path)
    assert records(tmp_path) == [{"split": "test", "index": number} | ROWS[number] for number in range(3)]
    assert len(shelf.ranges) == 1


# --- breaking off and going on ----------------------------------------------------------------------------------------


def test_a_download_that_broke_off_goes_on_where_it_was(shelf: Shelf, tmp_path: Path) -> None:
    shelf.cut = HALF
    with pytest.raises(FetchError, match="run the same command again"):
        fetch("made", source_of(shelf.url), tmp_path)
    assert not (tmp_path / "made" / "made.jsonl").exists()
    fetch("made", source_of(shelf.url), tmp_path)
    start = int(str(shelf.ranges[1]).strip("bytes=-"))
    assert 0 < start <= HALF
    assert records(tmp_path) == ROWS
    shelf.ranges.clear()
    fetch("made", source_of(shelf.url), tmp_path / "straight")
    assert tree(tmp_path / "straight" / "made") == tree(tmp_path / "made")


@pytest.mark.parametrize("change", ["ignores ranges", "other content", "no version"])
def test_a_part_that_cannot_be_continued_is_fetched_from_the_start(shelf: Shelf, tmp_path: Path, change: str) -> None:
    shelf.cut = HALF
    if change == "no version":
        shelf.tag = ""
    with pytest.raises(FetchError):
        fetch("made", source_of(shelf.url), tmp_path)
    if change == "ignores ranges":
        shelf.ignores_ranges = True
    if change == "other content":
        shelf.content, shelf.tag = json.dumps(ROWS[::-1]).encode(), '"two"'
    fetch("made", source_of(shelf.url), tmp_path)
    assert records(tmp_path) == (ROWS[::-1] if change == "other content" else ROWS)
    assert (shelf.ranges[1] is None) == (change == "no version")


def test_without_a_version_a_known_digest_lets_a_part_be_continued(shelf: Shelf, tmp_path: Path) -> None:
    shelf.cut, shelf.tag = HALF, ""
    source = source_of(shelf.url, sha256=sha256(CONTENT))
    with pytest.raises(FetchError):
        fetch("made", source, tmp_path)
    fetch("made", source, tmp_path)
    assert shelf.ranges[1] is not None
    assert records(tmp_path) == ROWS


def test_a_part_that_is_whole_already_is_fetched_afresh(shelf: Shelf, tmp_path: Path) -> None:
    part = download(shelf.url, tmp_path / "file.json")
    assert download(shelf.url, tmp_path / "file.json") == part
    assert part.read_bytes() == CONTENT
    assert shelf.ranges == [None, f"bytes={len(CONTENT)}-", None]


def test_a_kill_between_turning_and_recording_is_made_good(shelf: Shelf, tmp_path: Path) -> None:
    fetch("made", source_of(shelf.url), tmp_path)
    before = tree(tmp_path)
    record = json.loads((tmp_path / "made" / "fetched.json").read_text())
    (tmp_path / "made" / "fetched.json").write_text(json.dumps(record | {"records": {}}))
    fetch("made", source_of(shelf.url), tmp_path)
    assert tree(tmp_path) == before


def test_a_kill_before_other_content_arrives_mixes_nothing(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.cut = HALF
    with pytest.raises(FetchError):
        download(shelf.url, tmp_path / "file.json")
    shelf.content, shelf.tag = CONTENT.replace(b"Ada", b"Eva"), '"two"'
    write = downloading.write_json

    def killed(path: Path, value: object) -> None:
        write(path, value)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(downloading, "write_json", killed)
        download(shelf.url, tmp_path / "file.json")
    assert download(shelf.url, tmp_path / "file.json").read_bytes() == shelf.content


# --- what is refused --------------------------------------------------------------------------------------------------


def test_other_content_than_the_tables_is_thrown_away_and_the_old_file_kept(shelf: Shelf, tmp_path: Path) -> None:
    source = source_of(shelf.url, sha256=sha256(CONTENT))
    fetch("made", source, tmp_path)
    before = tree(tmp_path)
    shelf.content, shelf.tag = CONTENT.replace(b"Ada 7", b"Eva 7"), '"two"'
    with pytest.raises(FetchError, match=f"not the sha256 in the table: found {sha256(shelf.content)}, expected {sha256(CONTENT)}"):
        fetch("made", source, tmp_path, force=True)
    assert tree(tmp_path) == before


def test_without_a_published_digest_the_first_download_is_the_measure(shelf: Shelf, tmp_path: Path) -> None:
    fetch("made", source_of(shelf.url), tmp_path)
    before = tree(tmp_path)
    shelf.content, shelf.tag = CONTENT.replace(b"Ada 7", b"Eva 7"), '"two"'
    with pytest.raises(FetchError, match=r"first download in fetched\.json"):
        fetch("made", source_of(shelf.url), tmp_path, force=True)
    assert tree(tmp_path) == before


def test_a_git_blob_is_a_digest_too(shelf: Shelf, tmp_path: Path) -> None:
    blob = hashlib.sha1(f"blob {len(CONTENT)}\0".encode() + CONTENT, usedforsecurity=False).hexdigest()
    fetch("made", source_of(shelf.url, git_blob=blob), tmp_path)
    assert records(tmp_path) == ROWS
    with pytest.raises(FetchError, match="not the git blob in the table"):
        fetch("made", source_of(shelf.url, git_blob="0" * 40), tmp_path / "other")


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_size_than_the_tables_is_refused_before_it_arrives(shelf: Shelf, tmp_path: Path, size: int) -> None:
    with pytest.raises(FetchError, match=f"announces {len(CONTENT)} bytes, expected {size}"):
        fetch("made", source_of(shelf.url, size=size), tmp_path)
    assert tree(tmp_path) == {}


def test_more_than_expected_is_refused_although_nothing_was_announced(httpserver: HTTPServer, tmp_path: Path) -> None:
    chunks = (b"[" + b" " * 1000 for _ in range(1000))
    httpserver.expect_request("/endless").respond_with_handler(lambda _: Response(chunks, direct_passthrough=True))
    with pytest.raises(FetchError, match="sends more than the 5000 bytes"):
        fetch("made", source_of(httpserver.url_for("/endless"), size=5000), tmp_path)
    assert not (tmp_path / "made" / "original" / "file.json").exists()


@pytest.mark.parametrize("status", [404, 500, 403])
def test_an_answer_that_is_no_file_is_named(httpserver: HTTPServer, tmp_path: Path, status: int) -> None:
    httpserver.expect_request("/gone").respond_with_data("no", status=status)
    with pytest.raises(FetchError, match=f"/gone answered {status} "):
        fetch("made", source_of(httpserver.url_for("/gone")), tmp_path)
    assert tree(tmp_path) == {}


def test_redirects_are_followed_on_this_machine_but_never_to_another_scheme(httpserver: HTTPServer, shelf: Shelf, tmp_path: Path) -> None:
    def redirect(path: str, to: str) -> str:
        httpserver.expect_request(path).respond_with_response(Response(status=302, headers={"Location": to}))
        return httpserver.url_for(path)

    fetch("made", source_of(redirect("/near", shelf.url)), tmp_path)
    assert records(tmp_path) == ROWS
    local = "file" + ":///etc/hostname"
    for number, target in enumerate(("ftp://127.0.0.1/x", local, "http://example.org/x", redirect("/loop", "/loop"))):
        with pytest.raises(FetchError, match=r"https only|redirects"):
            fetch("made", source_of(redirect(f"/far{number}", target)), tmp_path / "other")


@pytest.mark.parametrize("url", ["http://example.org/x.json", "ftp://example.org/x.json", "x.json", "http://127.0.0.1.example.org/x"])
def test_only_https_is_fetched_from_elsewhere(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError, match=r"https only|cannot be reached"):
        fetch("made", source_of(url), tmp_path)


def test_a_page_elsewhere_may_not_lead_to_this_machine() -> None:
    request = httpx2.Request("GET", "http://127.0.0.1/x")
    with pytest.raises(FetchError, match="https only"):
        downloading._refuse_unsafe(request, is_local=downloading._is_local(httpx2.URL("https://example.org")))


def test_a_full_disk_is_said_before_and_during_a_download(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        with pytest.raises(FetchError, match=r"has 10; make room"):
            fetch("made", source_of(shelf.url), tmp_path)

    def full(answer: object, name: str, length: int | None) -> object:
        yield CONTENT[:100]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloading, "_with_progress", full)
        with pytest.raises(FetchError, match="disk is full; make room"):
            fetch("made", source_of(shelf.url), tmp_path)
    fetch("made", source_of(shelf.url), tmp_path)
    assert shelf.ranges[-1] == "bytes=100-"
    assert records(tmp_path) == ROWS


def test_files_that_were_not_fetched_or_changed_since_are_not_replaced_unasked(shelf: Shelf, tmp_path: Path) -> None:
    own = tmp_path / "made" / "made.jsonl"
    own.parent.mkdir()
    own.write_text("{}\n")
    assert fetch_status("made", source_of(shelf.url), tmp_path) == "own copy"
    with pytest.raises(FetchError, match="was not fetched; move it away, or pass --force"):
        fetch("made", source_of(shelf.url), tmp_path)
    assert own.read_text() == "{}\n"
    fetch("made", source_of(shelf.url), tmp_path, force=True)
    own.write_text("{}\n")
    with pytest.raises(FetchError, match="was changed since it was fetched"):
        fetch("made", source_of(shelf.url), tmp_path)
    original = tmp_path / "made" / "original" / "file.json"
    original.write_bytes(CONTENT[:-5])
    with pytest.raises(FetchError, match="delete it or pass --force"):
        fetch("made", source_of(shelf.url), tmp_path)
    fetch("made", source_of(shelf.url), tmp_path, force=True)
    assert records(tmp_path) == ROWS


def test_what_is_got_by_hand_is_asked_for_then_checked_and_turned(tmp_path: Path) -> None:
    file = {"kind": "by_hand", "file": "file.json", "page": "https://example.org/form", "sha256": sha256(CONTENT)}
    source = PublicDataset.model_validate(source_of("https://example.org").model_dump() | {"files": [file]})
    assert fetch_status("made", source, tmp_path) == "by hand"
    place = tmp_path / "made" / "original" / "file.json"
    with pytest.raises(FetchError, match=rf"https://example.org/form -> {place}"):
        fetch("made", source, tmp_path)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"[]")
    with pytest.raises(FetchError, match="sha256 in the table"):
        fetch("made", source, tmp_path)
    place.write_bytes(CONTENT)
    fetch("made", source, tmp_path)
    assert records(tmp_path) == ROWS


@pytest.mark.parametrize("content", [b"[{}, {", b"{}", b"[]", b"<html>", b"[NaN]", b"[1]"])
def test_a_file_of_another_shape_is_named(httpserver: HTTPServer, tmp_path: Path, content: bytes) -> None:
    httpserver.expect_request("/odd").respond_with_data(content)
    with pytest.raises(FetchError, match=r"original/file\.json"):
        fetch("made", source_of(httpserver.url_for("/odd")), tmp_path)
    assert not (tmp_path / "made" / "made.jsonl").exists()


# --- the table and the command ----------------------------------------------------------------------------------------


def test_the_table_is_sound_and_names_the_benchmarks_and_readers() -> None:
    table = load_sources(ROOT / SOURCES)
    assert {"counterfact", "zsre_mend", "atomic2020", "mmlu", "gsm8k", "wikitext2_raw_test"} <= set(table.sources)
    for name, source in table.datasets.items():
        files = {file.file for file in source.files}
        assert len(files) == len(source.files), name
        assert {part.file for found in source.records for part in found.of} <= files, name
        assert all(isinstance(file, ManualFile) or file.url.startswith("https://") for file in source.files), name


def test_addresses_of_hub_and_repository_files() -> None:
    hub = HubFile(kind="hub", file="x", dataset="cais/mmlu", path="all/test/0000.parquet")
    assert hub.url == "https://huggingface.co/datasets/cais/mmlu/resolve/refs%2Fconvert%2Fparquet/all/test/0000.parquet"
    github = GithubFile(kind="github", file="x", repository="a/b", commit="c" * 40, path="d e/f.json")
    assert github.url == f"https://raw.githubusercontent.com/a/b/{'c' * 40}/d%20e/f.json"


def test_a_wrong_table_names_every_problem(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("a: {title: t, licence: l, home: h, files: [{kind: https, file: ../x, url: u}], extra: 1}\n")
    with pytest.raises(SettingsError, match=r"(?s)3 problem.*files\.0\.https\.file.*extra: unknown key"):
        load_sources(tmp_path / "s.yaml")
    for content in (b"a: 2024-13-45\n", b"a: \xff\n", b"a: [\n"):
        (tmp_path / "s.yaml").write_bytes(content)
        with pytest.raises(SettingsError, match=r"s\.yaml cannot be read"):
            load_sources(tmp_path / "s.yaml")
    with pytest.raises(SettingsError, match="did you mean 'made'"):
        PublicSources(sources={"made": source_of("https://example.org")}).find("mode")


def test_the_command_lists_fetches_and_ends_with_a_message(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D4S_DATA", raising=False)
    table = tmp_path / "sources.yaml"
    table.write_text(json.dumps({"made": source_of(shelf.url).model_dump(mode="json")}))
    runner, options = CliRunner(), ["--sources", str(table), "--data", str(tmp_path)]
    assert runner.invoke(app, ["fetch", *options]).stdout == "made  absent       CC0  –  Made up\n"
    done = runner.invoke(app, ["fetch", "made", *options])
    assert done.exit_code == 0
    assert f"file.json {sha256(CONTENT)}" in done.stdout
    assert "2000 records" in done.stdout
    assert "made  fetched" in runner.invoke(app, ["fetch", *options]).stdout
    assert runner.invoke(app, ["fetch", "mode", *options]).exit_code == 2
    nowhere = runner.invoke(app, ["fetch", "made", "--sources", str(table)])
    assert nowhere.exit_code == 1
    assert "pass --data or set D4S_DATA" in nowhere.output
    wrong = runner.invoke(app, ["fetch", "made", "--from", "hub", *options])
    assert wrong.exit_code == 2 and "--from is about models" in wrong.output
