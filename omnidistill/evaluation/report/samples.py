"""Samples inside the page: pictures, players and texts as data URIs, whatever the modality writes."""

from __future__ import annotations

import base64
import mimetypes
from html import escape
from pathlib import Path

from omnidistill.evaluation.report.run import Run
from omnidistill.evaluation.report.words import plural

LARGEST = 8 * 2**20  # bytes of one embedded file; a page of hundreds of megabytes opens nowhere
EXCERPT = 1500  # characters of a text that are shown before the download
TYPES = {
    ".jsonl": "application/x-ndjson",
    ".cif": "chemical/x-cif",
    ".pdb": "chemical/x-pdb",
    ".wav": "audio/wav",
}


def samples_section(run: Run) -> str:
    """Real data, the full teacher, then teacher and student at each of the student's step counts, side by side."""
    figures = []
    for (model, steps), caption in _order(run):
        paths = run.samples.get((model, steps), [])
        if paths:
            body = "".join(embedded(path, caption) for path in paths)
            figures.append(
                f'<figure class="{model}"><figcaption>{escape(caption)}</figcaption>{body}</figure>'
            )
    if not figures:
        return ""
    # Pictures still compare side by side on a telephone; players and texts want its whole width.
    pictures = all(path.suffix in (".png", ".csv") for paths in run.samples.values() for path in paths)
    wide = "" if pictures else " wide"
    note = "Teacher and student start from the same noise and conditions."
    grid = f'<div class="samples{wide}">{"".join(figures)}</div>'
    return f'<section><h2>Samples</h2><p class="note">{note}</p>{grid}</section>'


def _order(run: Run) -> list[tuple[tuple[str, int | None], str]]:
    student = sorted({p["steps"] for p in run.metrics["student"]})
    full = max((p["steps"] for p in run.metrics["teacher"]), default=None)
    keys: dict[tuple[str, int | None], str] = {("real", None): "real data"}
    if full is not None:
        keys["teacher", full] = f"teacher, {plural(full)} (full)"
    for k in student:
        keys.setdefault(("teacher", k), f"teacher, {plural(k)}")
        keys["student", k] = f"student, {plural(k)}"
    for model, steps in sorted((m, s) for m, s in run.samples if s is not None):
        keys.setdefault((model, steps), f"{model}, {plural(steps)}")
    return list(keys.items())


def embedded(path: Path, caption: str) -> str:
    """One file as the element that shows or plays it, or as a download."""
    size = path.stat().st_size
    if size > LARGEST:
        return f'<p class="note">{escape(path.name)} ({size / 2**20:.0f} MB) lies in samples/.</p>'
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    uri = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    label = escape(caption, quote=True)
    if kind.startswith("image/"):
        return f'<img src="{uri}" alt="samples: {label}">'
    if kind.startswith("audio/"):
        return f'<audio controls preload="none" src="{uri}" aria-label="{label}"></audio>'
    if kind.startswith("video/"):
        return f'<video controls loop muted playsinline src="{uri}" aria-label="{label}"></video>'
    download = f'<p><a download="{escape(path.name, quote=True)}" href="{uri}">{escape(path.name)}</a></p>'
    if path.suffix in (".txt", ".jsonl"):
        text = path.read_text(encoding="utf-8", errors="replace")
        cut = text if len(text) <= EXCERPT else text[:EXCERPT].rsplit("\n", 1)[0] + "\n…"
        return f"<pre>{escape(cut)}</pre>{download}"
    return download
