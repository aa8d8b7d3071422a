"""Kills and damage: is every run resumed to the same bits, or refused with the cause?

    python benchmarks/survival.py [kills=50] [damages=100] [seed=0] [out=benchmarks/results/survival.json]

Kills: `distill`, `train`, `sweep` and `evaluate` of a tiny task are killed (SIGKILL) after a drawn time and started
again until they end; the student, the teacher or the metrics must then be those of a run never stopped. Commands run in
forks of this process, so that a kill falls into their work and not into imports (the cells of a sweep are processes of
their own). Damage: a finished student and a checkpoint are cut or have a bit flipped; reading must refuse them in one
line.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

SIZES = (
    *("updates=12", "batch=16", "device=cpu", "threads=1", "task.network.width=8", "task.network.depth=1"),
    *("checkpoint.every=2",),
)
STUDENT = (
    *(
        "fit.updates=3",
        "families.regression.pairs=32",
        "families.regression.steps=2",
        "task.teacher_steps=2",
        "steps=1",
    ),
    *("evaluation.samples=16", "evaluation.batch=16"),
)
ONE = ("task=exact/gaussian_mixture", "recipe=dmd2", "seed=5", *SIZES, *STUDENT)
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "distill": (("distill", *ONE), ("resume=true",), "student.safetensors"),
    "train": (
        ("train", "task=exact/gaussian_mixture", "seed=5", *SIZES),
        ("resume=true",),
        "teacher.safetensors",
    ),
    "sweep": (("sweep", *ONE), (), "exact/gaussian_mixture/dmd2/5/student.safetensors"),
}
"""The command, what is added to go on, and the file that must be the same in the end."""


SHARES = (48, 24, 8, 20)
"""Percent of the kills for each of these and for `evaluate`: a sweep starts processes, which takes its time."""


def started(words: Sequence[str], said: Path) -> int:
    """The number of a fork of this process that runs the command, its errors written to a file."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        from omnidistill.cli import main as command

        status = command(list(words))
    finally:
        os._exit(status)


def ended(words: Sequence[str]) -> tuple[int, str]:
    """Exit status and the last line on stderr."""
    with tempfile.NamedTemporaryFile() as said:
        _, status = os.waitpid(started(words, Path(said.name)), 0)
        lines = Path(said.name).read_text(errors="replace").strip().splitlines()
    return os.waitstatus_to_exitcode(status), lines[-1] if lines else ""


def killed_after(words: Sequence[str], seconds: float) -> bool:
    """Whether it was still at work after these seconds, and was killed."""
    child, end = started(words, Path(os.devnull)), time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def judged(folder: Path) -> Any:
    """What was measured, without times."""
    document = json.loads((folder / "metrics.json").read_text())
    points = [
        [point["steps"], point["metrics"]] for model in ("teacher", "student") for point in document[model]
    ]
    return points, document["gap_closed"]


class Trials:
    """Counts of what came of the kills of one kind, and what was wrong."""

    def __init__(self, kind: str) -> None:
        self.kind, self.kills, self.same = kind, 0, 0
        self.wrong: list[str] = []

    def end(self, kills: int, wrong: str | None) -> None:
        self.kills += kills
        if wrong is None:
            self.same += kills
        else:
            self.wrong.append(wrong)

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "kills": self.kills, "survived": self.same, "wrong": self.wrong}


def kills_of(kind: str, count: int, draws: random.Random, work: Path) -> dict[str, Any]:
    """Runs of a kind, each killed up to three times, until `count` kills were made."""
    words, again, file = KINDS[kind]
    trials, whole = Trials(kind), work / f"{kind}-whole"
    begun = time.monotonic()
    status, said = ended([*words, f"out={whole}"])
    length = time.monotonic() - begun
    if status:
        raise SystemExit(f"{kind} fails by itself: {said}")
    good = (whole / file).read_bytes()
    number = 0
    while trials.kills < count and len(trials.wrong) < 10:
        out, kills = work / f"{kind}-{number}", 0
        for _ in range(min(3, count - trials.kills)):
            on = again if out.exists() and any(out.iterdir()) else ()
            kills += killed_after([*words, *on, f"out={out}"], draws.uniform(0.1, 1.0) * length)
        status, said = ended([*words, *(again if out.exists() and any(out.iterdir()) else ()), f"out={out}"])
        wrong = f"status {status}: {said}" if status else None
        if wrong is None and (out / file).read_bytes() != good:
            wrong = "other bits"
        trials.end(kills, wrong)
        shutil.rmtree(out, ignore_errors=True)
        number += 1
    return trials.record()


def kills_of_evaluate(count: int, draws: random.Random, work: Path) -> dict[str, Any]:
    """A finished run's evaluation, killed: the run is then as it was, or judged anew, and can be judged again."""
    trials, run = Trials("evaluate"), work / "distill-whole"
    words = ["evaluate", str(run), "steps=1,2"]
    begun = time.monotonic()
    status, said = ended(words)
    length = time.monotonic() - begun
    if status:
        raise SystemExit(f"evaluate fails by itself: {said}")
    good, student = judged(run), (run / "student.safetensors").read_bytes()
    while trials.kills < count and len(trials.wrong) < 10:
        killed = killed_after(words, draws.uniform(0.1, 1.0) * length)
        try:
            wrong = None if judged(run) == good else "other metrics"
        except (OSError, ValueError) as error:
            wrong = f"metrics.json is broken: {error}"
        if (run / "student.safetensors").read_bytes() != student:
            wrong = "another student"
        trials.end(int(killed), wrong)
    status, said = ended(words)
    if status or judged(run) != good:
        trials.wrong.append(f"cannot be judged again: status {status}: {said}")
    return trials.record()


def damages(file: Path, read: Callable[[], object], count: int, draws: random.Random) -> dict[str, Any]:
    """Cuts and flipped bits of a file: how many were refused in one line."""
    from omnidistill.errors import UserError

    good, refused, wrong = file.read_bytes(), 0, []
    for number in range(count):
        bad, place = bytearray(good), draws.randrange(len(good))
        if number % 2:
            what = f"cut at {place}"
            del bad[place:]
        else:
            bit = draws.randrange(8)
            what = f"bit {bit} of byte {place}"
            bad[place] ^= 1 << bit
        file.write_bytes(bytes(bad))
        try:
            read()
            wrong.append(f"{what}: unnoticed")
        except UserError as error:
            refused += "\n" not in str(error)
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}")
    file.write_bytes(good)
    return {"file": file.name, "damages": count, "refused": refused, "wrong": wrong}


def main(words: Sequence[str]) -> int:
    import omnidistill
    import omnidistill.runs
    import omnidistill.training.loop  # before the first fork, like the module that composes configurations
    from omnidistill.configuration.compose import compose
    from omnidistill.evaluation.environment import environment
    from omnidistill.training.safetensors_file import read_safetensors

    given = {"kills": "50", "damages": "100", "seed": "0", "out": "benchmarks/results/survival.json"}
    given.update(word.split("=", 1) for word in words)
    kills, count, seed = int(given["kills"]), int(given["damages"]), int(given["seed"])
    draws = random.Random(seed)
    torch.set_num_threads(1)  # a fork has no other thread than the one that made it
    compose("config", [*ONE, "out=unused"])
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        rows = []
        for index, kind in enumerate((*KINDS, "evaluate")):
            share = SHARES[index] * kills // 100 or 1
            rows.append(
                kills_of(kind, share, draws, work) if kind in KINDS else kills_of_evaluate(share, draws, work)
            )
            print(json.dumps(rows[-1]), flush=True)
        run = work / "distill-whole"
        last = run / "checkpoints" / "last.safetensors"
        harm = [
            damages(run / "student.safetensors", lambda: omnidistill.load(run), count // 2, draws),
            damages(last, lambda: read_safetensors(last), count - count // 2, draws),
        ]
        print(json.dumps(harm), flush=True)
    document = {
        "seed": seed,
        "seconds": round(time.monotonic() - begun),
        "environment": environment("cpu"),
        "kills": rows,
        "damages": harm,
    }
    Path(given["out"]).write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row["wrong"] for row in (*rows, *harm)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
