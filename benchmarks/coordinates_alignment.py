"""What superposing targets on beliefs is worth: the same teacher and student with and without it, in two sorts of pose.

    python benchmarks/coordinates_alignment.py [--teacher-updates 500] [--student-updates 150]
        [--work runs/alignment] [--out benchmarks/results/coordinates_alignment.json]

Adenylate kinase, a network smaller than the shipped teacher's. Each of four cells trains a teacher by denoising and
distils it by consistency models, whose targets are the endpoints that are aligned or not. `rotations: small` is the
task's own way, frames on one reference pose; under `all` the network sees every pose, and handedness is its own to find
out. Without alignment only translations are divided out. Metrics superpose, whatever the training did.

A cell that is finished is not run again; the table is printed from what there is.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from omnidistill.configuration.compose import compose
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.metrics_file import read_metrics
from omnidistill.runs.distil import distill
from omnidistill.runs.train import train

NETWORK = "{width: 128, depth: 3, heads: 4, blocks: 2, patch: 3}"
RECIPE = "consistency-models"
SHOWN = ("energy", "coverage", "bonds", "mirror")


def cell(rotations: str, align: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Trains and distils once; returns the curves of both."""
    started = time.perf_counter()
    folders = {name: args.work / f"{rotations}-{align}" / name for name in ("teacher", "student")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    shared = [
        *("task=coordinates/adk", f"task.rotations={rotations}", f"task.align={str(align).lower()}"),
        *(f"task.network={NETWORK}", f"seed={args.seed}", "threads=1", "batch=24", "device=cpu"),
    ]
    train(
        compose(
            "train", [*shared, f"out={folders['teacher']}", f"updates={args.teacher_updates}", "ema=0.99"]
        )
    )
    student = [f"out={folders['student']}", f"teacher={folders['teacher']}", f"recipe={RECIPE}"]
    length = [f"updates={args.student_updates}", "ema=0.98", "evaluation.samples=128", "steps=1,2,4"]
    distill(compose("config", [*shared, *student, *length]))
    found = read_metrics(folders["student"])
    return {
        "rotations": rotations,
        "align": align,
        **{who: {str(p["steps"]): p["metrics"] for p in found[who]} for who in ("teacher", "student")},
        "floor": found["floor"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def table(cells: list[dict[str, Any]]) -> str:
    head = f"{'rotations':10}{'aligned':9}{'model':9}{'steps':>6}" + "".join(f"{name:>10}" for name in SHOWN)
    lines = [head]
    for found in cells:
        for who in ("teacher", "student"):
            for steps, metrics in found[who].items():
                name = f"{found['rotations']:10}{'yes' if found['align'] else 'no':9}{who:9}{steps:>6}"
                lines.append(name + "".join(f"{metrics[key]:10.3f}" for key in SHOWN))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher-updates", type=int, default=500)
    parser.add_argument("--student-updates", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coordinates_alignment.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget = {"teacher_updates": args.teacher_updates, "student_updates": args.student_updates, "batch": 24}
    document = {"seed": args.seed, "recipe": RECIPE, "network": NETWORK, "budget": budget, "cells": []}
    if args.out.is_file():
        kept = json.loads(args.out.read_text())
        if all(kept.get(key) == document[key] for key in ("seed", "recipe", "network", "budget")):
            document = kept
    done = {(found["rotations"], found["align"]) for found in document["cells"]}
    for rotations, align in product(("small", "all"), (True, False)):
        if (rotations, align) in done:
            continue
        document["cells"].append(cell(rotations, align, args))
        document["environment"] = environment("cpu")
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document["cells"]))


if __name__ == "__main__":
    main()
