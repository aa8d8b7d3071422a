"""Gap closed: the one number that compares students across modalities.

    100 * (m(teacher at k) - m(student at k)) / (m(teacher at k) - m(teacher at full))

0 is the teacher run at k steps, 100 the full teacher, above 100 beyond it, below 0 worse than not distilling at all.
The ratio is the same for metrics where higher is better, for both differences change their sign. Where the teacher's
range, the denominator, is small beside its own interval, there is no gap to close: the ratio would be noise over noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omnidistill.errors import UserError
from omnidistill.evaluation.intervals import ENOUGH, LEVEL, Interval, interval

SMALLEST_GAP = 0.01
"""Share of the larger of the two teacher values below which there is no gap to speak of: two evaluations of one model
on a few thousand samples differ by about as much, and the ratio would be noise divided by noise."""
CLEAR = 0.5
"""Share of its own value that the teacher's range must keep in all but one of forty resamples: then the interval of a
gap is not ruled by its denominator. With a symmetric interval the range is at least twice as wide as half of it."""


def gap_closed(better: str, teacher: float, student: float, full: float) -> float | None:
    """
    Args:
        better: "lower" or "higher", the direction of the metric.
        teacher: the metric of the teacher at the student's number of steps k.
        student: the metric of the student at k steps.
        full: the metric of the teacher at its full number of steps.

    Returns:
        Percent; None where the teacher at k steps is not worse than the full teacher by more than `SMALLEST_GAP`,
        which includes k = full: then there is nothing to close.
    """
    if better not in ("lower", "higher"):
        raise UserError(f"a metric is better 'lower' or 'higher', got '{better}'")
    gap = teacher - full if better == "lower" else full - teacher
    if not gap > SMALLEST_GAP * max(abs(teacher), abs(full)):
        return None
    return 100.0 * (teacher - student) / (teacher - full)


def gaps_closed(
    primary: Mapping[str, str], teacher: Sequence[Mapping[str, Any]], student: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[float | None, Interval | None]]:
    """The gap closed at each step count of the student and its interval, keyed by the count as JSON wants it:
    `{"1": (97.2, (96.8, 97.5))}`; (None, None) where there is no gap to close.

    Args:
        primary: `{"name", "better"}`.
        teacher, student: points of metrics.json. The teacher's largest step count is the full one. Where all three
            have `resampled`, their primary metric on the same resamples, the gap has an interval.

    Raises:
        UserError: the teacher was not evaluated at one of the student's step counts.
    """
    at = {point["steps"]: point for point in teacher}
    missing = sorted({point["steps"] for point in student} - set(at))
    if missing:
        raise UserError(
            f"the teacher was not evaluated at {missing} steps, where the student was; evaluate it there too"
        )
    full = at[max(at)] if at else None
    return {str(point["steps"]): _gap(primary, at[point["steps"]], point, full) for point in student}


def _gap(
    primary: Mapping[str, str], teacher: Mapping[str, Any], student: Mapping[str, Any], full: Any
) -> tuple[float | None, Interval | None]:
    if teacher is full:
        return None, None
    points = (teacher, student, full)
    few, learned, best = (point["metrics"][primary["name"]] for point in points)
    value = gap_closed(primary["better"], few, learned, best)
    drawn = [one for point in points if (one := point.get("resampled")) is not None]
    if value is None or len(drawn) < len(points):
        return value, None
    of_few, of_learned, of_best = drawn
    ranges = (of_few - of_best) / (few - best)
    if interval(1.0, ranges) is None:  # too few samples to tell
        return value, None
    if float(torch.quantile(ranges[ranges.isfinite()], 0.025)) < CLEAR:
        return None, None
    return value, interval(value, 100.0 * (of_few - of_learned) / (of_few - of_best))


def falls(primary: Mapping[str, str], points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The step counts `[fewer, more]` between which quality falls beyond the interval of the difference: more steps
    against the best of all fewer. [] where it never does, or where nothing is known of intervals. All pairs of step
    counts share the doubt (Bonferroni), for the best is one chosen afterwards: of students whose
    quality never falls one in ten is still called falling at eight step counts, for 200 resamples tell no less."""
    found, best, pairs = [], None, math.comb(len(points), 2)
    sign = 1.0 if primary["better"] == "lower" else -1.0
    for point in sorted(points, key=lambda point: point["steps"]):
        if best is not None and worse(primary, point, best, pairs):
            found.append([best["steps"], point["steps"]])
        if best is None or sign * (point["metrics"][primary["name"]] - best["metrics"][primary["name"]]) < 0:
            best = point
    return found


def worse(
    primary: Mapping[str, str], point: Mapping[str, Any], than: Mapping[str, Any], comparisons: int = 1
) -> bool:
    """Whether `point` is worse than another by more than the interval of their difference; both on the same
    resamples.

    It has to be worse on the samples themselves and on all but a fortieth of their resamples. That asks for the
    difference's sign alone and so says the same of a distance and of its square. The width of differences would not:
    a root is steep near 0, where good students are, and there the least difference is wider than its own scatter on
    resamples, which lie further off.

    Args:
        comparisons: how many such questions share the doubt.
    """
    sign = 1.0 if primary["better"] == "lower" else -1.0
    if point.get("resampled") is None or than.get("resampled") is None:
        return False
    name = primary["name"]
    if not sign * (point["metrics"][name] - than["metrics"][name]) > 0:
        return False
    differences = sign * (point["resampled"] - than["resampled"])
    differences = differences[differences.isfinite()]
    if len(differences) < ENOUGH:  # too few for a share
        ends = interval(float(differences.mean()), differences)
        return ends is not None and ends[0] > 0
    return float((differences <= 0).double().mean()) <= (1 - LEVEL) / 2 / max(1, comparisons)


def best_gap(document: Mapping[str, Any], most: int = 4) -> tuple[int, float] | None:
    """The step count of at most `most` at which a student closes most of the gap, and how much of it; None where no
    such step count has a gap to close."""
    gaps = {int(steps): value for steps, value in document["gap_closed"].items() if int(steps) <= most}
    return best_of({steps: value for steps, value in gaps.items() if value is not None})


def best_of(gaps: Mapping[int, float]) -> tuple[int, float] | None:
    """The best step count and the gap closed there, see `rank`."""
    return max(gaps.items(), key=rank, default=None)


def rank(student: tuple[int, float]) -> tuple[float, int, float]:
    """Orders (steps, gap closed) by the gap. All that go beyond the full teacher have closed it, and among them fewer
    steps are better: how far beyond says more of how small the teacher's gap was."""
    steps, gap = student
    return min(gap, 100.0), -steps, gap
