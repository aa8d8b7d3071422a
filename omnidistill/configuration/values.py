"""What a value may be: checks that give it back as it is kept, or say in one line what is possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from omnidistill.errors import UserError, unknown

Check = Callable[[str, Any], Any]
"""Takes the key and its value, returns the value as it is kept, or raises `UserError`."""


def anything(key: str, value: Any) -> Any:
    """Whatever it is; somebody else checks it."""
    return value


def number(
    low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False
) -> Check:
    """A finite number of at least `low` (greater, if `above`) and at most `high` (less, if `below`)."""
    lower = f"above {low:g}" if above else f"of at least {low:g}"
    upper = f"below {high:g}" if below else f"of at most {high:g}"
    limits = " and ".join(w for w, end in ((lower, low), (upper, high)) if math.isfinite(end))

    def check(key: str, value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
        if not good or value < low or value > high or (above and value == low) or (below and value == high):
            raise UserError(f"{key} must be a number {limits}".rstrip() + f", got {shown(value)}")
        return value

    return check


def whole(low: int, high: int = 1 << 53) -> Check:
    """A whole number of at least `low`, and at most `high`, which by default all floats can tell apart; 1e4 is one."""

    def check(key: str, value: Any) -> int:
        good = isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
        if not good or value != int(value) or value < low:
            raise UserError(f"{key} must be a whole number of at least {low}, got {shown(value)}")
        if value > high:
            raise UserError(f"{key} must be at most {high}, got {shown(value)}")
        return int(value)

    return check


def one_of(*names: str) -> Check:
    """One of these words."""

    def check(key: str, value: Any) -> str:
        if value not in names:
            raise UserError(f"{key} must be one of {', '.join(names)}, got {shown(value)}")
        return value

    return check


def flag(key: str, value: Any) -> bool:
    """True or false, no word or number that could mean either."""
    if not isinstance(value, bool):
        raise UserError(f"{key} must be true or false, got {shown(value)}")
    return value


def text(key: str, value: Any) -> str:
    """A text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{key} must be a text, got {shown(value)}")
    return value


def optional(check: Check) -> Check:
    """None, or what `check` lets through."""
    return lambda key, value: None if value is None else check(key, value)


def several(check: Check, count: int | None = None, *, least: int = 0) -> Check:
    """A list, each item checked; a single value is a list of one."""

    def apply(key: str, value: Any) -> list[Any]:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if (count is not None and len(items) != count) or len(items) < least:
            wanted = f"{count}" if count is not None else f"at least {least}"
            raise UserError(f"{key} must be a list of {wanted}, got {shown(value)}")
        return [check(f"{key}[{i}]" if len(items) > 1 else key, item) for i, item in enumerate(items)]

    return apply


def by_name(check: Check, what: str) -> Check:
    """A section of names that the user chooses, each value checked."""

    def apply(key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise UserError(f"{key} is a section of {what}, got {shown(value)}")
        return {name: check(f"{key}.{name}", item) for name, item in value.items()}

    return apply


def options(key: str, value: Any) -> dict[str, Any]:
    """Options of something that says itself which it has."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key} is a section of options by name, or null; got {shown(value)}")
    return dict(value)


def section(parts: Mapping[str, Check], example: str, *needed: str) -> Check:
    """A section of some of these keys, each value checked, those `needed` among them."""

    def apply(key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not {*needed} <= {*value}:
            raise UserError(f"{key} must be {example} or null, got {shown(value)}")
        if strange := [name for name in value if name not in parts]:
            raise unknown(f"key of {key}", strange[0], parts)
        return {name: parts[name](f"{key}.{name}", item) for name, item in value.items()}

    return apply


def shown(value: Any) -> str:
    """A value as a file of YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
