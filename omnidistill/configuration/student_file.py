"""What may stand in `student.json` and `teacher.json`, which come with weights from anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omnidistill.configuration import settings, values
from omnidistill.errors import UserError


def _text(key: str, value: Any) -> str:
    return values.text(key, value)


def _section(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key} must be a section of keys, got {value!r:.80}")
    return value


def _whole(key: str, value: Any) -> int:
    if type(value) is not int:  # settings take 1e4 as a whole number: a person may have typed it
        raise UserError(f"{key} must be a whole number, got {value!r:.80}")
    return values.whole(1)(key, value)


CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "task": values.optional(_section),
    "reading": _section,
    "target_time": values.flag,
    "guided": values.flag,
    "own_network": values.flag,
    "translates": values.flag,
    "transition": settings.CHECKS["student.transition"],
    "steps": _whole,
    "random_tokens": settings.CHECKS["student.random_tokens"],
    "guidance": settings.CHECKS["student.guidance"],
    "times": settings.CHECKS["student.times"],
    "shift": settings.CHECKS["student.shift"],
    "gamma": settings.CHECKS["student.gamma"],
    "block": settings.CHECKS["student.block"],
    "sizes": settings.CHECKS["student.sizes"],
    "made_by": _section,
    "adapter": values.optional(_section),
    "inference": values.optional(settings.inference),
    "foreign": values.optional(_section),
    "reading.parameterisation": _text,
    "reading.time_input": _text,
    "reading.sigma_data": values.number(0, above=True),
    "reading.unit_input": values.flag,
    "reading.target_time": values.flag,
    "reading.cells": settings.CHECKS["student.cells"],
    "reading.sigma_init": settings.CHECKS["student.sigma_init"],
}


def find(folder: str | Path, name: str) -> Path:
    """The description `name` in a folder.

    Raises:
        UserError: there is none.
    """
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise UserError(f"no {name}.json in {folder}; give the folder that the command wrote with out=")
    return path


def check(document: Any) -> dict[str, Any]:
    """The description without its schema, each value checked; a key that is not known here holds plain numbers, texts
    or lists of them.

    Raises:
        UserError: the first value that cannot be.
    """
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise UserError("it must be an object")
    for key in ("task", "reading"):
        if key not in document:
            raise UserError(f"{key} is missing")
    document = {key: CHECKS.get(key, _plain)(key, value) for key, value in document.items()}
    for key, value in document["reading"].items():
        CHECKS.get(f"reading.{key}", _plain)(f"reading.{key}", value)
        if key in ("network", "path"):
            raise UserError(f"reading.{key} is not said here")
    if document["task"] is not None and "_target_" not in document["task"]:
        raise UserError("task has no _target_ that says what it is")
    return document


def _plain(key: str, value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str | int | float | None) or (
            isinstance(item, float) and not math.isfinite(item)
        ):
            raise UserError(f"{key} must be numbers or texts, got {value!r:.80}")
    return value
