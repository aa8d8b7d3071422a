"""Labelled pictures of the user's own: a folder of class folders, or a table of paths and labels.

    pictures/CLASS/*.png                             split by content
    pictures/train/CLASS/*.png, pictures/test/...    split by the user
    pictures.csv with the columns path,label         split by content; a column `split` (train, test) decides instead

By content: the pictures whose SHA-256 sum, as a number, divides by 6 are held out. So the split depends neither on
names nor on the order of files, stays when pictures are added, and puts copies of one picture on the same side. Where
that leaves a side empty, as among three pictures it may, the one with the smallest (largest) sum goes there.

Labels are numbered in natural order of their names: 1, 2, ..., 10.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from omnidistill.data import captions
from omnidistill.data.folder import Contents, label_name, natural, read_each, regular, scan, shown, subfolders
from omnidistill.errors import UserError, unknown
from omnidistill.modalities.image.data import LabelledImages, scaled
from omnidistill.modalities.image.pictures import LARGEST, SUFFIXES, read_picture

HELD_OUT = 6  # one picture in so many
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


def own_images(
    source: str | Path,
    split: str,
    side: int | tuple[int, int] = 28,
    classes: int | None = None,
    labels: Sequence[str] | None = None,
    on_bad: str = "stop",
    *,
    channels: int = 1,
) -> LabelledImages:
    """The pictures of `own_rows` alone."""
    return own_rows(source, split, side, classes, labels, on_bad, channels=channels)[0]


def own_rows(
    source: str | Path,
    split: str,
    side: int | tuple[int, int] = 28,
    classes: int | None = None,
    labels: Sequence[str] | None = None,
    on_bad: str = "stop",
    *,
    channels: int = 1,
) -> tuple[LabelledImages, list[Path]]:
    """The pictures of `train` or `held_out` in [-1, 1], and their files; labels are places among the names.

    Pictures become grey, transparent ones on black, and are cut to their central square and shrunk to `side`; see
    `read_picture` for sides (h, w) and colours.

    Args:
        classes: how many there have to be; 0 where labels mean nothing, and pictures may lie anywhere.
        labels: the names in the order of their numbers, as a teacher knows them; natural order if not given.
        on_bad: `stop` at a picture that cannot be read, or `skip` it.

    Raises:
        UserError: nothing there, another number of classes than `classes` or other names than `labels`, a split
            without pictures, or a picture that cannot be read or is smaller than `side`.
    """
    source = Path(source).expanduser()
    listing = _list(source) if classes != 0 or source.suffix.lower() == ".csv" else _anywhere(source)
    names = ("",) if classes == 0 else _names(source, listing, classes, labels)
    side_of = _split(listing.entries)
    wanted = [
        entry for entry in listing.entries if side_of[entry] == ("test" if split == "held_out" else "train")
    ]
    if not wanted:
        count = len(listing.entries)
        raise UserError(
            f"{shown(source)} has {count} pictures and none of them in {split}; give more, or split them"
        )
    wrong, pictures = listing.contents.wrong, {entry.file.with_suffix("") for entry in listing.entries}
    strays = [
        f for f in listing.contents.strays if f.suffix != captions.SUFFIX or f.with_suffix("") not in pictures
    ]
    here = (
        Contents(source, [e.file for e in wanted], wrong, strays)
        if split == "train"
        else [e.file for e in wanted]
    )
    read = dict(read_each(here, lambda file: read_picture(file, side, channels), on_bad, what="pictures"))
    kept = [entry for entry in wanted if entry.file in read]
    places = torch.tensor([0 if classes == 0 else names.index(entry.label) for entry in kept])
    pixels = np.stack([read[entry.file] for entry in kept])
    if channels == 1:
        return LabelledImages(scaled(pixels), places), [entry.file for entry in kept]
    coloured = torch.from_numpy(pixels.astype(np.float32) * (2.0 / 255.0) - 1.0)
    return LabelledImages(coloured, places), [entry.file for entry in kept]


def own_labels(source: str | Path) -> tuple[str, ...]:
    """The names of the classes at `source`, in the order of their numbers."""
    source = Path(source).expanduser()
    return _names(source, _list(source), None, None)


def _list(source: Path) -> Listing:
    return _table(source) if source.suffix.lower() == ".csv" else _folders(source)


def _names(
    source: Path, listing: Listing, classes: int | None, labels: Sequence[str] | None
) -> tuple[str, ...]:
    found = sorted({entry.label for entry in listing.entries}, key=natural)
    if labels is not None:
        if foreign := [name for name in found if name not in labels]:
            raise unknown(f"class in {shown(source)}", foreign[0], labels)
        return tuple(labels)
    if classes is not None and len(found) != classes:
        shown_names = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
        raise UserError(
            f"{shown(source)} has {len(found)} classes ({shown_names}), the task {classes}; "
            f"set task.classes={len(found)}"
        )
    return tuple(found)


def _split(entries: Iterable[Entry]) -> dict[Entry, str]:
    """Which side each picture is on, `train` or `test`."""
    sides, sums = {}, {}
    for entry in entries:
        if entry.split:
            sides[entry] = entry.split
            continue
        try:
            regular(entry.file, LARGEST)
            with entry.file.open("rb") as file:
                sums[entry] = int.from_bytes(hashlib.file_digest(file, "sha256").digest())
        except (OSError, UserError):
            sums[entry] = 1  # it will be refused, or skipped, when it is read
    ends = (min(sums.values()), max(sums.values())) if sums else (0, 0)
    held_out = {number for number in sums.values() if number % HELD_OUT == 0}
    if "test" not in sides.values() and not held_out and ends[0] != ends[1]:
        held_out = {ends[0]}
    elif "train" not in sides.values() and len(held_out) > 1 and held_out.issuperset(sums.values()):
        held_out.discard(ends[1])
    return sides | {entry: "test" if number in held_out else "train" for entry, number in sums.items()}


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


def _anywhere(source: Path) -> Listing:
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


def _there(file: Path) -> bool:
    """Whether there is such a file; a name that no system could hold is of none."""
    try:
        return file.is_file()
    except OSError:
        return False


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
