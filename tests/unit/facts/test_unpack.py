"""Archives, sound and malicious: the sound ones are unpacked whole, of the others nothing is left."""

import bz2
import gzip
import io
import json
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from d4s.errors import FetchError
from d4s.facts.fetch import fetch
from d4s.facts.sources import PublicDataset
from d4s.facts.unpack import unpack

FILES = {"a.json": b"[1]", "deep/er/b.txt": b"two" * 1000, "deep/empty": b""}


def zipped(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members:
            out.writestr(name, content)
    return path


def tarred(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as out:
        for info, content in members:
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o644
    return made


def typed(name: str, kind: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, (kind | 0o777) << 16
    return made


def found(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- sound ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_sound_archives_are_unpacked_whole(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "archive"
    if mode == "zip":
        zipped(path, [("deep/", b""), *FILES.items()])
    else:
        tarred(path, [(info("deep", tarfile.DIRTYPE), b""), *((info(name), content) for name, content in FILES.items())], mode)
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "old").touch()
    unpack(path, tmp_path / "into")
    assert found(tmp_path / "into") == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "into"}


def test_what_is_unpacked_cannot_be_run(tmp_path: Path) -> None:
    script = info("run.sh")
    script.mode = 0o4777
    unpack(tarred(tmp_path / "a.tar", [(script, b"#!/bin/sh")]), tmp_path / "into")
    assert not (tmp_path / "into" / "run.sh").stat().st_mode & (stat.S_IXUSR | stat.S_ISUID)


# --- malicious --------------------------------------------------------------------------------------------------------

NAMES = ["../out", "/out", "a/../../out", "C:/out", "a\\..\\out", "..", "a\x01b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "archive"
    members = [("good", b"1"), (name, b"2")]
    (zipped(path, members) if kind == "zip" else tarred(path, [(info(name), content) for name, content in members]))  # type: ignore[arg-type]
    refused(path, "outside its folder")


TYPES: dict[str, Callable[[Path], Path]] = {
    "zip with a link": lambda path: zipped(path, [(typed("x", stat.S_IFLNK), b"/etc/passwd")]),
    "zip with a device": lambda path: zipped(path, [(typed("x", stat.S_IFCHR), b"")]),
    "tar with a link out": lambda path: tarred(path, [(info("x", tarfile.SYMTYPE, "/etc/passwd"), b"")]),
    "tar with a link inside": lambda path: tarred(path, [(info("a"), b"1"), (info("x", tarfile.SYMTYPE, "a"), b"")]),
    "tar with a hard link": lambda path: tarred(path, [(info("a"), b"1"), (info("x", tarfile.LNKTYPE, "a"), b"")]),
    "tar with a device": lambda path: tarred(path, [(info("x", tarfile.CHRTYPE), b"")]),
    "tar with a pipe": lambda path: tarred(path, [(info("x", tarfile.FIFOTYPE), b"")]),
}


@pytest.mark.parametrize("make", TYPES.values(), ids=TYPES.keys())
def test_links_and_devices_are_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    refused(make(tmp_path / "archive"), "link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "z", [("a", b"1"), ("A", b"2")]), "occurs twice")
    refused(tarred(tmp_path / "t", [(info("a"), b"1"), (info("./a"), b"2")]), "occurs twice")


def test_a_file_where_another_needs_a_folder_is_refused(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "z", [("a", b"1"), ("a/b", b"2")]), "cannot be unpacked")


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z", [("a", b"1")])
    content = bytearray(path.read_bytes())
    for place in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    members = [(str(number), b"") for number in range(11)]
    refused(zipped(tmp_path / "z", members), "more than 10 members", members=10)  # type: ignore[arg-type]
    refused(tarred(tmp_path / "t", [(info(name), b"") for name, _ in members]), "more than 10 members", members=10)


def test_what_declares_too_much_is_refused(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "z", [("a", b"0" * 600), ("b", b"0" * 600)]), "declare more than 1000 bytes", limit=1000)
    refused(tarred(tmp_path / "t", [(info("a"), b"0" * 1200)], "w:gz"), "declare more than 1000 bytes", limit=1000)


def test_a_zip_that_declares_less_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z", [("a", b"0" * 100_000)])
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<L", 100_000), struct.pack("<L", 10)))
    refused(path, "cannot be unpacked", limit=1000)


@pytest.mark.parametrize(
    ("compress", "size"), [(gzip.compress, 2**21), (bz2.compress, 2**21), (lzma.compress, 2**21), (gzip.compress, 70 * 2**20)]
)
def test_headers_that_unpack_to_more_than_allowed_are_refused(tmp_path: Path, compress: Callable[[bytes], bytes], size: int) -> None:
    huge = info("x", tarfile.XHDTYPE)
    huge.size = size
    path = tmp_path / "t"
    path.write_bytes(compress(huge.tobuf(tarfile.USTAR_FORMAT) + b"\0" * size))
    refused(path, "unpacks to more than", limit=1000, members=10)


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", b"PK\x03\x04 torn", gzip.compress(b"x", mtime=0), b"\x1f\x8bx" * 99, b"BZh9x", b"\xfd7x"]
)
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(content)
    refused(path, "cannot be unpacked")


@pytest.mark.parametrize("mode", ["zip", "w:gz", "w"])
def test_an_archive_that_was_cut_off_is_named(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "archive"
    content = bytes(range(256)) * 400
    zipped(path, [("a", content)]) if mode == "zip" else tarred(path, [(info("a"), content)], mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    refused(path, "cannot be unpacked")


def refused(path: Path, why: str, **limits: int) -> None:
    """Unpacking fails for this reason, keeps what was there, and leaves nothing else."""
    into = path.parent / "into"
    into.mkdir(exist_ok=True)
    (into / "old").touch()
    before = {place: place.lstat().st_mode for place in path.parent.rglob("*")}
    with pytest.raises(FetchError, match=why):
        unpack(path, into, **limits)
    assert {place: place.lstat().st_mode for place in path.parent.rglob("*")} == before
    assert not (path.parent.parent / "out").exists()


# --- within a data set ------------------------------------------------------------------------------------------------


def test_an_archive_that_was_exchanged_is_unpacked_again(tmp_path: Path) -> None:
    made = {"to": "made.jsonl", "of": [{"file": "a.zip.unpacked/rows.json", "shape": "json_list"}]}
    file = {"kind": "by_hand", "file": "a.zip", "page": "https://example.org/form", "unpack": True}
    source = PublicDataset.model_validate({"title": "t", "licence": "l", "home": "h", "files": [file], "records": [made]})
    archive, mark = tmp_path / "made" / "original" / "a.zip", tmp_path / "made" / "original" / "a.zip.unpacked" / "mark"
    archive.parent.mkdir(parents=True)
    for row in (1, 2):
        zipped(archive, [("rows.json", json.dumps([{"row": row}]).encode())])
        fetch("made", source, tmp_path)
        assert json.loads((tmp_path / "made" / "made.jsonl").read_text()) == {"row": row}
        mark.touch()
        fetch("made", source, tmp_path)
        assert mark.exists()
        for name in ("fetched.json", "made.jsonl"):  # what one deletes to take another file
            (tmp_path / "made" / name).unlink()
