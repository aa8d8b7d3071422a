"""What a key amounts to that a configuration does not have, because it was written before there was such a key."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from omnidistill.configuration import listing
from omnidistill.errors import UserError


def of(key: str, *configurations: Mapping[str, Any]) -> Any:
    """The default of a key, `student.shift` or `task.on_bad`: as the packaged root has it, else that of the component
    whose option it is in one of the configurations; None where there is none.

    Args:
        configurations: plain ones, in which the components are named.
    """
    plain = root()
    for part in key.split("."):
        plain = plain.get(part) if isinstance(plain, Mapping) else None  # type: ignore[assignment]
    if plain is not None:
        return plain
    return next((found for each in configurations if (found := _option(key, each)) is not None), None)


@cache
def root() -> Mapping[str, Any]:
    """The packaged root of a distillation, without a task and a recipe."""
    return {**listing.packaged("common.yaml"), **listing.packaged("config.yaml")}


def _option(key: str, plain: Mapping[str, Any]) -> Any:
    """The default of a component's option in the section that names the component."""
    from omnidistill.configuration.instantiation import parameters_of
    from omnidistill.configuration.targets import resolve

    *sections, name = key.split(".")
    part: Any = plain
    for section in sections:
        part = part.get(section) if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or "_target_" not in part:
        return None
    try:
        parameters = parameters_of(resolve(part["_target_"], plain.get("trust") or ()))
    except (UserError, TypeError, ValueError):
        return None
    default = parameters[name].default if name in parameters else inspect.Parameter.empty
    if default is inspect.Parameter.empty:
        return None
    return list(default) if isinstance(default, tuple) else default
