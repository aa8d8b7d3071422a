"""How far a long piece of work is: a bar on a terminal, a plain line now and then in a log file.

with track(1000, "distilling") as advance:
    for _ in range(1000):
        advance(loss=...)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


class Advance(Protocol):
    """Counts what is done."""

    def __call__(self, n: int = 1, /, **shown: Any) -> None:
        """`n` units are done; `shown` are numbers (floats or tensors of one element) to be seen beside the bar."""


@contextmanager
def track(total: int, description: str, stream: TextIO | None = None) -> Iterator[Advance]:
    """Shows rate, elapsed and remaining time on `stream` (stderr) while the block runs; yields the counting function.

    Values are turned into numbers only when they are drawn, so that a GPU is not waited for at each update.
    """
    stream = stream or sys.stderr
    with (_bar if stream.isatty() else _lines)(total, description, stream) as advance:
        yield advance


def figures(values: Mapping[str, Any]) -> str:
    """`loss 0.0123  grad 1.2e+03` from numbers."""
    return "  ".join(f"{name} {float(value):.3g}" for name, value in values.items())


def clock(seconds: float) -> str:
    """`1:02:03`, `2:03`; `-:--` for what is not known."""
    if not 0 <= seconds < 1e8:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _bar(total: int, description: str, stream: TextIO) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    values: dict[str, Any] = {}
    pace = _Pace(total)

    class Figures(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{pace}  {figures(values)}".rstrip(), style="dim")

    last = Figures(Column(no_wrap=True, overflow="ellipsis", ratio=1))
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), last)
    with Progress(*columns, console=Console(file=stream), refresh_per_second=4, expand=True) as progress:
        bar = progress.add_task(description, total=total)

        def advance(n: int = 1, /, **shown: Any) -> None:
            pace.add(n)
            values.update(shown)
            progress.update(bar, advance=n)

        yield advance


@contextmanager
def _lines(total: int, description: str, stream: TextIO) -> Iterator[Advance]:
    values: dict[str, Any] = {}
    pace = _Pace(total)
    printed = time.monotonic()

    def line() -> None:
        print(
            f"{description} {pace.done}/{total}  {pace}  {figures(values)}".rstrip(), file=stream, flush=True
        )

    def advance(n: int = 1, /, **shown: Any) -> None:
        nonlocal printed
        pace.add(n)
        values.update(shown)
        if time.monotonic() - printed >= LINE_EVERY:
            printed = time.monotonic()
            line()

    yield advance
    if pace.seconds() >= LINE_EVERY:  # short work needs no words
        line()


class _Pace:
    """Rate, elapsed and remaining time. What is reported at once, as in a resumed run, counts as done before."""

    def __init__(self, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self.total, self.now = total, now
        self.start, self.done, self.before = now(), 0, 0

    def add(self, n: int) -> None:
        if self.done == 0 and n > 1 and self.seconds() < 0.1:
            self.before = n
        self.done += n

    def seconds(self) -> float:
        return self.now() - self.start

    def rate(self) -> float:
        """Units a second; 0 before the first."""
        return (self.done - self.before) / max(self.seconds(), 1e-9)

    def __str__(self) -> str:
        rate = self.rate()
        left = (self.total - self.done) / rate if rate else float("inf")
        return f"{rate:.3g} it/s  {clock(self.seconds())} < {clock(left)}"
