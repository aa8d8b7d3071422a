"""Samples inside the page: pictures, players and texts as data URIs, whatever the modality writes."""

from __future__ import annotations

import base64
import mimetypes
from html import escape
from pathlib import Path

from omnidistill.evaluation.report.run import Run
from omnidistill.evaluation.report.words import plural

LARGEST = 8 * 2**20  # bytes of one embedded file
WHOLE = 40 * 2**20  # bytes of all of them: a page of hundreds of megabytes opens nowhere
EACH = 6  # files of one kind in one figure
CAPS = (
    f"The page has at most {EACH} files of a kind for each model, none above {LARGEST >> 20} MB and {WHOLE >> 20} MB "
    "in all; the others lie in samples/."
)
EXCERPT = 1500  # characters of a text that are shown before the download
TYPES = {
    ".jsonl": "application/x-ndjson",
    ".cif": "chemical/x-cif",
    ".pdb": "chemical/x-pdb",
    ".wav": "audio/wav",
}


def samples_section(run: Run) -> str:
    """Real data, the full teacher, then teacher and student at each of the student's step counts, side by side."""
    figures, room, left_out = [], WHOLE, 0
    for (model, steps), caption in _order(run):
        body, kinds = "", dict[str, int]()
        for path in run.samples.get((model, steps), []):
            kinds[path.suffix] = kinds.get(path.suffix, 0) + 1
            size = path.stat().st_size
            if kinds[path.suffix] > EACH or size > min(LARGEST, room):
                left_out += 1
                continue
            room -= size
            body += _named(path) + embedded(path, caption)
        if kinds:
            figures.append(
                f'<figure class="{model}"><figcaption>{escape(caption)}</figcaption>{body}</figure>'
            )
    if not figures:
        return ""
    # Pictures still compare side by side on a telephone; players and texts want its whole width.
    pictures = all(path.suffix in (".png", ".csv") for paths in run.samples.values() for path in paths)
    wide = "" if pictures else " wide"
    note = "Teacher and student start from the same noise and conditions."
    if left_out:
        note += f" {left_out} file{'s are' if left_out > 1 else ' is'} not shown. {CAPS}"
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


def _named(path: Path) -> str:
    """The file's name above a player: of several in one figure nobody could tell which is which."""
    return f'<p class="note">{escape(path.stem)}</p>' if kind_of(path).startswith("audio/") else ""


def kind_of(path: Path) -> str:
    """The media type by suffix."""
    return TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def embedded(path: Path, caption: str) -> str:
    """One file as the element that shows or plays it, or as a download."""
    kind = kind_of(path)
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
