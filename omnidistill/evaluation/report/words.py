"""The result in words, and as plain as the figures are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnidistill.evaluation.table import gap_text, number


def plural(steps: int) -> str:
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def headline(document: Mapping[str, Any]) -> list[str]:
    """One sentence for each step count of the student, fewest steps first."""
    if not document["student"]:
        return ["No student was evaluated in this run."]
    return [_sentence(document, point) for point in sorted(document["student"], key=lambda p: p["steps"])]


def _sentence(document: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    name, k = document["primary"]["name"], point["steps"]
    teacher = {p["steps"]: p["metrics"][name] for p in document["teacher"]}
    full, value = max(teacher), point["metrics"][name]
    gap = document["gap_closed"].get(str(k))
    at = f"{plural(k).capitalize()}"
    figures = f"{name} {number(value)}; the teacher has {number(teacher[k])} at {plural(k)}"
    if k != full:
        figures += f" and {number(teacher[full])} at {full}"
    if gap is None:
        return f"{at}: there is no gap to close, for the teacher is no worse here than at {plural(full)} ({figures})."
    percent = gap_text(document, k)
    if gap <= 0:
        return f"{at}: the student is no better than the teacher at {plural(k)} ({percent} of the gap; {figures})."
    if gap > 100:
        return f"{at}: the student goes beyond the full teacher on this metric ({percent} of the gap; {figures})."
    return f"{at}: the student closes {percent} of the gap between {plural(k)} and {full} of the teacher ({figures})."


def duration(seconds: float) -> str:
    """Seconds as people say them, e.g. "48 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
