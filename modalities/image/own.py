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

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnidistill.data import captions
from omnidistill.data.folder import Contents, natural, read_each, regular, shown
from omnidistill.errors import UserError, unknown
from omnidistill.modalities.image.data import LabelledImages, scaled
from omnidistill.modalities.image.listing import Entry, Listing, anywhere, listed
from omnidistill.modalities.image.pictures import LARGEST, read_picture

HELD_OUT = 6  # one picture in so many


def own_images(source: str | Path, split: str, *more: Any, **named: Any) -> LabelledImages:
    """The pictures of `own_rows`, which says what it is given, without their files."""
    return own_rows(source, split, *more, **named)[0]


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
    listing = listed(source) if classes != 0 or source.suffix.lower() == ".csv" else anywhere(source)
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
    return _names(source, listed(source), None, None)


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
