"""Readers of foreign bytes, fuzzed: no crash without a line, no file touched outside the folder, no code run.

    python benchmarks/fuzz.py minutes=10 [seed=0] [readers=student.json,config.yaml] [out=benchmarks/results/fuzz.json]

Each reader gets `minutes` of damaged copies of good files. A reader is a function of bytes and a folder of its own that
raises `UserError`, in one line, for what it cannot read; whoever has another kind of file adds one:

    @reader("png", seeds=[good_bytes])
    def png(data: bytes, folder: Path) -> None: ...
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omnidistill.errors import RunError, UserError

Read = Callable[[bytes, Path], None]
READERS: dict[str, tuple[Read, list[bytes]]] = {}
"""By name: the function, and good files to begin with."""

TOKENS = [
    *(
        b"${oc.env:HOME}",
        b"../../x",
        b"/etc/passwd",
        b"\x00",
        b"\xff\xfe",
        b"NaN",
        b"1e999",
        b"-1",
        b"null",
        b"[]",
        b"{}",
    ),
    *(
        b'"_target_": "os.system"',
        b"!!python/object/apply:os.getcwd []",
        b"9" * 400,
        b"[" * 90,
        b"&a [*a]",
        b"true",
    ),
]


def reader(name: str, seeds: Sequence[bytes]) -> Callable[[Read], Read]:
    def add(function: Read) -> Read:
        READERS[name] = (function, list(seeds))
        return function

    return add


def mutated(data: bytes, draws: random.Random) -> bytes:
    """A damaged copy: bits flipped, pieces cut out, doubled, moved, overwritten by what has hurt readers before."""
    made = bytearray(data)
    for _ in range(draws.choice((1, 1, 1, 2, 4, 8))):
        size = len(made)
        at, span = draws.randrange(size + 1), draws.choice((1, 2, 8, 64, max(1, size // 4)))
        kind = draws.randrange(7)
        if kind == 0 and size:
            made[at % size] ^= 1 << draws.randrange(8)
        elif kind == 1:
            del made[at:]
        elif kind == 2:
            del made[at : at + span]
        elif kind == 3:
            made[at:at] = made[at : at + span]
        elif kind == 4:
            made[at:at] = draws.choice(TOKENS)
        elif kind == 5:
            made[at : at + span] = draws.choice(TOKENS)
        else:
            made[at : at + span] = draws.randbytes(min(span, 64))
    return bytes(made)


_watched: list[tuple[Path, list[str]]] = []
_hooked = False
_warm: set[str] = set()
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect")
TOUCHES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "shutil.rmtree",
    "os.symlink",
    "os.link",
    "os.chmod",
)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    folder, faults = _watched[-1]
    if event in STARTS:
        faults.append(f"{event} {str(arguments)[:100]}")
    writes = (
        event == "open"
        and isinstance(arguments[2], int)
        and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
    if (event in TOUCHES or writes) and isinstance(arguments[0], str | bytes | os.PathLike):
        place = Path(os.fsdecode(arguments[0]))
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


def trial(name: str, data: bytes, folder: Path) -> str:
    """What came of one file: "read", "refused", or a fault in a line."""
    if name not in _warm:  # imports write caches of their own
        _warm.add(name)
        for seed in READERS[name][1]:
            with suppress(Exception):
                READERS[name][0](seed, folder)
    with watched(folder) as faults:
        try:
            READERS[name][0](data, folder)
            said = "read"
        except (UserError, RunError) as error:
            said = (
                "refused"
                if "\n" not in str(error) and str(error)
                else f"a refusal of several lines: {error!r:.200}"
            )
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            said = f"{type(error).__name__}: {error}"[:200]
    return faults[0] if faults else said


STUDENT = {
    "schema": 1,
    "task": {"_target_": "omnidistill.exact.GaussianMixtureTask", "network": {"width": 8, "depth": 1}},
    "reading": {"parameterisation": "flow", "time_input": "t", "sigma_data": 1.0, "unit_input": False},
    "target_time": False,
    "guided": False,
    "transition": "renoise",
    "steps": 1,
    "random_tokens": None,
    "guidance": None,
    "made_by": {"recipe": "dmd2", "seed": 0},
}
CONFIG = """task: {_target_: omnidistill.exact.GaussianMixtureTask, std: 0.2}
objective: {matching: 1.0}
families:
  matching: {_target_: omnidistill.objectives.matching.Matching, critic_updates: 2}
updates: 3
batch: 8
seed: 0
steps: [1, 2]
out: a
student: {steps: 1, transition: renoise}
evaluation: {samples: 16, seed: 0}
"""
CELL = {"task": "exact/bridge", "column": "dmd2", "choice": "dmd2", "seed": 0, "recipe": "dmd2", "reason": ""}
DATA = """name: small
title: "t"
licence: l
attribution: a
files:
  good: {bytes: 5, sha256: %s, pattern: "**/*.txt"}
sources: [{kind: folder, path: nowhere}, {kind: pypi, package: a==1}, {kind: url, address: "https://x/", suffix: .gz}]
""" % ("0" * 64)
POINT = {"steps": 1, "nfe": 1, "metrics": {"energy": 0.5}, "seconds_per_sample": 0.1}
METRICS = {
    **{"schema": 1, "task": "t", "recipe": "r", "seed": 0, "primary": {"name": "energy", "better": "lower"}},
    **{"floor": {"energy": 0.1}, "teacher": [POINT], "student": [POINT], "gap_closed": {"1": 50.0}},
    "training": {
        "student_updates": 1,
        "seconds": 1.0,
        "samples_per_second": 1.0,
        "peak_memory_mb": 1.0,
        "calls": {},
    },
    "environment": {"python": "3"},
}


def _bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _weights() -> bytes:
    import torch

    from omnidistill.training.safetensors_file import write_safetensors

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "w.safetensors"
        write_safetensors({"a": torch.ones(3, 2), "b": torch.arange(4)}, file, {"state": "{}"})
        return file.read_bytes()


@reader("student.json", seeds=[_bytes(STUDENT)])
def student(data: bytes, folder: Path) -> None:
    """Everything that loading does before weights are read, and the task and network that are described."""
    from omnidistill import student as saved
    from omnidistill.configuration.instantiation import build, trusting
    from omnidistill.training.memory import check_network

    (folder / "student.json").write_bytes(data)
    recipe = saved.read_recipe(folder, "student")
    if recipe.task is None:
        return
    with saved._described_by(folder / "student.json"):
        task = build(trusting(recipe.task, ()))
        check_network(task.network)
        saved.assemble(task.network(), task.path, recipe)


@reader("config.yaml", seeds=[CONFIG.encode()])
def configuration(data: bytes, folder: Path) -> None:
    from omnidistill.configuration.compose import build, load_config

    (folder / "config.yaml").write_bytes(data)
    build(load_config(folder).get("task"))


@reader("safetensors", seeds=[_weights()])
def weights(data: bytes, folder: Path) -> None:
    from omnidistill.training.safetensors_file import read_metadata, read_safetensors

    (folder / "w.safetensors").write_bytes(data)
    read_metadata(folder / "w.safetensors")
    read_safetensors(folder / "w.safetensors")


@reader("metrics.json", seeds=[_bytes(METRICS)])
def metrics(data: bytes, folder: Path) -> None:
    from omnidistill.evaluation.metrics_file import read_metrics

    (folder / "metrics.json").write_bytes(data)
    read_metrics(folder)


@reader("data.yaml", seeds=[DATA.encode()])
def description(data: bytes, folder: Path) -> None:
    from omnidistill.data.datasets import locate

    (folder / "d.yaml").write_bytes(data)
    locate(str(folder / "d.yaml"))


@reader("sweep.json", seeds=[_bytes({"schema": 1, "cells": [CELL, {**CELL, "recipe": None}]})])
def sweep(data: bytes, folder: Path) -> None:
    from omnidistill.evaluation import cells

    (folder / "sweep.json").write_bytes(data)
    for found in cells.find(folder):
        assert folder.resolve() in found.run.resolve().parents, found.run


WORDS = (
    '{"text": "One caf\u00e9.", "id": "x"}\n{"text": null}\n{"text": "Two\u2028(three) \u00a35."}\n'.encode()
)


def _sound(kind: str) -> bytes:
    import io

    import numpy as np
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(np.arange(3000) / 20.0), 16000, format=kind)
    return file.getvalue()


@reader("text.jsonl", seeds=[WORDS, b"\xff\xfe" + WORDS.decode().encode("utf-16-le")])
def text(data: bytes, folder: Path) -> None:
    from omnidistill.modalities.text.data import lines_of, own

    (folder / "a.jsonl").write_bytes(data)
    list(lines_of(folder / "a.jsonl"))
    own(folder / "a.jsonl")


@reader("speech.jsonl", seeds=[WORDS])
def sentences(data: bytes, folder: Path) -> None:
    from omnidistill.modalities.speech.tts.sentences import sentences as read
    from omnidistill.modalities.speech.tts.text import normalise

    (folder / "a.jsonl").write_bytes(data)
    for _, said in read(folder / "a.jsonl"):
        if isinstance(said, str):
            normalise(said)


@reader("wav", seeds=[_sound("WAV"), _sound("RF64")])
def wav(data: bytes, folder: Path) -> None:
    from omnidistill.modalities.audio.files import read_audio

    (folder / "a.wav").write_bytes(data)
    read_audio(folder / "a.wav")


@reader("flac", seeds=[_sound("FLAC")])
def flac(data: bytes, folder: Path) -> None:
    from omnidistill.modalities.audio.files import read_audio

    (folder / "a.flac").write_bytes(data)
    read_audio(folder / "a.flac")


@reader("ogg", seeds=[_sound("OGG")])
def ogg(data: bytes, folder: Path) -> None:
    from omnidistill.modalities.audio.files import read_audio

    (folder / "a.ogg").write_bytes(data)
    read_audio(folder / "a.ogg")


def fuzz(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Counts of what came of the files, and the first faults with the number that makes the file again."""
    counts = {"read": 0, "refused": 0, "faults": 0}
    faults: dict[str, Any] = {}
    seeds, end, number = READERS[name][1], time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            draws = random.Random(f"{seed}/{name}/{number}")
            said = trial(name, mutated(draws.choice(seeds), draws), Path(folder))
            counts[said if said in counts else "faults"] += 1
            if said not in counts and said not in faults and len(faults) < 20:
                faults[said] = number
            number += 1
    return {"reader": name, "seconds": round(seconds, 1), "files": number, **counts, "found": faults}


def main(words: Sequence[str]) -> int:
    from fuzz_formats import register  # beside this file

    from omnidistill.evaluation.environment import environment

    register(reader)
    given = {
        "minutes": "10",
        "seed": "0",
        "readers": ",".join(READERS),
        "out": "benchmarks/results/fuzz.json",
    }
    given.update(word.split("=", 1) for word in words)
    seed, minutes = int(given["seed"]), float(given["minutes"])
    rows = []
    for name in given["readers"].split(","):
        rows.append(fuzz(name, 60 * minutes, seed))
        print(json.dumps(rows[-1]), flush=True)
    document = {"seed": seed, "minutes_a_reader": minutes, "environment": environment("cpu"), "readers": rows}
    Path(given["out"]).write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
