"""A first look at a sweep's samples: what every student makes, beside the full teacher and real data."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import islice
from pathlib import Path

from omnidistill.evaluation.report.matrix import Entry
from omnidistill.evaluation.report.run import find_samples
from omnidistill.evaluation.report.samples import embedded, kind_of
from omnidistill.evaluation.report.words import plural

WIDTH = 420  # pixels
LINES, SIGNS = 6, 90  # of a text
SOUND = 400_000  # bytes
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


def pictures_section(done: Sequence[Entry]) -> str:
    """For each task real data, the full teacher, and of each recipe the best few-step student of its first seed."""
    tasks: dict[str, list[str]] = {}
    seen = set()
    for entry in done:
        if (entry.task, entry.recipe) in seen:  # in two columns
            continue
        seen.add((entry.task, entry.recipe))
        found = entry.done[0]
        samples = find_samples(found.run)
        metrics = Entry.document(found)
        shown = tasks.setdefault(entry.task, [])
        if not shown:
            full = max(point["steps"] for point in metrics["teacher"])
            shown += _figure("real", "real data", samples.get(("real", None), []))
            shown += _figure("teacher", f"teacher, {plural(full)}", samples.get(("teacher", full), []))
        best = entry.best()
        steps = best[0] if best else min((point["steps"] for point in metrics["student"]), default=0)
        shown += _figure("student", f"{entry.recipe}, {plural(steps)}", samples.get(("student", steps), []))
    rows = "".join(
        f'<h3 class="row">{escape(task)}</h3><div class="samples thumbs">{"".join(shown)}</div>'
        for task, shown in tasks.items()
        if shown
    )
    if not rows:
        return ""
    note = f"Pictures scaled down to {WIDTH} pixels, first lines, first sound; the runs' own pages have them whole."
    return f'<section><h2>Samples</h2><p class="note">{note}</p>{rows}</section>'


def _figure(kind: str, caption: str, paths: Sequence[Path]) -> list[str]:
    """A list of one figure, or of none where there is nothing to look at."""
    body = _look(caption, paths) + _sound(caption, paths)
    if not body:
        return []
    return [f'<figure class="{kind}"><figcaption>{escape(caption)}</figcaption>{body}</figure>']


def _look(caption: str, paths: Sequence[Path]) -> str:
    """The first lines of a text where there is one, for a picture of them would be too small to read; else the first
    picture."""
    written = next((path for path in paths if path.suffix in (".txt", ".jsonl")), None)
    if written:
        with written.open(encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n") for line in islice(file, LINES)]
        cut = [line if len(line) <= SIGNS else line[: SIGNS - 1] + "…" for line in lines]
        return f"<pre>{escape(chr(10).join(cut))}</pre>"
    picture = next((path for path in paths if path.suffix in PICTURES), None)
    uri = thumbnail(picture) if picture else None
    return f'<img src="{uri}" alt="samples: {escape(caption, quote=True)}">' if uri else ""


def _sound(caption: str, paths: Sequence[Path]) -> str:
    first = next((path for path in paths if kind_of(path).startswith("audio/")), None)
    return embedded(first, caption) if first and first.stat().st_size <= SOUND else ""


def thumbnail(path: Path, width: int = WIDTH) -> str | None:
    """A picture as a data URI, no wider than `width`; None for a file that is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as source:
            picture = source.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
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
