"""The folder that a command makes: there, writable, and not somebody else's."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

from omnidistill.errors import UserError

WRITTEN = (
    *("config.yaml", "metrics.json", "report.html", "samples", "checkpoints", "logs"),
    *(f"{model}.{suffix}" for model in ("student", "teacher") for suffix in ("safetensors", "json")),
)
"""Everything that `distill` and `train` write in their folder."""

FAULTS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}
"""Faults of the place, not of the run: the user can mend them by another `out` or a free disk."""


def prepare(out: str | Path, *, resume: bool = False, again: bool = False, mark: str = "config.yaml") -> Path:
    """Makes the folder of a run, or finds it as it should be.

    Args:
        resume: it may hold a run already, which is gone on with.
        again: it may hold a run already, which is removed (the demo is a thing to try twice).
        mark: the file by which a folder is known as one that the command made.

    Raises:
        UserError: it cannot be made or written, or holds what this run did not write.
    """
    folder = Path(out)
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"out={out} is a file; choose a folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        inside = sorted(entry.name for entry in folder.iterdir())
        if inside == ["logs"] and [entry.name for entry in (folder / "logs").iterdir()] == ["command.txt"]:
            inside = []  # a command that was refused before its run began
    except OSError as error:
        reason = FAULTS.get(error.errno or 0) or (error.strerror or str(error)).lower()
        raise UserError(f"cannot write in out={out}: {reason}; choose another out") from error
    if not inside:
        return folder
    if resume:
        if mark not in inside:
            raise UserError(f"there is nothing to resume in out={out}: it is not empty and has no {mark}")
    elif again and mark in inside and set(inside) <= set(WRITTEN):
        _empty(folder)
    else:
        mend = "resume=true goes on with it" if mark in inside else "it holds other files"
        raise UserError(f"out={out} is not empty ({mend}); choose another out")
    return folder


def _empty(folder: Path) -> None:
    for name in WRITTEN:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


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
