"""One process does a piece of work that others need as well; they wait for it, and say for whom.

The turn is a lock of the operating system on a file, so a process that was killed has given it back. Where file systems
have no locks everybody has a turn at once: the work is done more often, and no differently. A lock may also outlive its
machine, on some network file systems, so whoever has a turn gives signs of life.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from omnidistill.progress import clock

EVERY = 0.2
"""Seconds between two looks at whether it is one's turn."""

SILENCE = 1800.0
"""Seconds without a sign of life after which nobody waits any more."""


@contextlib.contextmanager
def turn(place: Path, does: str, who: str) -> Iterator[Callable[[], None]]:
    """Waits until no other process has its turn at this file; yields the function that gives a sign of life.

    Args:
        does: for the line that says who is waited for: "waits for WHO, which DOES".
        who: this is, for others.
    """
    with contextlib.ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            stack.callback(os.close, handle)
            mine = _mine(handle, does)
            if mine:
                os.truncate(handle, 0)
                os.pwrite(handle, f"{who} (process {os.getpid()} on {socket.gethostname()})".encode(), 0)
        except OSError:  # nothing can be written here, or there are no locks
            mine = False

        def alive() -> None:
            if mine:
                with contextlib.suppress(OSError):
                    os.utime(handle)

        yield alive


def _mine(handle: int, does: str) -> bool:
    """Waits for the lock; False where who has it gives no sign of life."""
    said, seen, since = "", 0, time.monotonic()
    began = since
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            if said:
                print(f"waited {clock(time.monotonic() - began)}", file=sys.stderr, flush=True)
            return True
        now, sign = time.monotonic(), os.fstat(handle).st_mtime_ns
        if sign != seen:
            seen, since = sign, now
        whom = os.pread(handle, 1000, 0).decode("utf-8", "replace") or "another process"
        if now - since > SILENCE:
            print(
                f"waits no more for {whom}: no sign of life for {clock(now - since)}",
                file=sys.stderr,
                flush=True,
            )
            return False
        if whom != said and (said or now - began > EVERY):  # its name may still have to be written
            said = whom
            print(f"waits for {whom}, which {does}", file=sys.stderr, flush=True)
        time.sleep(EVERY)
