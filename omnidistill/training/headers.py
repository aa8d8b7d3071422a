"""The header of a folder of shards: one file that says what its rows are, and whose digest each of them holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Any, TypeVar

from omnidistill.configuration import received
from omnidistill.data.files import write_text
from omnidistill.errors import UserError

SCHEMA = 1
H = TypeVar("H")


def digest(header: Any) -> str:
    """SHA-256 of all of it, hexadecimal."""
    return hashlib.sha256(json.dumps(asdict(header), sort_keys=True).encode()).hexdigest()


def write(header: Any, file: FilePath) -> None:
    """Writes a header, a dataclass, whole or not at all."""
    write_text(json.dumps({"schema": SCHEMA, **asdict(header)}, indent=1) + "\n", file)


def read(file: FilePath, kind: str, made: Callable[[dict[str, Any]], H]) -> H:
    """What `made` takes from a document, and refuses by any error that a wrong one brings about.

    Args:
        kind: of header, for messages: `of a cache`.

    Raises:
        UserError: no header of this kind, or none of this version.
    """
    document = received.read_json(file)
    try:
        if document.pop("schema") != SCHEMA:
            raise UserError(f"{file} has another schema than {SCHEMA}; it was written by another version")
        return made(document)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{file} is no header {kind} ({error})") from error
