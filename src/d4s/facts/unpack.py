"""Unpacking of archives that nobody vouches for: only plain files and folders, inside their folder, within limits.

Names that leave the folder, links, devices, encrypted or repeated members, too many members, and sizes beyond the limit,
as declared or as found, refuse the whole archive; nothing of it is left behind.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from typing_extensions import Buffer

from d4s.errors import FetchError

MAX_BYTES = 8 * 2**30
MEMBERS = 20_000
CHUNK = 2**20
LARGEST_READ = 2**26
_OPENERS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": lambda path: gzip.open(path, "rb"),
    b"BZ": lambda path: bz2.open(path, "rb"),
    b"\xfd7": lambda path: lzma.open(path, "rb"),
}


def unpack(archive: Path, into: Path, *, limit: int = MAX_BYTES, members: int = MEMBERS) -> None:
    """Unpack a zip or tar file (plain, gzip, bzip2, xz) into a folder, which it replaces whole or not at all.

    Raises:
        FetchError: if the archive is broken or refused; says why.
    """
    temporary = into.with_name(f".{into.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        allowance = _ExtractionLimits(archive.name, temporary, limit, members)
        (_unzip if zipfile.is_zipfile(archive) else _untar)(archive, allowance)
        shutil.rmtree(into, ignore_errors=True)
        temporary.replace(into)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, NotImplementedError) as error:
        raise FetchError(f"{archive} cannot be unpacked ({error}); delete it and fetch it again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _ExtractionLimits:
    """What an archive may still do: members and bytes left, names not taken yet."""

    def __init__(self, archive: str, folder: Path, limit: int, members: int) -> None:
        self.archive, self.folder = archive, folder
        self.limit, self.members = limit, members
        self.declared = self.found = 0
        self.taken: set[str] = set()

    def refuse(self, why: str) -> FetchError:
        """The error that refuses the archive."""
        return FetchError(f"{self.archive} is refused: {why}; nothing of it was unpacked")

    def admit(self, name: str, size: int) -> Path:
        """The place of a member.

        Raises:
            FetchError: if its name leaves the folder or is taken, or the limits are used up.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name):
            raise self.refuse(f"the member {name!r} would lie outside its folder")
        if str(path).casefold() in self.taken:
            raise self.refuse(f"the member {name!r} occurs twice")
        self.taken.add(str(path).casefold())
        self.declared += size
        if len(self.taken) > self.members:
            raise self.refuse(f"it has more than {self.members} members")
        if size < 0 or self.declared > self.limit:
            raise self.refuse(f"its members declare more than {self.limit} bytes")
        return self.folder / path

    def write(self, stream: _Readable, target: Path) -> None:
        """Copy a member.

        Raises:
            FetchError: if there is more than the limit allows.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while chunk := stream.read(CHUNK):
                self.found += len(chunk)
                if self.found > self.limit:
                    raise self.refuse(f"its members hold more than {self.limit} bytes")
                out.write(chunk)


def _unzip(archive: Path, allowance: _ExtractionLimits) -> None:
    with zipfile.ZipFile(archive) as found:
        infos = found.infolist()
        places = [allowance.admit(info.filename, info.file_size) for info in infos]
        for info, place in zip(infos, places, strict=True):
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise allowance.refuse(f"the member {info.filename!r} is a link or a device")
            if info.flag_bits & 1:
                raise allowance.refuse(f"the member {info.filename!r} is encrypted")
            if info.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            with found.open(info) as stream:
                allowance.write(stream, place)


def _untar(archive: Path, allowance: _ExtractionLimits) -> None:
    with archive.open("rb") as head:
        magic = head.read(2)
    with _OPENERS.get(magic, lambda path: path.open("rb"))(archive) as content:
        metered = io.BufferedReader(_LimitedReader(content, allowance))
        with tarfile.open(fileobj=metered, mode="r:") as found:
            for member in found:
                place = allowance.admit(member.name, member.size)
                if member.issparse() or not (member.isfile() or member.isdir()):
                    raise allowance.refuse(f"the member {member.name!r} is a link or a device")
                stream = found.extractfile(member)
                if stream is None:
                    place.mkdir(parents=True, exist_ok=True)
                else:
                    allowance.write(stream, place)


class _LimitedReader(io.RawIOBase):
    """A decompressed stream that ends in an error where it gives more than allowed, headers and padding counted."""

    def __init__(self, content: io.BufferedIOBase, allowance: _ExtractionLimits) -> None:
        self.content, self.allowance = content, allowance
        self.most = allowance.limit + allowance.members * 4 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset > self.most:
            raise self.allowance.refuse(f"it unpacks to more than {self.allowance.limit} bytes")
        return self.content.seek(offset, whence)

    def tell(self) -> int:
        return self.content.tell()

    def readinto(self, buffer: Buffer, /) -> int:
        if memoryview(buffer).nbytes > LARGEST_READ or self.content.tell() > self.most:
            raise self.allowance.refuse(f"it unpacks to more than {self.allowance.limit} bytes")
        return self.content.readinto(buffer)
