"""Gap closed: the one number that compares students across modalities.

    100 * (m(teacher at k) - m(student at k)) / (m(teacher at k) - m(teacher at full))

0 is the teacher run at k steps, 100 the full teacher, above 100 beyond it, below 0 worse than not distilling at all.
The ratio is the same for metrics where higher is better, for both differences change their sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnidistill.errors import UserError

SMALLEST_GAP = 0.01
"""Share of the larger of the two teacher values below which there is no gap to speak of: two evaluations of one model
on a few thousand samples differ by about as much, and the ratio would be noise divided by noise."""


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
) -> dict[str, float | None]:
    """The gap closed at each step count of the student, keyed by the count as JSON wants it: `{"1": 97.2}`.

    Args:
        primary: `{"name", "better"}`.
        teacher, student: points of metrics.json. The teacher's largest step count is the full one.

    Raises:
        UserError: the teacher was not evaluated at one of the student's step counts.
    """
    name = primary["name"]
    at = {point["steps"]: point["metrics"][name] for point in teacher}
    missing = sorted({point["steps"] for point in student} - set(at))
    if missing:
        raise UserError(
            f"the teacher was not evaluated at {missing} steps, where the student was; evaluate it there too"
        )
    full = max(at, default=0)
    return {
        str(point["steps"]): None
        if point["steps"] == full
        else gap_closed(primary["better"], at[point["steps"]], point["metrics"][name], at[full])
        for point in student
    }


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
