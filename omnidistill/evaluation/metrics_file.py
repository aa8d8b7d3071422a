"""metrics.json, schema 2: what a run measured. Written whole or not at all, and refused when it is not one.

Beside schema 1 it has `samples`, `interval` with every point, `gap_interval`, `input`, `shown`, `falls` and `warnings`;
and energy distances are without bias. Schema 1 is still read: what it lacks is empty, and `former` says so. The
student's `transition`, and its points by others (`transitions`), came later and may be missing from either.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidistill.configuration import received
from omnidistill.data.files import write_text
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.caveats import caveats
from omnidistill.evaluation.curve import Point
from omnidistill.evaluation.gap import falls, gaps_closed
from omnidistill.tasks import Task

SCHEMA, READ = 2, (1, 2)
NAME = "metrics.json"
KEYS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "task": str,
    "recipe": str,
    "seed": int,
    "primary": dict,
    "floor": dict,
    "teacher": list,
    "student": list,
    "gap_closed": dict,
    "training": dict,
    "environment": dict,
}
NEW: dict[str, type | tuple[type, ...]] = {
    "samples": int,
    "shown": list,
    "input": (dict, type(None)),
    "gap_interval": dict,
    "falls": list,
    "warnings": list,
}
"""Keys of schema 2 that schema 1 had not."""
LATER: dict[str, Any] = {
    "samples": 0,
    "shown": [],
    "input": None,
    "gap_interval": {},
    "falls": [],
    "warnings": [],
    "transition": "",
    "transitions": {},
}
"""What a document without them amounts to."""
POINT: dict[str, type | tuple[type, ...]] = {
    "steps": int,
    "nfe": (int, float),
    "metrics": dict,
    "seconds_per_sample": (int, float),
}
MOST = 1 << 63
"""Whole numbers are below: those of counts and seeds."""
TRAINING = ("student_updates", "seconds", "samples_per_second", "peak_memory_mb", "calls")


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
    wrong = _not_finite(document) or fault(document)
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


def upgraded(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of any schema that is read with every key of this one, `schema` as it was."""
    points = {
        model: [{"interval": None, **point} for point in document[model]] for model in ("teacher", "student")
    }
    later = {key: copy.deepcopy(value) for key, value in LATER.items() if key not in document}
    return {**document, **later, **points}


def former(document: Mapping[str, Any]) -> bool:
    """Whether its energy distances are of the former statistic, which reads too high near 0."""
    return bool(document["schema"] < 2)


def fault(document: Any) -> str | None:
    """What keeps `document` from being of a schema that is read, in a few words; None where nothing does."""
    if not isinstance(document, Mapping):
        return f"expected an object, got {type(document).__name__}"
    schema = document.get("schema")
    if isinstance(schema, bool) or schema not in READ:
        return f"schema is {schema!r}"
    wrong = _fields(document, KEYS if schema == 1 else KEYS | NEW, "")
    if wrong:
        return wrong
    primary = document["primary"]
    if not isinstance(primary.get("name"), str) or primary.get("better") not in ("lower", "higher"):
        return f"primary is {primary!r:.80}, expected a name and better lower or higher"
    for model in ("teacher", "student"):
        for index, point in enumerate(document[model]):
            where = f"{model}[{index}]."
            wrong = _fields(point, POINT, where) or _numbers(point["metrics"], f"{where}metrics")
            if wrong is None and primary["name"] not in point["metrics"]:
                wrong = f"{where}metrics lacks the primary '{primary['name']}'"
            if wrong is None and point["steps"] < 1:
                wrong = f"{where}steps is {point['steps']}"
            wrong = wrong or _ends(point.get("interval"), f"{where}interval")
            if wrong:
                return wrong
    known = {point["steps"] for point in document["teacher"]}
    if alone := sorted({point["steps"] for point in document["student"]} - known):
        return f"the student is judged at steps={alone[0]}, the teacher is not"
    if wrong := _others(document.get("transitions", {}), primary["name"]):
        return wrong
    lacking = [key for key in TRAINING if key not in document["training"]]
    if lacking:
        return f"training lacks {', '.join(lacking)}"
    wrong = _fields(
        document["training"], {key: (int, float) for key in TRAINING} | {"calls": dict}, "training."
    )
    if wrong or (wrong := _numbers(document["training"]["calls"], "training.calls")):
        return wrong
    gaps = {key: value for key, value in document["gap_closed"].items() if value is not None}
    wrong = _numbers(gaps, "gap_closed") or _numbers(document["floor"], "floor")
    there = {key: kind for key, kind in NEW.items() if key in document}  # of schema 1 there may be some, too
    return wrong or _fields(document, there, "") or _later({**LATER, **document})


def _later(document: Mapping[str, Any]) -> str | None:
    """The same of what schema 1 had not."""
    for steps, ends in document["gap_interval"].items():
        if wrong := _ends(ends, f"gap_interval['{steps}']"):
            return wrong
    if not all(isinstance(name, str) for name in (*document["shown"], *document["warnings"])):
        return "shown and warnings are lists of text"
    if wrong := _pairs(document["falls"], "falls"):
        return wrong
    given = document["input"]
    if given is None:
        return None
    wrong = _fields(given, {"metrics": dict}, "input.") or _numbers(given["metrics"], "input.metrics")
    return wrong or _ends(given.get("interval"), "input.interval")


def _others(given: Any, primary: str) -> str | None:
    """What is wrong with the points by other transitions."""
    if not isinstance(given, Mapping):
        return f"transitions is {given!r:.40}"
    for name, other in given.items():
        where = f"transitions.{name}."
        if wrong := _fields(other, {"points": list, "gap_closed": dict, "falls": list}, where):
            return wrong
        for index, point in enumerate(other["points"]):
            place = f"{where}points[{index}]."
            wrong = _fields(point, POINT, place) or _numbers(point["metrics"], f"{place}metrics")
            if wrong is None and primary not in point["metrics"]:
                wrong = f"{place}metrics lacks the primary '{primary}'"
            if wrong := wrong or _ends(point.get("interval"), f"{place}interval"):
                return wrong
        gaps = {key: value for key, value in other["gap_closed"].items() if value is not None}
        if wrong := _numbers(gaps, f"{where}gap_closed") or _pairs(other["falls"], f"{where}falls"):
            return wrong
    return None


def _pairs(pairs: list[Any], where: str) -> str | None:
    right = all(isinstance(pair, list) and len(pair) == 2 and all(map(_number, pair)) for pair in pairs)
    return None if right else f"{where} is {pairs!r:.40}"


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


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < MOST if isinstance(value, int) else math.isfinite(value)


def _ends(ends: Any, where: str) -> str | None:
    """What is wrong with an interval; None is one of which nothing is known."""
    right = ends is None or (isinstance(ends, list) and len(ends) == 2 and all(map(_number, ends)))
    return None if right else f"{where} is {ends!r:.40}"


def _numbers(values: Mapping[str, Any], where: str) -> str | None:
    return next(
        (f"{where}['{key}'] is {_short(value)}" for key, value in values.items() if not _number(value)), None
    )


def _short(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # a whole number of thousands of digits
        return "a number without end"


def _fields(given: Any, wanted: Mapping[str, type | tuple[type, ...]], where: str) -> str | None:
    if not isinstance(given, Mapping):
        return f"{where.rstrip('.')} is {type(given).__name__}, expected an object"
    for key, kind in wanted.items():
        if key not in given:
            return f"{where}{key} is missing"
        value = given[key]
        if not isinstance(value, kind) or (isinstance(value, int | float) and not _number(value)):
            return f"{where}{key} is {_short(value)}"
    return None


def _not_finite(value: Any, where: str = "") -> str | None:
    """The place of the first NaN or infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where.lstrip('.')} is {value}"
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    return next((found for key, item in items if (found := _not_finite(item, f"{where}.{key}"))), None)
