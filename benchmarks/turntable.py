"""A 3D toy from its teacher of single views: three recipes, a turntable of each, and what they measure.

    python benchmarks/turntable.py

Writes `docs/scenes/turntable.png` (rows: the toy, then the runs, in larger pictures than were trained on) and
`benchmarks/results/turntable.json`: figures on held-out cameras, calls, seconds, versions and machine.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from omnidistill.cli import main as command
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.metrics_file import read_metrics
from omnidistill.modalities.image.render import render
from omnidistill.modalities.scenes.data import TURNTABLE, repeated, toy
from omnidistill.modalities.scenes.splats import Splats, view
from omnidistill.modalities.scenes.task import ToysTask
from omnidistill.student import load

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "scenes" / "turntable.png"
RESULT = HERE / "results" / "turntable.json"
TASK = ["task=scenes/toys", "steps=1", "threads=1", "evaluation.samples=64", "device=cpu"]
RUNS = {
    "dreamfusion, guidance 7.5": ["recipe=dreamfusion", "guidance=7.5"],
    "dreamfusion, guidance 100": ["recipe=dreamfusion"],
    "nfsd, guidance 7.5": ["recipe=nfsd"],
}
VIEWS, SIZE = 8, 72


def cameras() -> torch.Tensor:
    turns = torch.arange(VIEWS) * (2 * torch.pi / VIEWS)
    return torch.stack((turns, torch.full_like(turns, TURNTABLE)), 1)


def large(splats: Splats, background: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return view(repeated(splats, VIEWS), cameras(), SIZE, background)


def main() -> None:
    torch.set_num_threads(1)
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in RUNS.items():
            out = Path(folder) / name.replace(" ", "-").replace(",", "")
            if command(["distill", *TASK, *words, f"out={out}"]):
                raise SystemExit(f"{name} failed")
            metrics = read_metrics(out)
            student = load(out)
            assert isinstance(student.task, ToysTask)
            scene = student.denoiser.network
            if not rows:
                # The colouring that the first scene chose; others may choose another.
                near, _, _ = student.task._to_toys(
                    student.sample(16), student.task.contexts(16, torch.Generator().manual_seed(0))
                )
                rows.append(large(toy("snowman", int(near.mean(0).argmax())), scene.background))
            rows.append(large(scene.splats(torch.zeros(1, dtype=torch.long)), scene.background))
            (point,) = metrics["student"]
            found[name] = {
                "command": " ".join(["omnidistill distill", *TASK, *words]),
                "figures": point["metrics"],
                "teacher": metrics["teacher"][-1]["metrics"],
                "calls": metrics["training"]["calls"],
                "seconds": metrics["training"]["seconds"],
            }
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    render(torch.cat(rows), PICTURE, columns=VIEWS)
    RESULT.write_text(json.dumps({"runs": found, "environment": environment("cpu")}, indent=1) + "\n")
    print(PICTURE, RESULT)


if __name__ == "__main__":
    main()
