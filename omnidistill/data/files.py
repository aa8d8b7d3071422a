"""Files that are there whole or not at all: written beside their place, forced to the disk, renamed.

Whoever writes into a folder that may have come from somebody else follows no links that lie in it: what is written is
a new file of this process, and `refuse_links` says no before anything is deleted or read for a page.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from omnidistill.errors import UserError

FAULTS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}
"""Faults of the place, not of the run: the user can mend them by another `out` or a free disk."""


def expanded(text: str | Path) -> Path:
    """A path with `~` as the home of its user; where there is no such user, a name like any other."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def umask() -> int:
    """The process's umask. There is no way to ask but to set it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, moved there at the end: a kill, a full disk or a power cut leaves the file of
    before or the new one, with the permissions that the umask allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a killed process, or a link that came with the folder
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~umask())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(text: str, path: Path) -> Path:
    """Writes a text as UTF-8, whole or not at all."""
    with replacing(path) as partial, partial.open("x", encoding="utf-8") as file:
        file.write(text)
    return path


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_links(folder: Path, names: Iterator[str] | tuple[str, ...]) -> None:
    """Refuses a folder in which one of the names, or anything below it, is a link: it may lead to somebody's files.

    Raises:
        UserError: the first link found.
    """
    for name in names:
        for path in _below(folder / name):
            if path.is_symlink():
                shown = path.relative_to(folder)
                raise UserError(f"'{shown}' in '{folder}' is a link, which is not followed; remove it")


def _below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for root, folders, files in os.walk(path):  # links to folders are listed and not entered
            yield from (Path(root) / name for name in (*folders, *files))


def fault(error: BaseException | None) -> str | None:
    """What is wrong with the place written to, if that is what an exception or one of its causes says."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FAULTS:
            where = f" '{error.filename}'" if error.filename else ""
            return f"cannot write or read{where}: {FAULTS[error.errno]}"
        for number, words in FAULTS.items():
            if f"os error {number})" in str(error):  # as safetensors reports what its own library met
                return f"cannot write: {words}"
        error = error.__cause__ or error.__context__
    return None
