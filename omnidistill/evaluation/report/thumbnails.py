"""A first look at a sweep's samples: what every student makes, beside the full teacher and real data."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from omnidistill.evaluation.report.matrix import Entry
from omnidistill.evaluation.report.run import find_samples
from omnidistill.evaluation.report.samples import Figure, File, embedded, kind_of
from omnidistill.evaluation.report.words import plural

WIDTH = 480  # pixels
SMALLEST = (
    0.5  # of its own size, below which nothing in a picture can be read: then it is its upper left part
)
TALL = 480  # pixels
LINES, SIGNS = 6, 90  # of a text
SOUND = 400_000  # bytes
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
NOTE = (
    f"Pictures are {WIDTH} pixels wide, of large ones the upper left part, and lead to the page of their run, which "
    "has them whole; first lines, first sound."
)


def pictures(folder: Path, done: Sequence[Entry]) -> list[tuple[str, list[Figure]]]:
    """For each task real data, the full teacher, and of each recipe the best few-step student of its first seed."""
    tasks: dict[str, list[Figure]] = {}
    seen = set()
    for entry in done:
        if (entry.task, entry.recipe) in seen:  # in two columns
            continue
        seen.add((entry.task, entry.recipe))
        found = entry.done[0]
        samples = find_samples(found.run)
        metrics = Entry.document(found)
        page = found.run / "report.html"
        link = quote(page.relative_to(folder).as_posix()) if page.is_file() else ""
        shown = tasks.setdefault(entry.task, [])
        if not shown:
            full = max(point["steps"] for point in metrics["teacher"])
            shown += _figure("real", "real data", samples.get(("real", None), []), link)
            shown += _figure("input", "input", samples.get(("input", None), []), link)
            shown += _figure("teacher", f"teacher, {plural(full)}", samples.get(("teacher", full), []), link)
        best = entry.best()
        steps = best[0] if best else min((point["steps"] for point in metrics["student"]), default=0)
        caption = f"{entry.recipe}, {plural(steps)}"
        shown += _figure("student", caption, samples.get(("student", steps), []), link)
    return [(task, shown) for task, shown in tasks.items() if shown]


def _figure(kind: str, caption: str, paths: Sequence[Path], link: str) -> list[Figure]:
    """A list of one figure, or of none where there is nothing to look at."""
    files = [*_look(caption, paths), *_heard(caption, paths)]
    return [Figure(kind, caption, files, link)] if files else []


def _look(caption: str, paths: Sequence[Path]) -> list[File]:
    """The first lines of a text where there is one, for a picture of them would be too small to read; else the first
    picture."""
    written = next((path for path in paths if path.suffix in (".txt", ".jsonl")), None)
    if written:
        with written.open(encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n") for line in islice(file, LINES)]
        cut = [line if len(line) <= SIGNS else line[: SIGNS - 1] + "…" for line in lines]
        return [File("other", "", caption, text="\n".join(cut))]
    picture = next((path for path in paths if path.suffix in PICTURES), None)
    uri = thumbnail(picture) if picture else None
    return [File("image", uri, caption)] if uri else []


def _heard(caption: str, paths: Sequence[Path]) -> list[File]:
    first = next((path for path in paths if kind_of(path).startswith("audio/")), None)
    return [embedded(first, caption)] if first and first.stat().st_size <= SOUND else []


def thumbnail(path: Path, width: int = WIDTH) -> str | None:
    """A picture as a data URI, no wider than `width` and no smaller than half its size: of one that is too large for
    both the upper left part. None for a file that is no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as source:
            picture = source.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    part = (min(picture.width, round(width / SMALLEST)), min(picture.height, round(TALL / SMALLEST)))
    if part != picture.size:
        picture = picture.crop((0, 0, *part))
    if picture.width > width:
        picture = picture.resize(
            (width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS
        )
    made = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        made.append((buffer.tell(), kind, buffer.getvalue()))
    png, jpeg = made
    _, kind, data = png if png[0] <= 1.5 * jpeg[0] else jpeg  # lossless where that costs little
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
