"""metrics.json, schema 1: what a run measured. Written whole or not at all, and refused when it is not one."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.curve import Point
from omnidistill.evaluation.gap import gaps_closed
from omnidistill.tasks import Task

SCHEMA = 1
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
POINT: dict[str, type | tuple[type, ...]] = {
    "steps": int,
    "nfe": int,
    "metrics": dict,
    "seconds_per_sample": (int, float),
}
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
) -> dict[str, Any]:
    """The document of one run, gaps closed worked out from its points.

    Args:
        training: `{"student_updates", "seconds", "samples_per_second", "peak_memory_mb", "calls": {role: n}}`.
    """
    primary = {"name": task.primary.name, "better": task.primary.better}
    teachers = [point.record() for point in sorted(teacher, key=lambda point: point.steps)]
    students = [point.record() for point in sorted(student, key=lambda point: point.steps)]
    return {
        "schema": SCHEMA,
        "task": task.name,
        "recipe": recipe,
        "seed": seed,
        "primary": primary,
        "floor": dict(floor),
        "teacher": teachers,
        "student": students,
        "gap_closed": gaps_closed(primary, teachers, students),
        "training": dict(training),
        "environment": dict(environment),
    }


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
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise UserError(f"no {NAME} at {path}; a run of `omnidistill distill` writes one") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # JSON and UTF-8 errors are both ValueErrors
        first = str(error).splitlines()[0]
        raise UserError(
            f"{path} is truncated or no JSON ({first}); run `omnidistill evaluate` again"
        ) from error
    wrong = fault(document)
    if wrong:
        raise UserError(f"{path} is no {NAME} of schema {SCHEMA}: {wrong}")
    return dict(document)


def fault(document: Any) -> str | None:
    """What keeps `document` from being schema 1, in a few words; None where nothing does."""
    if not isinstance(document, Mapping):
        return f"expected an object, got {type(document).__name__}"
    if document.get("schema") != SCHEMA:
        return f"schema is {document.get('schema')!r}"
    wrong = _fields(document, KEYS, "")
    if wrong:
        return wrong
    primary = document["primary"]
    if not isinstance(primary.get("name"), str) or primary.get("better") not in ("lower", "higher"):
        return f"primary is {primary}, expected a name and better lower or higher"
    for model in ("teacher", "student"):
        for index, point in enumerate(document[model]):
            where = f"{model}[{index}]."
            wrong = _fields(point, POINT, where) or _numbers(point["metrics"], f"{where}metrics")
            if wrong is None and primary["name"] not in point["metrics"]:
                wrong = f"{where}metrics lacks the primary '{primary['name']}'"
            if wrong:
                return wrong
    lacking = [key for key in TRAINING if key not in document["training"]]
    if lacking:
        return f"training lacks {', '.join(lacking)}"
    gaps = {key: value for key, value in document["gap_closed"].items() if value is not None}
    return _numbers(gaps, "gap_closed") or _numbers(document["floor"], "floor")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file beside its target and renames it, making the folder; a `UserError` where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(name, 0o644)  # mkstemp's files are the owner's alone; results are for sharing
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _file(target: str | Path) -> Path:
    path = Path(target)
    return path if path.suffix == ".json" else path / NAME


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no finite number")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(values: Mapping[str, Any], where: str) -> str | None:
    return next(
        (f"{where}['{key}'] is {value!r}" for key, value in values.items() if not _number(value)), None
    )


def _fields(given: Any, wanted: Mapping[str, type | tuple[type, ...]], where: str) -> str | None:
    if not isinstance(given, Mapping):
        return f"{where.rstrip('.')} is {type(given).__name__}, expected an object"
    for key, kind in wanted.items():
        if key not in given:
            return f"{where}{key} is missing"
        if not isinstance(given[key], kind) or isinstance(given[key], bool):
            return f"{where}{key} is {given[key]!r:.40}"
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
