"""The bar of a sweep."""

import io

import pytest

from omnidistill.runs import board
from omnidistill.runs.board import Board


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    time = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: time[0])
    return time


def test_remaining_time_is_that_of_the_cells_to_come(now: list[float]) -> None:
    bar = Board(4, io.StringIO())
    now[0] += 5
    assert bar.times() == "0:05 < -:--"
    now[0] += 5
    bar.end("a")
    assert bar.times() == "0:10 < 0:30"
    now[0] += 4
    assert bar.times() == "0:14 < 0:26", "it falls while a cell runs"
    now[0] += 16
    bar.end("b")
    assert bar.times() == "0:30 < 0:30"
    now[0] += 100
    assert bar.times() == "2:10 < 0:00"


def test_a_log_gets_a_line_a_cell() -> None:
    log = io.StringIO()
    with Board(2, log) as bar:
        bar.say("a remark")
        for cell in ("a", "b"):
            bar.begin(cell)
            bar.end(f"{cell}: done [100 %]")
    assert log.getvalue().splitlines() == ["a remark", "[1/2] a: done [100 %]", "[2/2] b: done [100 %]"]


def test_a_terminal_gets_one_bar_and_the_lines_above_it() -> None:
    terminal = Terminal()
    with Board(2, terminal) as bar:
        bar.begin("first [red]cell")
        bar.end("first: done [100 %]")
        bar.begin("second")
    said = terminal.getvalue()
    assert "[1/2] first: done [100 %]" in said
    assert "1/2" in said and "first [red]cell" in said, "names are no markup"


def test_nothing_to_do_draws_nothing() -> None:
    terminal = Terminal()
    with Board(0, terminal):
        pass
    assert terminal.getvalue() == ""
