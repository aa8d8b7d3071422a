"""Programs that fetch and unpack, apt-get, pip and npm among them, and one line of what they say where they fail."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


class SourceError(Exception):
    """This source cannot deliver; the message is a short reason."""


def call(command: list[str], folder: Path) -> None:
    """Runs a program in a folder.

    Raises:
        SourceError: there is no such program, or the line in which it says what is wrong.
    """
    if shutil.which(command[0]) is None:
        raise SourceError(f"there is no {command[0]} here")
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # The line that says what is wrong is the first one marked as an error, else the last one.
        marked = [line for line in lines if line.lower().startswith(("e:", "error", "npm error"))]
        reason = (marked or lines[-1:] or [f"status {done.returncode}"])[0]
        raise SourceError(f"{' '.join(command[:1])}: {reason}")
