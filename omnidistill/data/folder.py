"""Folders as people have them: one scanner for the files of every modality, and one way to deal with bad ones.

    found = scan(folder, (".png", ".jpg"))            # .files, .wrong, .strays; nothing has been opened yet
    found.label(file)                                 # the subfolder it lies in, as a label; "" for the folder itself
    read = read_each(found, read_picture, on_bad)     # [(file, result), ...]; a bad file stops, or is named and skipped

Links are followed; one that leads back into a folder above itself is wrong and not entered. Hidden files and what
systems leave behind (`.DS_Store`, `Thumbs.db`, `__MACOSX`, `@eaDir`, ...) are no files of the user's. Suffixes count
in any case. Names are in natural order: 1, 2, ..., 10, not 1, 10, 2. Only regular files are ever opened: a fifo would
wait for a writer for good, a device need not end.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from omnidistill.data.files import expanded
from omnidistill.errors import UserError, unknown

Item = TypeVar("Item")
Result = TypeVar("Result")

ON_BAD = ("stop", "skip")
SYSTEM = (
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "__pycache__",
    "lost+found", "recycler", "$recycle.bin", "system volume information", "@eadir",
    "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
)  # fmt: skip
"""Names, in lower case, that file systems and their browsers leave in folders."""
DEEPEST = 64  # levels of folders; links that branch at every level would otherwise never end
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a fifo"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(slots=True)
class Contents:
    """What a folder holds.

    Attributes:
        folder: where it was looked.
        files: regular files with one of the suffixes, in natural order of their paths.
        wrong: a line for each thing that has such a suffix, or is a folder, and cannot be read.
        strays: files with another suffix, in natural order.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)

    def label(self, file: Path) -> str:
        """The first folder on the way from `folder` to `file`, as `label_name` writes it; "" where there is none."""
        parts = file.relative_to(self.folder).parts
        return label_name(parts[0]) if len(parts) > 1 else ""

    def labels(self) -> tuple[str, ...]:
        """The labels of all files, in natural order."""
        return tuple(sorted({self.label(file) for file in self.files}, key=natural))


def scan(folder: str | Path, suffixes: Sequence[str], *, deep: bool = True, what: str = "files") -> Contents:
    """The files of `folder` whose names end in one of `suffixes` (in lower case, with their dot).

    Args:
        folder: to look in; the path of a single file is its own contents, whatever its suffix.
        deep: whether subfolders are looked through.
        what: plural, for messages: "pictures".

    Raises:
        UserError: there is no such folder, or it cannot be listed.
    """
    folder = expanded(folder)
    try:
        mode = os.stat(folder).st_mode
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"no folder of {what} at {shown(folder)} ({reason})") from error
    if not stat.S_ISDIR(mode):
        regular(folder)
        return Contents(folder.parent, [folder])
    found = Contents(folder)
    _walk(found, folder, (_identity(folder),), tuple(suffixes), deep)
    if (
        len(found.wrong) == 1
        and not found.files
        and found.wrong[0].startswith(f"cannot list {shown(folder)}:")
    ):
        raise UserError(found.wrong[0])
    for paths in (found.files, found.strays):
        paths.sort(key=lambda path: [natural(part) for part in path.relative_to(folder).parts])
    return found


def read_each(
    found: Contents | Iterable[Item],
    read: Callable[[Item], Result],
    on_bad: str = "stop",
    *,
    what: str = "files",
    say: Callable[[str], None] | None = None,
) -> list[tuple[Item, Result]]:
    """Reads every file, with its result; a reader says by `UserError` what is wrong with one.

    Args:
        found: of `scan`, or any items of which `read` makes something.
        on_bad: `stop` raises the first error; `skip` goes on, names each bad file in a line, and counts them.
        what: plural, for messages.
        say: receives the lines for the user; stderr if not given.

    Raises:
        UserError: a file is bad and `on_bad` is `stop`, or no file is left.
    """
    if on_bad not in ON_BAD:
        raise unknown("choice of on_bad", str(on_bad), ON_BAD)
    say = say or _say
    items: list[Item] = found.files if isinstance(found, Contents) else list(found)  # type: ignore[assignment]
    bad = list(found.wrong) if isinstance(found, Contents) else []
    if bad and on_bad == "stop":
        raise UserError(f"{bad[0]}; mend or remove it, or set on_bad=skip")
    kept: list[tuple[Item, Result]] = []
    for item in items:
        try:
            kept.append((item, read(item)))
        except UserError as error:
            line = " ".join(str(error).split())
            if on_bad == "stop":
                raise UserError(f"{line} (on_bad=skip leaves such files out)") from error
            bad.append(line)
    for line in bad:
        say(f"skipped: {line}")
    if bad:
        say(f"{len(bad)} of {len(bad) + len(kept)} {what} skipped")
    if not kept and bad:
        raise UserError(f"none of {len(bad)} {what} could be read; the first: {bad[0]}")
    if isinstance(found, Contents) and found.strays:
        names = ", ".join(shown(path.relative_to(found.folder)) for path in found.strays[:3])
        more = ", ..." if len(found.strays) > 3 else ""
        say(f"{shown(found.folder)}: {len(found.strays)} files are no {what} and left aside: {names}{more}")
    return kept


def regular(path: Path, largest: int | None = None) -> int:
    """The size in bytes of a regular file, looked at before anything opens it.

    Args:
        largest: the most bytes that a reader takes.

    Raises:
        UserError: there is nothing, or a folder, fifo, socket or device, or more bytes than `largest`.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in KINDS if test(status.st_mode)), "something else")
        raise UserError(f"{shown(path)} is {kind}, not a file")
    if largest is not None and status.st_size > largest:
        size, most = (f"{value / 1e6:.4g} MB" for value in (status.st_size, largest))
        raise UserError(f"{shown(path)} has {size}, more than the {most} that are read of such a file")
    return status.st_size


def natural(name: str) -> tuple[object, ...]:
    """A key to sort names by: runs of digits as numbers, letters without their case, ties by the name itself."""
    parts: list[object] = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name))
    for place, part in enumerate(parts):
        assert isinstance(part, str)
        digits = part.lstrip("0")
        parts[place] = (len(digits), digits) if place % 2 else part.casefold()
    return (*parts, (), name)


def label_name(name: str) -> str:
    """A folder's name as a label: composed Unicode, so that one name is one label whichever system wrote it."""
    return unicodedata.normalize("NFC", shown(name))


def shown(path: str | Path) -> str:
    """A path in one line: line ends, control characters and bytes that are no text are written as escapes."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_system(name: str) -> bool:
    """Whether a name is hidden or one that systems leave behind."""
    return name.startswith(".") or name.lower() in SYSTEM


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that are the user's, links to folders among them, in natural order."""
    try:
        inside = [path for path in folder.iterdir() if not is_system(path.name) and path.is_dir()]
    except OSError as error:
        raise UserError(f"cannot list {shown(folder)}: {error.strerror or error}") from error
    return sorted(inside, key=lambda path: natural(path.name))


def _walk(
    found: Contents, folder: Path, above: tuple[tuple[int, int], ...], suffixes: tuple[str, ...], deep: bool
) -> None:
    try:
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not is_system(entry.name)]
    except OSError as error:
        found.wrong.append(f"cannot list {shown(folder)}: {error.strerror or error}")
        return
    for entry in sorted(entries, key=lambda entry: natural(entry.name)):
        path, matches = folder / entry.name, entry.name.lower().endswith(suffixes)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            if matches:
                reason = "is a link to nothing" if entry.is_symlink() else error.strerror
                found.wrong.append(f"{shown(path)}: {reason}")
            continue
        if stat.S_ISDIR(mode):
            if not deep:
                continue
            if (identity := _identity(path)) in above:
                found.wrong.append(f"{shown(path)}: a link that leads back to a folder above it")
            elif len(above) > DEEPEST:
                found.wrong.append(f"{shown(path)}: more than {DEEPEST} folders deep")
            else:
                _walk(found, path, (*above, identity), suffixes, deep)
        elif not stat.S_ISREG(mode):
            if matches:
                kind = next((name for test, name in KINDS if test(mode)), "something else")
                found.wrong.append(f"{shown(path)} is {kind}, not a file")
        else:
            (found.files if matches else found.strays).append(path)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _say(line: str) -> None:
    print(line, file=sys.stderr)
