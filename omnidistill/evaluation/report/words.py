"""The result in words, and as plain as the figures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnidistill.evaluation.table import number, percent, within


def plural(steps: int) -> str:
    """`1 step`, `2 steps`."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def headline(document: Mapping[str, Any]) -> list[str]:
    """One sentence for each step count of the student, fewest steps first, and one on all of them."""
    if not document["student"]:
        return ["No student was evaluated in this run."]
    points = sorted(document["student"], key=lambda p: p["steps"])
    return [*(_sentence(document, point) for point in points), *_order(document, points)]


def _order(document: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether more steps are ever worse; nothing where there is nothing to compare."""
    if len(points) < 2 or not all(point.get("interval") for point in points):
        return []
    name, own = document["primary"]["name"], document.get("transition")
    if not document["falls"]:
        said = [f"More steps never make the student worse in {name} by more than the interval."]
    else:
        said = [f"The student's {name} gets worse {_listed(document['falls'])}, by more than the interval."]
    for other, found in document.get("transitions", {}).items():
        falls = found["falls"]
        how = f"gets worse {_listed(falls)}" if falls else "never gets worse with more steps"
        by = f"Sampled by {other} in place of {own or 'its own transition'}"
        said.append(f"{by}, its {name} {how}, by more than the interval.")
    return said


def _listed(falls: Sequence[Sequence[int]]) -> str:
    return " and ".join(f"from {fewer} to {plural(more)}" for fewer, more in falls)


def _sentence(document: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    name, k = document["primary"]["name"], point["steps"]
    teacher = {p["steps"]: p["metrics"][name] for p in document["teacher"]}
    full, value = max(teacher), within(point["metrics"][name], point.get("interval"))
    gap = document["gap_closed"].get(str(k))
    at = f"{plural(k).capitalize()}"
    figures = f"{name} {value}; the teacher has {number(teacher[k])} at {plural(k)}"
    if k != full:
        figures += f" and {number(teacher[full])} at {full}"
    if gap is None and k == full:
        return f"{at}: there is no gap to close at the full teacher's own steps ({figures})."
    if gap is None:
        return (
            f"{at}: there is no gap to close, for the teacher is no worse here than at {plural(full)}, or by too "
            f"little to tell ({figures})."
        )
    ends = document.get("gap_interval", {}).get(str(k))
    closed = percent(gap)
    if ends is not None:
        figures = f"95 % interval {percent(ends[0])[:-2]} to {percent(ends[1])}; {figures}"
    if gap <= 0:
        return f"{at}: the student is no better than the teacher at {plural(k)} ({closed} of the gap; {figures})."
    if gap > 100:
        return (
            f"{at}: the student goes beyond the full teacher on this metric ({closed} of the gap; {figures})."
        )
    return f"{at}: the student closes {closed} of the gap between {plural(k)} and {full} of the teacher ({figures})."


def duration(seconds: float) -> str:
    """Seconds as people say them, e.g. "48 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
