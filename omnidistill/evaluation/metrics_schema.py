"""What stands in metrics.json, schema by schema, and what keeps a document from being one.

Beside schema 1, schema 2 has `samples`, `interval` with every point, `gap_interval`, `input`, `shown`, `falls` and
`warnings`; and energy distances are without bias. Schema 1 is still read: what it lacks is empty, and `former` says so.
The student's `transition`, and its points by others (`transitions`), came later and may be missing from either.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

SCHEMA, READ = 2, (1, 2)
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
            if wrong := _point(point, primary["name"], f"{model}[{index}]."):
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
    wrong = _gaps(document["gap_closed"], "gap_closed") or _numbers(document["floor"], "floor")
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


def _point(point: Any, primary: str, where: str) -> str | None:
    wrong = _fields(point, POINT, where) or _numbers(point["metrics"], f"{where}metrics")
    if wrong is None and primary not in point["metrics"]:
        wrong = f"{where}metrics lacks the primary '{primary}'"
    if wrong is None and point["steps"] < 1:
        wrong = f"{where}steps is {point['steps']}"
    return wrong or _ends(point.get("interval"), f"{where}interval")


def _gaps(gaps: Mapping[str, Any], where: str) -> str | None:
    """The same of the gaps closed; None is one that is not known."""
    return _numbers({key: value for key, value in gaps.items() if value is not None}, where)


def _others(given: Any, primary: str) -> str | None:
    """What is wrong with the points by other transitions."""
    if not isinstance(given, Mapping):
        return f"transitions is {given!r:.40}"
    for name, other in given.items():
        where = f"transitions.{name}."
        if wrong := _fields(other, {"points": list, "gap_closed": dict, "falls": list}, where):
            return wrong
        for index, point in enumerate(other["points"]):
            if wrong := _point(point, primary, f"{where}points[{index}]."):
                return wrong
        if wrong := _gaps(other["gap_closed"], f"{where}gap_closed") or _pairs(
            other["falls"], f"{where}falls"
        ):
            return wrong
    return None


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


def _pairs(pairs: list[Any], where: str) -> str | None:
    return None if all(map(_pair, pairs)) else f"{where} is {pairs!r:.40}"


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_number, value))


def _ends(ends: Any, where: str) -> str | None:
    """What is wrong with an interval; None is one of which nothing is known."""
    return None if ends is None or _pair(ends) else f"{where} is {ends!r:.40}"


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < MOST if isinstance(value, int) else math.isfinite(value)


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


def not_finite(value: Any, where: str = "") -> str | None:
    """The place of the first NaN or infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where.lstrip('.')} is {value}"
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    return next((found for key, item in items if (found := not_finite(item, f"{where}.{key}"))), None)
