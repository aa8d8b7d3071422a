"""Which pictures a folder or a table of the user's has, and what it says of their classes and their split."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omnidistill.data.folder import Contents, label_name, regular, scan, shown, subfolders
from omnidistill.errors import UserError
from omnidistill.modalities.image.pictures import SUFFIXES

LONGEST_TABLE = 1 << 28  # bytes


class Entry(NamedTuple):
    """One picture: its file, the name of its class, and `train`, `test` or "" where its content decides."""

    file: Path
    label: str
    split: str


class Listing(NamedTuple):
    """The pictures of a folder or table; in `contents` what of it is wrong and what is no picture."""

    entries: list[Entry]
    contents: Contents


def listed(source: Path) -> Listing:
    """The pictures in class folders, or in the rows of a table.

    Raises:
        UserError: there are none, or a class that is on one side alone.
    """
    return _table(source) if source.suffix.lower() == ".csv" else _folders(source)


def _folders(source: Path) -> Listing:
    if not source.is_dir():
        raise UserError(
            f"no pictures at {shown(source)}: give a folder of class folders, idx files, or a .csv of path,label"
        )
    inside = subfolders(source)
    if {folder.name for folder in inside} == {"train", "test"}:
        parts = [_classes(part, part.name) for part in inside]
        entries = [entry for part in parts for entry in part.entries]
        contents = _merged(source, [part.contents for part in parts])
        for label in sorted({entry.label for entry in entries}):
            there = {entry.split for entry in entries if entry.label == label}
            if len(there) == 1:
                raise UserError(
                    f"{source}: class '{label}' is in {there.pop()} alone; it needs pictures in train and test"
                )
    else:
        entries, contents = _classes(source, "")
    if not entries:
        raise UserError(f"{shown(source)} has no class folders with pictures ({', '.join(SUFFIXES)})")
    return Listing(entries, contents)


def anywhere(source: Path) -> Listing:
    """All pictures below a folder; folders called train and test beside one another decide the split."""
    if not source.is_dir():
        raise UserError(f"no pictures at {shown(source)}: give a folder of pictures, or a .csv of path,label")
    inside = subfolders(source)
    splits = [part.name for part in inside] if {part.name for part in inside} == {"train", "test"} else []
    found = scan(source, SUFFIXES, what="pictures")

    def side_of(file: Path) -> str:
        first = file.relative_to(source).parts[0]
        return first if first in splits else ""

    entries = [Entry(file, "", side_of(file)) for file in found.files]
    if not entries:
        raise UserError(f"{shown(source)} has no pictures ({', '.join(SUFFIXES)})")
    return Listing(entries, Contents(source, [], found.wrong, found.strays))


def _classes(folder: Path, split: str) -> Listing:
    found = scan(folder, SUFFIXES, what="pictures")
    entries = [Entry(file, found.label(file), split) for file in found.files]
    loose = [f"{shown(e.file)} lies beside the class folders, not in one" for e in entries if not e.label]
    entries = [entry for entry in entries if entry.label]
    return Listing(entries, Contents(folder, [], found.wrong + (loose if entries else []), found.strays))


def _merged(source: Path, parts: Iterable[Contents]) -> Contents:
    merged = Contents(source)
    for part in parts:
        merged.wrong += part.wrong
        merged.strays += part.strays
    return merged


def _table(source: Path) -> Listing:
    """The rows of a csv file; paths are taken from its folder."""
    try:
        regular(source, LONGEST_TABLE)
        with source.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UserError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the table {shown(source)}: {' '.join(str(error).split())}") from error
    if not rows or not {"path", "label"} <= rows[0].keys():
        found = ",".join(map(str, rows[0])) if rows else "nothing"
        raise UserError(
            f"{source} needs a first line path,label (and, if you like, split) and rows, found {found}"
        )
    entries, contents = [], Contents(source.parent)
    for number, row in enumerate(rows, start=2):
        split = (row.get("split") or "").strip()
        if not row["path"] or not row["label"] or split not in ("", "train", "test"):
            found = ",".join(str(value) for value in row.values())
            raise UserError(
                f"{source}, line {number}: a row is path,label and perhaps split (train or test), got {found}"
            )
        picture = source.parent / row["path"].strip()
        if _there(picture):
            entries.append(Entry(picture, label_name(row["label"].strip()), split))
        else:
            contents.wrong.append(f"{shown(source)}, line {number}: no such file: {shown(picture)}")
    if not entries:
        raise UserError(contents.wrong[0])
    return Listing(entries, contents)


def _there(file: Path) -> bool:
    """Whether there is such a file; a name that no system could hold is of none."""
    try:
        return file.is_file()
    except OSError:
        return False
