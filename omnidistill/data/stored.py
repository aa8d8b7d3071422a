"""Files of a data set as they are kept: copied out of what a source delivered, unpacked, and checked by their sums."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from omnidistill.data.programs import SourceError


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored file: its size in bytes and its SHA-256 sum in hexadecimal digits. With a pattern: a folder of the
    files that match it below the source's folder, their size together and the sum of their list (`tree_sum`)."""

    bytes: int
    sha256: str
    pattern: str | None = None


def store(found: Path, file: Path, stored: Stored) -> None:
    """Copies `file` out of the folder `found`, unpacking NAME.gz where NAME is not there, and checks its sum."""
    if stored.pattern is not None:
        return _store_tree(found, file, stored)
    plain, packed = found / file.name, found / f"{file.name}.gz"
    digest, size = hashlib.sha256(), 0
    try:
        with (
            plain.open("rb") if plain.is_file() else gzip.open(packed, "rb") as reader,
            file.open("wb") as writer,
        ):
            while chunk := reader.read(1 << 20):
                size += writer.write(chunk)
                digest.update(chunk)
                if size > stored.bytes:
                    break
    except FileNotFoundError as error:
        raise SourceError(f"has neither {plain.name} nor {packed.name}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{packed.name} is damaged: {error}") from error
    if digest.hexdigest() != stored.sha256:
        got = f"{digest.hexdigest()[:12]}..., expected {stored.sha256[:12]}..."
        raise SourceError(f"wrong sha256 of {file.name}: {got}")


def _store_tree(found: Path, folder: Path, stored: Stored) -> None:
    """Copies the files that match the pattern, or `found/NAME` whole where it was gathered before."""
    assert stored.pattern is not None
    root, pattern = (
        (found / folder.name, "**/*") if (found / folder.name).is_dir() else (found, stored.pattern)
    )
    # Links that came with an archive lead to other people's files.
    files = [path for path in root.glob(pattern) if path.is_file() and not path.is_symlink()]
    if not files:
        raise SourceError(f"has no {stored.pattern}")
    if (size := sum(path.stat().st_size for path in files)) != stored.bytes:
        raise SourceError(f"wrong size of {folder.name}: {size} bytes, expected {stored.bytes}")
    for path in files:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if (got := tree_sum(folder)) != stored.sha256:
        raise SourceError(f"wrong sum of {folder.name}: {got[:12]}..., expected {stored.sha256[:12]}...")


def intact(path: Path, stored: Stored) -> bool:
    """Whether a file or folder is there as it was stored."""
    return size_of(path) == stored.bytes and (tree_sum if path.is_dir() else _sum)(path) == stored.sha256


def tree_sum(folder: Path) -> str:
    """The SHA-256 sum, hexadecimal, of the list of a folder's files as `sha256sum` writes it: for each file below it,
    sorted by its path, a line `sum  path`."""
    lines = (f"{_sum(path)}  {path.relative_to(folder).as_posix()}\n" for path in _tree(folder))
    return hashlib.sha256("".join(sorted(lines, key=lambda line: line[66:])).encode()).hexdigest()


def _tree(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; -1 where there is neither."""
    if path.is_dir():
        return sum(file.stat().st_size for file in _tree(path))
    return path.stat().st_size if path.is_file() else -1
