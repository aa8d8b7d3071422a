"""How far a sweep is: one bar over its cells on a terminal, and a line for each that is done."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TextIO

from omnidistill.progress import clock


class Board:
    """Used as a context; `begin` and `end` stand around each cell.

    with Board(3, sys.stderr) as board:
        board.begin("a · b · seed 0")
        board.end("a · b · seed 0: 92 % in 34 s")

    The remaining time is the mean time of the cells done so far times those that remain.
    """

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total, self.stream = total, stream
        self.done, self.cell, self.start = 0, "", time.monotonic()
        self.progress: Any = self._bar() if stream.isatty() and total else None

    def begin(self, cell: str) -> None:
        self.cell = cell
        if self.progress:
            self.progress.update(0, description=cell)

    def end(self, line: str) -> None:
        self.done += 1
        if self.progress:
            self.progress.update(0, advance=1)
        self.say(f"[{self.done}/{self.total}] {line}")

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self.progress:
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self.stream, flush=True)

    def times(self) -> str:
        """`elapsed < remaining`."""
        elapsed = time.monotonic() - self.start
        left = elapsed / self.done * (self.total - self.done) if self.done else float("inf")
        return f"{clock(elapsed)} < {clock(left)}"

    def _bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        board = self

        class Times(ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(board.times(), style="dim")

        columns = (
            BarColumn(24),
            MofNCompleteColumn(),
            Times(),
            TextColumn("{task.description}", markup=False),
        )
        progress = Progress(*columns, console=Console(file=self.stream), refresh_per_second=2)
        progress.add_task("", total=self.total)
        return progress

    def __enter__(self) -> Board:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress:
            self.progress.stop()
