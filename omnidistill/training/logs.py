"""Scalars of a run: a wide CSV that survives resumption, and TensorBoard events beside it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path as FilePath


class ScalarLog:
    """`metrics.csv` with the columns update, seconds and one for each scalar; a new scalar adds a column.

    Args:
        folder: where metrics.csv and the TensorBoard events go.
        start: rows after this update are dropped: a resumed run writes them again.
    """

    def __init__(self, folder: FilePath, start: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, float | str]] = []
        if self.path.is_file() and start:
            with self.path.open(newline="") as file:
                self.rows = [dict(row) for row in csv.DictReader(file) if int(row["update"]) <= start]
        self.writer = SummaryWriter(str(folder), purge_step=start or None)

    def add(self, update: int, seconds: float, scalars: Mapping[str, float]) -> None:
        self.rows.append({"update": update, "seconds": round(seconds, 3), **scalars})
        self._write()
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, update)

    def _write(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        temporary = self.path.with_suffix(".part")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self.writer.close()
