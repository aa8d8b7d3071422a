"""What a reader of the figures must know before believing them, said from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnidistill.evaluation.gap import worse

HALF = 0.5
"""Share of the way from its fewest steps to real data that a trained teacher covers."""


def caveats(
    primary: Mapping[str, str],
    teacher: Sequence[Mapping[str, Any]],
    student: Sequence[Mapping[str, Any]],
    floor: Mapping[str, float],
    given: Mapping[str, Any] | None,
) -> list[str]:
    """One line each: a teacher that more steps do not help or that stays far from real data, models that make their
    inputs worse.

    Args:
        teacher, student: points of metrics.json, fewest steps first, with `resampled`.
        given: the inputs themselves as such a point, where there are any.
    """
    name, said = primary["name"], []
    if len(teacher) > 1:
        first, full = teacher[0], teacher[-1]
        counts = f"{full['steps']} steps"
        known = first.get("resampled") is not None and full.get("resampled") is not None
        if known and not worse(primary, first, full):
            said.append(
                f"The teacher at {counts} is no better than at {first['steps']}, within the interval of {name}: "
                "more steps do not help it, as of a teacher that has not learned."
            )
        elif name in floor:
            few, best, real = first["metrics"][name], full["metrics"][name], floor[name]
            covered = (few - best) / (few - real) if few != real else 1.0
            if 0.0 <= covered < HALF:
                said.append(
                    f"The teacher at {counts} covers only {100 * covered:.0f} % of the way in {name} from its "
                    f"{first['steps']} to real data: it is far from trained, and so is what it teaches."
                )
    if given is not None:
        for who, points in (("teacher", teacher[-1:]), ("student", student)):
            for point in points:
                if worse(primary, point, given):
                    count = f"{point['steps']} step" + ("s" if point["steps"] > 1 else "")
                    said.append(f"The {who} at {count} makes the inputs worse: {name} beyond the interval.")
    return said
