"""Files that may come from somebody else, read: a regular file of bounded size, UTF-8, plain values, nothing resolved.

What such a file may name is another matter (see `registry`); this is about what may stand in it at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnidistill.errors import UserError

LARGEST = 64 << 20  # bytes; the page's own metrics of a large sweep are a few MB
DEEPEST = 64


def read_text(path: Path) -> str:
    """
    Raises:
        UserError: no regular file (a pipe would never end), too large, unreadable or not UTF-8.
    """
    try:
        if not path.is_file():
            raise UserError(f"cannot read '{path}': there is no such file")
        if (size := path.stat().st_size) > LARGEST:
            raise UserError(f"cannot read '{path}': {size >> 20} MB are more than {LARGEST >> 20} MB")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read '{path}': it is not UTF-8 ({error.reason})") from error
    except ValueError as error:  # a name with NUL
        raise UserError(f"cannot read {str(path)!r}: {error}") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        UserError: as `read_text`, no JSON, nested deeper than `DEEPEST`, or a text with an interpolation.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError, too, for a number of thousands of digits
        raise UserError(f"cannot read '{path}': no JSON: {_reason(error)}") from error
    check(value, str(path))
    return value


def read_yaml(path: Path) -> Any:
    """The value of a YAML file, numbers read as OmegaConf does; aliases are refused, for they can grow without end.

    Raises:
        UserError: as `read_json`.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    text = read_text(path)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"cannot read '{path}': an alias in line {event.start_mark.line + 1}")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"cannot read '{path}': nested deeper than {DEEPEST}")
        made: Any = OmegaConf.create(text)
        value = OmegaConf.to_container(made, resolve=False) if OmegaConf.is_config(made) else made
    except (
        yaml.YAMLError,
        OmegaConfBaseException,
        ValueError,
        TypeError,
        AssertionError,
        RecursionError,
    ) as error:
        raise UserError(f"cannot read '{path}': no YAML: {_reason(error)}") from error
    check(value, str(path))
    return value


def check(value: Any, where: str) -> None:
    """Refuses nesting deeper than `DEEPEST`, interpolations, since what `${...}` leads to is nobody else's to ask for,
    and halves of characters, which no file and no name can hold."""
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        inside: list[Any] = []
        for item in level:
            if isinstance(item, str) and "${" in item:
                raise UserError(f"{where}: '{item[:80]}' holds an interpolation, which is not resolved here")
            if isinstance(item, str) and any("\ud800" <= letter <= "\udfff" for letter in item):
                raise UserError(f"{where}: '{item[:80]}' holds half a character (a lone surrogate)")
            if isinstance(item, Mapping):
                inside += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                inside += item
        level = inside
        if not level:
            return
    raise UserError(f"{where} is nested deeper than {DEEPEST}")


def _reason(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())
