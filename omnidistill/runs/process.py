"""A command in a process of its own: stopped by Ctrl-C as one would stop it by hand, and why it failed in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO


def wait(command: Sequence[str], log: IO[str], lock: IO[str]) -> tuple[int, bool]:
    """The exit status of a command as a shell gives it, and whether it was asked to stop.

    It has a session of its own, lest a terminal send it the Ctrl-C that is passed on to it here: a second one would
    mean "at once". It holds the lock, too, for as long as it lives.
    """
    asked = 0
    with _terminable():
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
            preexec_fn=with_its_parent(),
        )
        while True:
            try:
                status = child.wait()
                return (128 - status if status < 0 else status), asked > 0
            except KeyboardInterrupt:
                asked += 1
                child.send_signal(signal.SIGINT if asked < 3 else signal.SIGKILL)


def with_its_parent() -> Callable[[], None] | None:
    """Where the system can: makes a child stop when its parent is gone, however that ended. To be run in the child.

    SIGTERM and not SIGKILL, so that what the child has in hand is closed; its last checkpoint is on the disk.
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    library, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def bind() -> None:
        library.prctl(1, int(signal.SIGTERM))  # 1: PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was gone before
            os._exit(128 + signal.SIGTERM)

    return bind


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, by which batch systems stop a job, is a Ctrl-C while a cell runs.

    Scripts start what they put in the background with SIGINT ignored, and a child inherits that: the cell would never
    hear of the stop. A handler is not inherited, so one that does nothing stands in for the ignored signal.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def reason(status: int, log: Path) -> str:
    """Why a process failed, in one line: the signal that killed it, else the last thing it said."""
    if name := {128 + each.value: each.name for each in signal.Signals}.get(status):
        return f"killed by {name}" + (", as systems do when memory runs out" if name == "SIGKILL" else "")
    lines = [text.strip() for text in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = next((text for text in reversed(lines) if text), "nothing was said")
    return said.removeprefix("error: ").removesuffix(" (run again with --debug for the traceback)")
