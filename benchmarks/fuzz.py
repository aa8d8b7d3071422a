"""Readers of foreign bytes, fuzzed: no crash without a line, no file touched outside the folder, no code run.

    python benchmarks/fuzz.py minutes=10 [seed=0] [jobs=1] [readers=student.json,png] [out=benchmarks/results/fuzz.json]

Each reader gets `minutes` of wall time of damaged copies of good files (`fuzz_mutations`). A reader is a function of
bytes and a folder of its own that raises `UserError`, in one line, for what it cannot read; whoever has another kind of
file adds one:

    @reader("png", seeds=[good_bytes], form="png")
    def png(data: bytes, folder: Path) -> None: ...

`jobs` processes share the readers. What `out` says of readers that are not asked for stays there. `parsed` counts the
files that were read, or could still be taken apart by their form: what a parser refuses says nothing of what follows.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_mutations import damaged, well_formed  # beside this file

from omnidistill.errors import RunError, UserError

Read = Callable[[bytes, Path], None]


class Reader(NamedTuple):
    """The function, good files to begin with, and their form where `fuzz_mutations` knows it."""

    read: Read
    seeds: list[bytes]
    form: str | None = None


READERS: dict[str, Reader] = {}
LONGEST = 30  # seconds of processor time that a file of a few kilobytes may take


def reader(name: str, seeds: Sequence[bytes], form: str | None = None) -> Callable[[Read], Read]:
    def add(function: Read) -> Read:
        READERS[name] = Reader(function, list(seeds), form)
        return function

    return add


_watched: list[tuple[Path, list[str]]] = []
_hooked = False
_warm: set[str] = set()
STARTS = (
    *(
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "pty.spawn",
        "pickle.find_class",
    ),
    *("socket.connect", "socket.getaddrinfo"),
)
TOUCHES = {
    **{name: [(0, 1)] for name in ("os.remove", "os.rmdir")},
    **{name: [(0, 2)] for name in ("os.mkdir", "os.chmod")},
    **{name: [(0, 3)] for name in ("os.chown", "os.utime")},
    **{"os.rename": [(0, 2), (1, 3)], "os.link": [(1, 3)], "os.symlink": [(1, 2)]},
    **{"os.truncate": [(0, None)], "shutil.rmtree": [(0, 1)], "open": [(0, None)]},
}
"""By event: which arguments are places that it changes, and which the open folder that a relative one is of."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    folder, faults = _watched[-1]
    if event in STARTS:
        faults.append(f"{event} {str(arguments)[:100]}")
    if event == "open" and not (
        isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        return
    for name, base in TOUCHES.get(event, ()):
        if not isinstance(arguments[name], str | bytes | os.PathLike):
            continue
        place = Path(os.fsdecode(arguments[name]))
        handle = -1 if base is None or base >= len(arguments) else arguments[base]
        if isinstance(handle, int) and handle >= 0:
            place = Path(os.readlink(f"/proc/self/fd/{handle}")) / place
        if folder not in (place.absolute(), *place.absolute().parents) and place != Path(os.devnull):
            faults.append(f"{event} {place}")


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Collects what is started, and what is written or removed outside of the folder, as the interpreter reports it."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    faults: list[str] = []
    _watched.append((folder.absolute(), faults))
    try:
        yield faults
    finally:
        _watched.pop()


class TooLong(Exception):
    pass


@contextmanager
def _limited() -> Iterator[None]:
    """Ends what takes more processor time than any file is worth."""

    def stop(*_: Any) -> None:
        raise TooLong(f"more than {LONGEST} s of processor time")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


def trial(name: str, data: bytes, folder: Path) -> str:
    """What came of one file: "read", "refused", or a fault in a line."""
    read = READERS[name].read
    if name not in _warm:  # imports write caches of their own
        _warm.add(name)
        for seed in READERS[name].seeds:
            with suppress(Exception):
                read(seed, folder)
    with watched(folder) as faults:
        try:
            with _limited(), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
                read(data, folder)
            said = "read"
        except (UserError, RunError) as error:
            one_line = "\n" not in str(error) and str(error)
            said = "refused" if one_line else f"a refusal of several lines: {error!r:.200}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            said = f"{type(error).__name__}: {error}"[:200]
    return faults[0] if faults else said


def file_of(name: str, seed: int, number: int) -> bytes:
    """The damaged file of this number."""
    draws = random.Random(f"{seed}/{name}/{number}")
    return damaged(draws.choice(READERS[name].seeds), draws, READERS[name].form)


def fuzz(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Counts of what came of the files, and the first faults with the number that makes the file again."""
    counts = {"read": 0, "refused": 0, "faults": 0}
    found: dict[str, Any] = {}
    form, end, number, parsed, began = (
        READERS[name].form,
        time.monotonic() + seconds,
        0,
        0,
        time.process_time(),
    )
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "run"
        while time.monotonic() < end:
            if number % 500 == 0:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            data = file_of(name, seed, number)
            said = trial(name, data, folder)
            counts[said if said in counts else "faults"] += 1
            parsed += said == "read" or (form is not None and well_formed(data, form))
            if said not in counts and said not in found and len(found) < 20:
                found[said] = number
            number += 1
    about = {"seconds": round(seconds, 1), "cpu_seconds": round(time.process_time() - began, 1)}
    share = {"share_read": round(counts["read"] / number, 4), "share_parsed": round(parsed / number, 4)}
    return {"reader": name, **about, "files": number, **counts, "parsed": parsed, **share, "found": found}


def _apart(names: Sequence[str], given: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of readers shared among processes, each taking the next name when it has done one."""
    with tempfile.TemporaryDirectory() as folder:
        waiting, working = list(names), dict[str, subprocess.Popen[bytes]]()
        while waiting or working:
            while waiting and len(working) < int(given["jobs"]):
                name = waiting.pop(0)
                words = {**given, "readers": name, "jobs": "1", "out": f"{folder}/{name}.json"}
                command = [sys.executable, __file__, *(f"{key}={value}" for key, value in words.items())]
                working[name] = subprocess.Popen(command)
            time.sleep(0.2)
            working = {name: process for name, process in working.items() if process.poll() is None}
        rows = []
        for name in names:
            file = Path(folder) / f"{name}.json"
            lost = {"reader": name, "files": 0, "faults": 1, "found": {"the process died": None}}
            rows += json.loads(file.read_text())["readers"] if file.is_file() else [lost]
        return rows


def register_all() -> None:
    import fuzz_formats
    import fuzz_readers

    fuzz_readers.register(reader)
    fuzz_formats.register(reader)


def main(words: Sequence[str]) -> int:
    import resource

    from omnidistill.evaluation.environment import environment

    register_all()
    given = {"minutes": "10", "seed": "0", "jobs": "1", "readers": ",".join(READERS)}
    given["out"] = "benchmarks/results/fuzz.json"
    given.update(word.split("=", 1) for word in words)
    seed, minutes, out = int(given["seed"]), float(given["minutes"]), Path(given["out"])
    names = given["readers"].split(",")
    resource.setrlimit(
        resource.RLIMIT_AS, (8 << 30, 8 << 30)
    )  # what takes more memory is a fault, and no disaster
    if int(given["jobs"]) > 1:
        rows = _apart(names, given)
    else:
        rows = []
        for name in names:
            rows.append(fuzz(name, 60 * minutes, seed))
            print(json.dumps(rows[-1]), flush=True)
    kept = {row["reader"]: row for row in json.loads(out.read_text())["readers"]} if out.is_file() else {}
    kept |= {row["reader"]: row for row in rows}
    ordered = [kept[name] for name in READERS if name in kept]
    document = {
        "seed": seed,
        "minutes_a_reader": minutes,
        "environment": environment("cpu"),
        "readers": ordered,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
