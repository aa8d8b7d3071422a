"""Where things lie in a folder that diffusers' `save_pretrained` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnidistill.configuration import received
from omnidistill.errors import UserError

PARTS = ("", "unet", "transformer")
"""Where a model lies in the folder of a model or of a pipeline."""


def part_of(folder: Path) -> Path | None:
    """The folder of the model in that of a model or of a pipeline; None where there is none of diffusers."""
    for place in (folder / part for part in PARTS):
        if (place / "config.json").is_file() and isinstance(
            section(place / "config.json").get("_class_name"), str
        ):
            return place
    return None


def section(file: Path) -> Mapping[str, Any]:
    """The keys of a file.

    Raises:
        UserError: it holds something else.
    """
    value = received.read_json(file)
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no section of keys")
    return value
