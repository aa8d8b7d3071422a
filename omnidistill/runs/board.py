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

    The remaining time is that of the cells to come if each takes as long as the mean of those that are done.
    """

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total, self.stream = total, stream
        self.done = 0
        self.start = self.last = time.monotonic()
        self.progress: Any = self._bar() if stream.isatty() and total else None

    def begin(self, cell: str) -> None:
        """A cell starts."""
        if self.progress:
            self.progress.update(0, description=cell, refresh=True)

    def end(self, line: str) -> None:
        """A cell is done, one way or the other; `line` says which."""
        self.done, self.last = self.done + 1, time.monotonic()
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
        now = time.monotonic()
        if not self.done:
            return f"{clock(now - self.start)} < {clock(float('inf'))}"
        a_cell = (self.last - self.start) / self.done
        left = a_cell * (self.total - self.done) - (now - self.last)
        return f"{clock(now - self.start)} < {clock(max(left, 0.0))}"

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
