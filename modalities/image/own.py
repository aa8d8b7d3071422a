"""Labelled pictures of the user's own: a folder of class folders, or a table of paths and labels.

    pictures/CLASS/*.png                             split by content
    pictures/train/CLASS/*.png, pictures/test/...    split by the user
    pictures.csv with the columns path,label         split by content; a column `split` (train, test) decides instead

By content: the pictures whose SHA-256 sum, as a number, divides by 6 are held out. So the split depends neither on
names nor on the order of files, stays when pictures are added, and puts copies of one picture on the same side.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.image.data import LabelledImages, scaled

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
HELD_OUT = 6  # one picture in so many


class Entry(NamedTuple):
    """One picture: its file, the name of its class, and `train`, `test` or "" where its content decides."""

    file: Path
    label: str
    split: str


def own_images(source: str | Path, split: str, side: int = 28, classes: int | None = None) -> LabelledImages:
    """The pictures of `train` or `held_out`, Float[n 1 side side] in [-1, 1]; labels are places in the sorted names.

    Pictures become grey, transparent ones on black, and are cut to their central square and shrunk to `side`.

    Raises:
        UserError: nothing there, another number of classes than `classes`, a split without pictures, or a picture
            that cannot be read or is smaller than `side`.
    """
    source = Path(source)
    entries = _table(source) if source.suffix.lower() == ".csv" else _folders(source)
    names = sorted({entry.label for entry in entries})
    if classes is not None and len(names) != classes:
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise UserError(
            f"{source} has {len(names)} classes ({shown}), the task {classes}; set task.classes={len(names)}"
        )
    wanted = [entry for entry in entries if _side(entry) == ("test" if split == "held_out" else "train")]
    if not wanted:
        raise UserError(
            f"{source} has {len(entries)} pictures and none of them in {split}; give more, or split them"
        )
    pixels = np.stack([read_picture(entry.file, side) for entry in wanted])
    labels = torch.tensor([names.index(entry.label) for entry in wanted])
    return LabelledImages(scaled(pixels), labels)


def read_picture(file: Path, side: int) -> np.ndarray[Any, Any]:
    """uint8 [side side], grey."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise UserError(f"{file} is no picture that Pillow reads") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {file}: {' '.join(str(error).split())}") from error
    if min(picture.size) < side:
        raise UserError(
            f"{file} is {picture.width}x{picture.height} pixels, smaller than {side}x{side}; leave it out or enlarge it"
        )
    if picture.mode.startswith(("I", "F")):
        # Pillow cuts deeper pixels at 255 instead of scaling them.
        deep = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(deep).all():
            raise UserError(f"{file} holds NaN or infinite pixels")
        brightest = 65535.0 if deep.max() > 255.0 else 255.0 if deep.max() > 1.0 else 1.0
        picture = Image.fromarray((deep * (255.0 / brightest)).round().clip(0, 255).astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    grey = ImageOps.fit(picture.convert("L"), (side, side), method=Image.Resampling.BOX)
    return np.asarray(grey)


def _side(entry: Entry) -> str:
    if entry.split:
        return entry.split
    try:
        digest = hashlib.sha256(entry.file.read_bytes()).digest()
    except OSError as error:
        raise UserError(f"cannot read the picture {entry.file}: {error.strerror}") from error
    return "test" if int.from_bytes(digest) % HELD_OUT == 0 else "train"


def _folders(source: Path) -> list[Entry]:
    if not source.is_dir():
        raise UserError(
            f"no pictures at {source}: give a folder of class folders, idx files, or a .csv of path,label"
        )
    inside = _subfolders(source)
    if {folder.name for folder in inside} == {"train", "test"}:
        entries = [entry for part in inside for entry in _classes(part, part.name)]
        for label in sorted({entry.label for entry in entries}):
            there = {entry.split for entry in entries if entry.label == label}
            if len(there) == 1:
                raise UserError(
                    f"{source}: class '{label}' is in {there.pop()} alone; it needs pictures in train and test"
                )
    else:
        entries = _classes(source, "")
    if not entries:
        raise UserError(f"{source} has no class folders with pictures ({', '.join(SUFFIXES)})")
    return entries


def _classes(folder: Path, split: str) -> list[Entry]:
    return [
        Entry(file, label.name, split)
        for label in _subfolders(folder)
        for file in sorted(label.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]


def _subfolders(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _table(source: Path) -> list[Entry]:
    """The rows of a csv file; paths are taken from its folder."""
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the table {source}: {error}") from error
    if not rows or not {"path", "label"} <= rows[0].keys():
        found = ",".join(map(str, rows[0])) if rows else "nothing"
        raise UserError(
            f"{source} needs a first line path,label (and, if you like, split) and rows, found {found}"
        )
    entries = []
    for number, row in enumerate(rows, start=2):
        split = (row.get("split") or "").strip()
        if not row["path"] or not row["label"] or split not in ("", "train", "test"):
            found = ",".join(str(value) for value in row.values())
            raise UserError(
                f"{source}, line {number}: a row is path,label and perhaps split (train or test), got {found}"
            )
        picture = source.parent / row["path"].strip()
        if not picture.is_file():
            raise UserError(f"{source}, line {number}: no such file: {picture}")
        entries.append(Entry(picture, row["label"].strip(), split))
    return entries
