"""metrics.json, schema 2: what a run measured. Written whole or not at all, and refused when it is not one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidistill.configuration import received
from omnidistill.data.files import write_text
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.caveats import caveats
from omnidistill.evaluation.curve import Point
from omnidistill.evaluation.gap import falls, gaps_closed
from omnidistill.evaluation.metrics_schema import SCHEMA, fault, not_finite, upgraded
from omnidistill.tasks import Task

NAME = "metrics.json"


def metrics_document(
    task: Task,
    recipe: str,
    seed: int,
    *,
    teacher: Sequence[Point],
    student: Sequence[Point],
    floor: Mapping[str, float],
    training: Mapping[str, Any],
    environment: Mapping[str, Any],
    samples: int = 0,
    inputs: Point | None = None,
    transition: str = "",
    others: Mapping[str, Sequence[Point]] = {},
) -> dict[str, Any]:
    """The document of one run, gaps closed worked out from its points.

    Args:
        training: `{"student_updates", "seconds", "samples_per_second", "peak_memory_mb", "calls": {role: n}}`.
        samples: that every point was measured on.
        inputs: the inputs themselves, where the task mends them (see `Task.baseline`).
        transition: the student's own, by which `student` was sampled.
        others: points of the same student by other transitions, by their name.
    """
    primary = {"name": task.primary.name, "better": task.primary.better}
    teachers = [_compared(point) for point in sorted(teacher, key=lambda point: point.steps)]
    students = [_compared(point) for point in sorted(student, key=lambda point: point.steps)]
    given = None if inputs is None else _compared(inputs)
    gaps = gaps_closed(primary, teachers, students)
    return {
        "schema": SCHEMA,
        "task": task.name,
        "recipe": recipe,
        "seed": seed,
        "samples": samples,
        "primary": primary,
        "shown": list(task.shown),
        "floor": dict(floor),
        "input": None if given is None else {key: given[key] for key in ("metrics", "interval")},
        "teacher": [point.record() for point in sorted(teacher, key=lambda point: point.steps)],
        "student": [point.record() for point in sorted(student, key=lambda point: point.steps)],
        "gap_closed": {steps: value for steps, (value, _) in gaps.items()},
        "gap_interval": {steps: None if ends is None else list(ends) for steps, (_, ends) in gaps.items()},
        "falls": falls(primary, students),
        "transition": transition,
        "transitions": {name: _other(primary, teachers, students, points) for name, points in others.items()},
        "warnings": [*caveats(primary, teachers, students, floor, given), *training.get("warnings", ())],
        "training": dict(training),
        "environment": dict(environment),
    }


def _other(
    primary: Mapping[str, str], teachers: Any, students: Sequence[Mapping[str, Any]], points: Sequence[Point]
) -> dict[str, Any]:
    """A student by another transition: its points, the gaps they close, and where more steps are worse. One step is the
    same by all of them, so that the student's own stands in where it is not measured again."""
    ordered = sorted(points, key=lambda point: point.steps)
    compared = [_compared(point) for point in ordered]
    first = [point for point in students if point["steps"] == 1 and all(p.steps > 1 for p in ordered)]
    return {
        "points": [point.record() for point in ordered],
        "gap_closed": {k: value for k, (value, _) in gaps_closed(primary, teachers, compared).items()},
        "falls": falls(primary, [*first, *compared]),
    }


def _compared(point: Point) -> dict[str, Any]:
    return {**point.record(), "resampled": point.resampled}


def write_metrics(document: Mapping[str, Any], target: str | Path) -> Path:
    """Writes `document` to `target`, a folder or the file itself, and returns the file.

    A reader never sees half of it: it is written beside the target and renamed.

    Raises:
        RunError: a number is NaN or infinite, or a key of the schema is missing.
        UserError: the folder cannot be written to.
    """
    path = _file(target)
    wrong = not_finite(document) or fault(document)
    if wrong:
        raise RunError(f"{NAME} not written: {wrong}")
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_whole(path, text)
    return path


def read_metrics(source: str | Path) -> dict[str, Any]:
    """The document in `source`, a folder or the file itself.

    Raises:
        UserError: there is none, it is truncated, or it is something else than metrics.json of schema 1.
    """
    path = _file(source)
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file")  # a pipe would never end
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        received.check(document, str(path))
    except FileNotFoundError:
        raise UserError(f"no {NAME} at {path}; a run of `omnidistill distill` writes one") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are both ValueErrors
        first = str(error).splitlines()[0]
        raise UserError(
            f"{path} is truncated or no JSON ({first}); run `omnidistill evaluate` again"
        ) from error
    wrong = fault(document)
    if wrong:
        raise UserError(f"{path} is no {NAME} of schema {SCHEMA}: {wrong}")
    return upgraded(document)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file beside its target and renames it, making the folder; a `UserError` where that fails."""
    try:
        write_text(text, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _file(target: str | Path) -> Path:
    path = Path(target)
    return path if path.suffix == ".json" else path / NAME


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no finite number")
