"""Points of a teacher's curve that the cells of one sweep have in common: measured once, read by the others.

    SWEEP/teacher_points/DIGEST.safetensors      one point: samples for the page, resamples, and the figures as metadata

The digest is of everything that the point depends on, so a file is never out of date, only unused. Files are written
whole or not at all; one that is broken, or is something else, is measured anew and replaced. Of cells that want it at
the same time one measures, and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.data.turns import turn
from omnidistill.errors import UserError
from omnidistill.evaluation import cells
from omnidistill.evaluation.curve import Point
from omnidistill.evaluation.intervals import interval

FOLDER = "teacher_points"


def home(run: str | Path) -> Path | None:
    """The folder of the sweep that a run is a cell of; None where it is none."""
    run = Path(run).resolve()
    for folder in run.parents:
        if (folder / cells.NAME).is_file():
            try:
                inside = any(folder / cell.folder == run for cell in cells.read_cells(folder) if cell.recipe)
            except UserError:
                return None
            return folder if inside else None
    return None


def digest(model: nn.Module, **facts: Any) -> str:
    """Of a model's parts and weights, and of whatever else decides a point, given by name."""
    found = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(_bytes(value))
    for module in model.modules():  # scales of guidance and the like, which are no weights
        plain = {key: value for key, value in vars(module).items() if isinstance(value, (int, float, str))}
        # A count of calls says what was done with the model, a mode how it was left.
        found.update(
            repr(sorted((k, v) for k, v in plain.items() if k not in ("calls", "training"))).encode()
        )
    found.update(json.dumps(facts, sort_keys=True, default=repr).encode())
    return found.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class Shared:
    """The points of one teacher under one digest.

    Args:
        folder: of the sweep; None shares nothing.
        key: see `digest`.
        primary: the name of the metric that the resamples are of.
    """

    folder: Path | None
    key: str
    primary: str

    def read(self, steps: int, context: Context) -> Point | None:
        """The point at a step count, with the contexts that its samples were made for; None where there is none."""
        from safetensors import SafetensorError, safe_open

        path = self._path(steps)
        if path is None or path.is_symlink() or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            record = json.loads(metadata["point"])
            right = metadata["digest"] == self._sum(record, tensors)
            x0, resampled = tensors["x0"], tensors["resampled"]
            figures = [*record["metrics"].values(), record["seconds_per_sample"], record["nfe"]]
            right = right and record["steps"] == steps and all(map(math.isfinite, figures))
            if not right or not len(x0):
                return None
            drawn = resampled if len(resampled) else None
            return Point(
                steps,
                record["nfe"],
                record["metrics"],
                float(record["seconds_per_sample"]),
                x0,
                context[slice(len(x0))],
                drawn,
                interval(record["metrics"][self.primary], drawn),
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, point: Point) -> None:
        """Keeps a point for the next cell. That it cannot be kept stops nothing."""
        from safetensors.torch import save

        path = self._path(point.steps)
        if path is None:
            return
        drawn = torch.zeros(0, dtype=torch.float64) if point.resampled is None else point.resampled
        tensors = {"x0": point.x0.contiguous(), "resampled": drawn.contiguous()}
        record = point.record()
        metadata = {"point": json.dumps(record), "digest": self._sum(record, tensors)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(save(tensors, metadata))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError:
            return

    def points(
        self,
        steps: Sequence[int],
        context: Context,
        measure: Callable[[list[int], Callable[[], None]], Sequence[Point]],
        who: str,
    ) -> list[Point]:
        """The points at these step counts: those that are there, and the others measured.

        Args:
            context: of the samples that a point holds.
            measure: the points at the step counts given; calls its second argument now and then, as a sign of life.
            who: this is, for a cell that waits.
        """
        there, missing = self.missing(steps, context)
        if missing and self.folder is not None and (place := self._path(0)) is not None:
            with turn(place.with_name(f".{place.stem}.lock"), "measures the teacher", who) as alive:
                there, missing = self.missing(steps, context)  # another may have measured in the meantime
                self._measure(missing, there, measure, alive)
        else:
            self._measure(missing, there, measure, lambda: None)
        return [there[count] for count in steps]

    def _measure(
        self,
        missing: list[int],
        there: dict[int, Point],
        measure: Callable[[list[int], Callable[[], None]], Sequence[Point]],
        alive: Callable[[], None],
    ) -> None:
        for point in measure(missing, alive) if missing else ():
            self.write(point)
            there[point.steps] = point

    def missing(self, steps: Sequence[int], context: Context) -> tuple[dict[int, Point], list[int]]:
        """The points that are there, by step count, and the step counts that are to be measured."""
        there = {count: point for count in steps if (point := self.read(count, context)) is not None}
        return there, [count for count in steps if count not in there]

    def _path(self, steps: int) -> Path | None:
        if self.folder is None or (self.folder / FOLDER).is_symlink():  # a link may lead anywhere
            return None
        name = hashlib.sha256(f"{self.key} {steps}".encode()).hexdigest()[:32]
        return self.folder / FOLDER / f"{name}.safetensors"

    def _sum(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Of the content, under this key: bits that flip are seen."""
        found = hashlib.sha256(self.key.encode())
        found.update(json.dumps(record, sort_keys=True).encode())
        for name, value in sorted(tensors.items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(_bytes(value))
        return found.hexdigest()
