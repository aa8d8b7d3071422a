"""Options as they come from a command line, checked: every mistake is one line that names the value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from omnidistill.errors import UserError, unknown


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int, at least `least`."""
    try:
        result = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be a whole number, got {value!r}") from error
    if not math.isfinite(result) or result != int(result) or result < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {value}")
    return int(result)


def keywords(name: str, value: Mapping[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    """`value` as a dictionary whose keys are all among `known`; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be a mapping of {', '.join(known)}, got {value!r}")
    for key in value:
        if key not in known:
            raise unknown(f"{name} option", str(key), known)
    return {str(key): item for key, item in value.items()}
