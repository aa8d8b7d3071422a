"""Samples inside the page: pictures, players and texts as data URIs, whatever the modality writes."""

from __future__ import annotations

import base64
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
Key = tuple[str, int | None]


@dataclass(frozen=True)
class File:
    """One file as the page shows it.

    Attributes:
        kind: image, audio, video or other.
        label: what it is, for those who cannot see it.
        name: written above a player, for nobody can tell sounds apart by looking.
        text: the beginning of a text; None for what is none.
        file: its name as a download; empty for what is shown or played.
    """

    kind: str
    uri: str
    label: str
    name: str = ""
    text: str | None = None
    file: str = ""


@dataclass(frozen=True)
class Figure:
    """The files of one model at one step count; a picture leads to `link` where there is one."""

    model: str
    caption: str
    files: list[File]
    link: str = ""


def samples_of(run: Run) -> dict[str, Any]:
    """Real data, what the models were given, the full teacher, then teacher and student at each of the student's step
    counts, side by side."""
    figures, room, left_out = [], WHOLE, 0
    for key, caption in _order(run):
        files, kinds = [], dict[str, int]()
        for path in run.samples.get(key, []):
            kinds[path.suffix] = kinds.get(path.suffix, 0) + 1
            size = path.stat().st_size
            if kinds[path.suffix] > EACH or size > min(LARGEST, room):
                left_out += 1
                continue
            room -= size
            files.append(embedded(path, caption))
        if kinds:
            figures.append(Figure(key[0], caption, files))
    note = "Teacher and student start from the same noise and conditions."
    if left_out:
        note += f" {left_out} file{'s are' if left_out > 1 else ' is'} not shown. {CAPS}"
    # Pictures still compare side by side on a telephone; players and texts want its whole width.
    pictures = all(path.suffix in (".png", ".csv") for paths in run.samples.values() for path in paths)
    return {"figures": figures, "samples_note": note, "pictures": pictures}


def _order(run: Run) -> list[tuple[Key, str]]:
    student = sorted({p["steps"] for p in run.metrics["student"]})
    full = max((p["steps"] for p in run.metrics["teacher"]), default=None)
    keys: dict[Key, str] = {("real", None): "real data", ("input", None): "input"}
    if full is not None:
        keys["teacher", full] = f"teacher, {plural(full)} (full)"
    for k in student:
        keys.setdefault(("teacher", k), f"teacher, {plural(k)}")
        keys["student", k] = f"student, {plural(k)}"
    for model, steps in sorted((m, s) for m, s in run.samples if s is not None):
        keys.setdefault((model, steps), f"{model}, {plural(steps)}")
    return list(keys.items())


def item_of(path: Path) -> str:
    """Which of its model's files it is: "3 cleaned" of student_1_3_cleaned.wav; files are counted from 0, and the first
    often has no number."""
    parts = path.stem.split("_")
    rest = parts[2:] if parts[0] in ("teacher", "student") else parts[1:]
    number = next((part for part in rest if part.isdecimal()), "0")
    return " ".join((f"item {number}", *(part for part in rest if not part.isdecimal())))


def kind_of(path: Path) -> str:
    """The media type by suffix."""
    return TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def embedded(path: Path, caption: str) -> File:
    """One file with its content: to be shown, played or downloaded."""
    media = kind_of(path)
    uri = f"data:{media};base64,{base64.b64encode(path.read_bytes()).decode()}"
    kind = media.split("/")[0]
    if kind == "image":
        return File(kind, uri, caption)
    if kind in ("audio", "video"):
        name = f"{caption} · {item_of(path)}"
        return File(kind, uri, name, name if kind == "audio" else "")
    cut = None
    if path.suffix in (".txt", ".jsonl"):
        text = path.read_text(encoding="utf-8", errors="replace")
        cut = text if len(text) <= EXCERPT else text[:EXCERPT].rsplit("\n", 1)[0] + "\n…"
    return File("other", uri, caption, text=cut, file=path.name)
