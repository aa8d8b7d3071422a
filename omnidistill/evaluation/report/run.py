"""A run's folder, read: metrics.json, config.yaml, logs/ and samples/."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidistill.errors import UserError
from omnidistill.evaluation.metrics_file import read_metrics

SAMPLE = re.compile(r"(?:(?P<real>real|input)|(?P<model>teacher|student)_(?P<steps>\d+))(?:[_.-].*)?")


@dataclass(frozen=True)
class Scalar:
    """One column of the log, its empty cells left out. `lost` counts the values that were not finite."""

    name: str
    x: list[float]
    y: list[float]
    lost: int = 0


@dataclass(frozen=True)
class Run:
    """What the page shows of one run.

    Attributes:
        config: config.yaml as a mapping; empty where there is none.
        config_text: config.yaml as it was written.
        scalars: the columns of logs/metrics.csv against student updates.
        samples: files by model ("real", "input", "teacher", "student") and step count (None for the first two),
            pictures first.
    """

    folder: Path
    metrics: dict[str, Any]
    config: Mapping[str, Any]
    config_text: str
    scalars: list[Scalar]
    samples: dict[tuple[str, int | None], list[Path]]


def read_run(folder: Path) -> Run:
    """
    Raises:
        UserError: metrics.json or config.yaml is missing or broken. Logs and samples may be missing.
    """
    metrics = read_metrics(folder)
    config, text = read_config(folder / "config.yaml")
    return Run(
        folder, metrics, config, text, read_scalars(folder / "logs" / "metrics.csv"), find_samples(folder)
    )


def read_config(path: Path) -> tuple[Mapping[str, Any], str]:
    """The configuration and its text; `({}, "")` where there is none."""
    import yaml

    if not path.is_file():
        return {}, ""
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return (config if isinstance(config, Mapping) else {}), text


def read_scalars(path: Path) -> list[Scalar]:
    """Every column but `update` and `seconds`, in the file's order; cells may be empty, columns all of them."""
    if not path.is_file():
        return []
    columns: dict[str, Scalar] = {}
    lost: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        for name in reader.fieldnames or ():
            if name not in ("update", "seconds"):
                columns[name] = Scalar(name, [], [])
        for index, row in enumerate(reader):
            update = _value(row.get("update"))
            for name, column in columns.items():
                value = _value(row.get(name))
                if value is None:
                    continue
                if math.isfinite(value):
                    column.x.append(float(index) if update is None else update)
                    column.y.append(value)
                else:
                    lost[name] = lost.get(name, 0) + 1
    return [Scalar(c.name, c.x, c.y, lost.get(c.name, 0)) for c in columns.values()]


def _value(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:  # half a line: the run was stopped while it was writing
        return None


def find_samples(folder: Path) -> dict[tuple[str, int | None], list[Path]]:
    """Files of samples/ by what made them, `real_3` being the fourth of the real ones; those of another name are left
    out."""

    def order(path: Path) -> tuple[bool, list[tuple[int, str]]]:
        parts = re.findall(r"\d+|\D+", path.name)
        return path.suffix != ".png", [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    found: dict[tuple[str, int | None], list[Path]] = {}
    for path in sorted((folder / "samples").glob("*"), key=order):
        match = SAMPLE.fullmatch(path.stem)
        if path.is_file() and not path.is_symlink() and match:  # a link may lead to anything
            key = (match["real"], None) if match["real"] else (match["model"], int(match["steps"]))
            found.setdefault(key, []).append(path)
    return found
