"""The folder that a command makes: there, writable, its own while the command works, and not somebody else's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from omnidistill.data.files import FAULTS, refuse_links
from omnidistill.errors import RunError, UserError

WRITTEN = (
    *("config.yaml", "metrics.json", "report.html", "samples", "checkpoints", "logs"),
    *(f"{model}.{suffix}" for model in ("student", "teacher") for suffix in ("safetensors", "json")),
)
"""Everything that `distill` and `train` write in their folder."""


@contextlib.contextmanager
def opened(out: str | Path, *, resume: bool = False, again: bool = False) -> Iterator[Path]:
    """The folder of a run, for this process alone until the end.

    A folder that this made and in which a refused run wrote nothing is removed again.

    Args:
        resume, again: as in `prepare`.

    Raises:
        UserError: as `prepare`; another process is at work in the folder.
        RunError: the folder is gone at the end.
    """
    folder = Path(out)
    above = [place for place in (folder, *folder.parents) if not _there(place)]
    prepare(folder, resume=resume, again=again, look=True)
    with alone(folder) as handle:
        try:
            yield prepare(folder, resume=resume, again=again)
        except UserError:
            if above and not _content(folder):
                shutil.rmtree(folder)
                for place in above[1:]:
                    with contextlib.suppress(OSError):
                        place.rmdir()
            raise
        if not _there(folder) or not os.path.samestat(os.fstat(handle), os.stat(folder)):
            raise RunError(f"out={out} is gone: it was removed or replaced while the run was at work in it")


def check_whole(folder: Path, names: Sequence[str]) -> None:
    """
    Raises:
        RunError: one of the files that a run has written is not there at its end.
    """
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise RunError(f"out={folder} lacks {', '.join(lost)}: removed while the run was at work in it")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Keeps every other process that asks for the folder out of it; yields the folder's descriptor.

    Raises:
        UserError: another process has it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is at work in out={folder}; wait for it, or stop it") from error
        except OSError:  # a file system without locks
            pass
        yield handle
    finally:
        os.close(handle)


def _there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        return False


def _content(folder: Path) -> list[str]:
    """The names in a folder, without what a command leaves that was killed or refused before its run began."""
    names = []
    for entry in sorted(folder.iterdir()):
        nothing = entry.name == ".lock" or (
            entry.name.startswith(".") and entry.name.endswith((".partial", ".part"))
        )
        if entry.name == "logs" and entry.is_dir() and not entry.is_symlink():
            nothing = all(inner.name.removeprefix(".").startswith("command.txt") for inner in entry.iterdir())
        if not nothing:
            names.append(entry.name)
    return names


def prepare(
    out: str | Path,
    *,
    resume: bool = False,
    again: bool = False,
    mark: str = "config.yaml",
    look: bool = False,
) -> Path:
    """Makes the folder of a run, or finds it as it should be.

    Args:
        resume: it may hold a run already, which is gone on with.
        again: it may hold a run already, which is removed (the demo is a thing to try twice).
        mark: the file by which a folder is known as one that the command made.
        look: remove nothing yet.

    Raises:
        UserError: it cannot be made or written, holds what this run did not write, or a link.
    """
    folder = Path(out)
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"out={out} is a file; choose a folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        inside = _content(folder)
    except OSError as error:
        reason = FAULTS.get(error.errno or 0) or (error.strerror or str(error)).lower()
        raise UserError(f"cannot write in out={out}: {reason}; choose another out") from error
    if not inside:
        return folder
    if resume:
        if mark not in inside:
            raise UserError(f"there is nothing to resume in out={out}: it is not empty and has no {mark}")
        refuse_links(folder, WRITTEN)
    elif again and mark in inside and set(inside) <= set(WRITTEN):
        if not look:
            _empty(folder)
    else:
        mend = "resume=true goes on with it" if mark in inside else "it holds other files"
        raise UserError(f"out={out} is not empty ({mend}); choose another out")
    return folder


def inside(folder: Path, name: Path) -> Path:
    """The place `name` in a folder, for writing or deleting.

    Raises:
        UserError: it leads out of the folder, by its name or by a link on the way.
    """
    place = folder / name
    leads_out = name.is_absolute() or ".." in name.parts or not name.parts
    if leads_out or place.resolve() != folder.resolve() / name:
        raise UserError(f"'{name}' leads out of '{folder}'; nothing is written or deleted there")
    return place


def _empty(folder: Path) -> None:
    for name in WRITTEN:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
