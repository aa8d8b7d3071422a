"""Standard output as it may be: closed, of few characters, or with a reader that has seen enough.

None of this is a reason for a command to stop: its work is in files. A full disk is, and is told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

GONE = (errno.EPIPE, errno.EBADF, errno.EIO)


class Tolerant:
    """A text stream that drops what nobody reads any more; in all else the stream it stands before."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        return self._kept(lambda: self._stream.write(text), len(text))

    def writelines(self, lines: Any) -> None:
        """Each line by `write`, so that a reader who left is noticed once."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing where the reader has left."""
        self._kept(self._stream.flush, None)

    def _kept(self, act: Any, instead: Any) -> Any:
        if self._dropped:
            return instead
        try:
            return act()
        except OSError as error:
            if error.errno not in GONE:
                raise
        except ValueError:  # closed
            pass
        self._dropped = True
        with contextlib.suppress(
            OSError, ValueError, AttributeError
        ):  # or the interpreter's last flush would fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return instead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
    """Within, print and every console write to streams that drop what nobody can read, and replace what the stream's
    encoding does not have."""
    before = sys.stdout, sys.stderr
    made = []
    stream: Any
    for stream in before:
        if stream is None:  # closed by who started this
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  it lives as long as the process
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")
        made.append(Tolerant(stream))
    sys.stdout, sys.stderr = made
    try:
        yield
    finally:
        for stream in made:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before
