"""Waiting for the process of a cell."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

WAITS = """
import signal, sys
from omnidistill.runs.process import wait

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's background job has it
with open("log", "w") as log, open("lock", "w") as lock:
    child = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    status, asked = wait(child, log, lock)
print(status, asked, signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""


def test_a_stop_reaches_the_cell_of_a_background_job(tmp_path: Path) -> None:
    waiting = subprocess.Popen([sys.executable, "-c", WAITS], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        log, end = tmp_path / "log", time.monotonic() + 30
        while not (log.exists() and "up" in log.read_text()):
            assert time.monotonic() < end, "the child did not start"
            time.sleep(0.05)
        waiting.terminate()
        said, _ = waiting.communicate(timeout=15)
    finally:
        waiting.kill()
    assert said.split() == ["130", "True", "True"]
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()
