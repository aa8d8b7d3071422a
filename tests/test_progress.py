"""Rate, elapsed and remaining time, on a terminal and in a log."""

import io

import pytest

from omnidistill import progress
from omnidistill.progress import _Pace, clock, figures, track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rate_and_remaining_time() -> None:
    now = Clock()
    pace = _Pace(100, now)
    now.now += 10
    pace.add(20)
    assert str(pace) == "2 it/s  0:10 < 0:40"


def test_what_a_resumed_run_had_done_is_not_counted_as_speed() -> None:
    now = Clock()
    pace = _Pace(1000, now)
    pace.add(500)
    now.now += 10
    pace.add(20)
    assert (pace.rate(), pace.done) == (2.0, 520)
    assert str(pace).endswith("< 4:00")


def test_no_rate_before_the_first() -> None:
    assert str(_Pace(10, Clock())) == "0 it/s  0:00 < -:--"


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0:00"), (61.9, "1:01"), (3661, "1:01:01"), (float("inf"), "-:--"), (float("nan"), "-:--")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_log_gets_a_line_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, log = Clock(), io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", now)
    monkeypatch.setattr(_Pace.__init__, "__defaults__", (now,))
    with track(100, "distilling", log) as advance:
        for _ in range(100):
            now.now += 0.25
            advance(loss=0.5)
    lines = log.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["40/100", "80/100", "100/100"]
    assert lines[0] == "distilling 40/100  4 it/s  0:10 < 0:15  loss 0.5"


def test_short_work_is_silent_in_a_log() -> None:
    log = io.StringIO()
    with track(3, "short", log) as advance:
        for _ in range(3):
            advance()
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_with_figures() -> None:
    terminal = Terminal()
    with track(4, "distilling", terminal) as advance:
        for _ in range(4):
            advance(loss=0.125)
    shown = terminal.getvalue()
    assert "distilling" in shown and "4/4" in shown and "loss 0.125" in shown and "it/s" in shown


def test_values_become_numbers_only_when_drawn() -> None:
    class Tensor:
        def __float__(self) -> float:
            raise AssertionError("a GPU would be waited for")

    with track(3, "short", io.StringIO()) as advance:
        advance(loss=Tensor())
    assert figures({"loss": 1234.5, "gap": 1e-7}) == "loss 1.23e+03  gap 1e-07"
