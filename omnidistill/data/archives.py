"""Packed files, unpacked and not installed: wheels, zip and tar archives, Debian packages. None may hold more than is
sensible, and no member leaves its folder.
"""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from omnidistill.data.programs import SourceError, call

UNPACKED = 4 << 30  # bytes that an archive may hold at most


def unpack(scratch: Path) -> Path:
    """The one archive that was left in `scratch`, unpacked below it; no member may leave that folder."""
    target = scratch / "unpacked"
    for archive in sorted(scratch.iterdir()):
        try:
            if archive.suffix in {".whl", ".zip"}:
                with zipfile.ZipFile(archive) as zipped:
                    _check_size(archive.name, (info.file_size for info in zipped.infolist()))
                    zipped.extractall(target)
                return target
            if archive.name.endswith((".tgz", ".tar.gz")):
                _unpack_tar(archive.name, archive.open("rb"), target)
                return target
        except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
            raise SourceError(f"{archive.name} is damaged: {error}") from error
    raise SourceError("no archive came")


def unpack_deb(archive: Path, target: Path) -> None:
    """The files of a Debian package, without any program: an `ar` archive in which data.tar lies, packed."""
    with archive.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise SourceError(f"{archive.name} is no Debian package")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
            if not size.isdigit():
                break
            if name.startswith("data.tar") and not name.endswith(".zst"):
                with tempfile.TemporaryFile(dir=archive.parent) as data:
                    shutil.copyfileobj(_Part(file, int(size)), data)
                    data.seek(0)
                    return _unpack_tar(archive.name, data, target)
            if name.startswith("data.tar"):  # packed with zstd, which Python 3.11 cannot read
                return call(["dpkg-deb", "-x", "--", str(archive), str(target)], archive.parent)
            file.seek(int(size) + int(size) % 2, 1)
    raise SourceError(f"{archive.name} is damaged: it holds no data")


def _check_size(name: str, sizes: Iterable[int]) -> None:
    if (size := sum(sizes)) > UNPACKED:
        raise SourceError(f"{name} would unpack to {size >> 30} GiB, more than {UNPACKED >> 30}")


def _unpack_tar(name: str, stream: IO[bytes], target: Path) -> None:
    try:
        with stream, tarfile.open(fileobj=stream) as tarred:
            _check_size(name, (member.size for member in tarred))
            tarred.extractall(target, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(f"{name} is damaged: {error}") from error


class _Part:
    """The next bytes of a file, and no more."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, size

    def read(self, size: int = -1, /) -> bytes:
        part = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(part)
        return part
