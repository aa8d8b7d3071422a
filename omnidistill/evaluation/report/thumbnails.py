"""Small pictures of a sweep's samples: what every student makes, beside the full teacher and real data."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from omnidistill.evaluation.report.matrix import Entry
from omnidistill.evaluation.report.run import find_samples
from omnidistill.evaluation.report.words import plural

WIDTH = 420  # pixels
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
    note = f"Scaled down to {WIDTH} pixels; the pages of the runs have them whole, with sounds and films."
    return f'<section><h2>Samples</h2><p class="note">{note}</p>{rows}</section>'


def _figure(kind: str, caption: str, paths: Sequence[Path]) -> list[str]:
    """A list of one figure, or of none where there is no picture."""
    picture = next((path for path in paths if path.suffix in PICTURES), None)
    uri = thumbnail(picture) if picture else None
    if uri is None:
        return []
    label = escape(caption, quote=True)
    image = f'<img src="{uri}" alt="samples: {label}">'
    return [f'<figure class="{kind}"><figcaption>{escape(caption)}</figcaption>{image}</figure>']


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
