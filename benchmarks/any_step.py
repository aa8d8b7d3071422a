"""One student read at 1, 2, 4, 8 steps, and 16 where the teacher is exact: is it ever worse with more?

    python benchmarks/any_step.py [NAME ...] [--again]
    python benchmarks/any_step.py --table

Runs `omnidistill distill` for each of these cells, or for all, on one thread, and writes
`benchmarks/results/any_step/NAME.json`: the command, its wall time, and the run's metrics.json with seed, versions and
machine. What has a record is not run again unless `--again` says so. Last comes the table, also as
`table.md` beside the records: teacher and student at each step count, the share of the gap closed, and whether quality
is monotone within the interval of the difference, or between which step counts it falls. Cells of `LONG`, which want a
GPU, are run where they are named alone. Under them, on the same tasks, the students of `benchmarks/results/matrix`.

Budgets stand in configs/tuning/TASK/RECIPE.yaml. Real data first: `omnidistill data fetch NAME`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrix_tables import figure, markdown
from recipes_on_mixture import MIXTURE as SIX

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "any_step"
MATRIX = HERE / "results" / "matrix"
BESIDE = ("rigid_cloud_seed11-consistency-models", "rigid_cloud_seed11-dmd2")
"""Other students on the clouds of a cell, in the folder above."""

STEPS = (1, 2, 4, 8, 16)

OWN = "evaluation.transitions=[]"
"""By its own transition alone."""

EXACT = (f"steps={','.join(map(str, STEPS))}",)
REAL = ("steps=1,2,4,8",)
MIXTURE = (
    *EXACT,
    *("task=exact/gaussian_mixture", "task.means=[[1.5,0],[-1,1],[-0.5,-1.2]]", "task.weights=[0.5,0.3,0.2]"),
    *("task.network={width: 96, depth: 3}", "evaluation.samples=8192"),
)
EXACTER = (
    *MIXTURE[:-2],
    *(
        "task.path=vp_linear",
        "task.network={width: 192, depth: 4, ratio: 100}",
        "evaluation.samples=8192",
        OWN,
    ),
    *("batch=512", "optim.lr=1.0e-3", "optim.decay=linear", "ema=0.995", "fit.updates=2000"),
)
"""On this path the teacher needs many steps, so that 1 % of the gap at 4 is not below what the samples show; a larger
student and a longer run, for what 1 % asks of it."""
SIXTEEN = (*EXACT, *SIX, "evaluation.samples=16384")
"""As anybody types it: the mixture and the recipe. The gap at four steps is wide there and a student that keeps its
noise shares the teacher's, so that 1 % of it is told."""
CLOUDS = (
    *EXACT,
    *("task=exact/rigid_cloud", "task.seed=11", "task.points=12", "task.shapes=4"),
    "evaluation.samples=2000",
)
TOKENS = (
    *EXACT,
    *("task=exact/markov_text", "task.path=onehot", "task.vocab=6", "task.length=8"),
    *("task.network={width: 48, depth: 2, heads: 4}", "evaluation.samples=2048"),
)
CELLS: Mapping[str, tuple[str, ...]] = {
    "mixture-flow-map-matching": (*MIXTURE, "recipe=flow-map-matching"),
    "mixture-anyflow": (*MIXTURE, "recipe=anyflow"),
    "mixture-pdd": (*MIXTURE, "recipe=pdd"),
    "mixture_vp_linear-flow-map-matching": (*EXACTER, "updates=6000", "recipe=flow-map-matching"),
    "mixture_vp_linear_seed1-flow-map-matching": (
        *EXACTER,
        "updates=6000",
        "recipe=flow-map-matching",
        "seed=1",
    ),
    "mixture_vp_linear-anyflow": (*EXACTER, "updates=5000", "recipe=anyflow"),
    **{
        f"mixture_16d-{recipe}": (*SIXTEEN, f"recipe={recipe}")
        for recipe in ("flow-map-matching", "anyflow", "pdd", "consistency-models")
    },
    "rigid_cloud-flow-map-matching": (*CLOUDS, "recipe=flow-map-matching"),
    "markov_text_onehot-flow-map-matching": (*TOKENS, "recipe=flow-map-matching"),
    "fashion_mnist-flow-map-matching": ("task=image/fashion_mnist", "recipe=flow-map-matching", *REAL),
    "adk-flow-map-matching": ("task=coordinates/adk", "recipe=flow-map-matching", *REAL, OWN),
    "music-flow-map-matching": ("task=audio/music", "recipe=flow-map-matching", *REAL, OWN),
    "tts-flow-map-matching": ("task=speech/tts", "recipe=flow-map-matching", *REAL, OWN),
    "clips-flow-map-matching": ("task=video/clips", "recipe=flow-map-matching", *REAL, OWN),
}

LONG: Mapping[str, tuple[str, ...]] = {
    "fashion_mnist_long-flow-map-matching": (
        *("task=image/fashion_mnist", "recipe=flow-map-matching", *REAL, OWN),
        *("updates=5000", "batch=256", "ema=0.999"),
    ),
    "music_long-flow-map-matching": (
        *("task=audio/music", "recipe=flow-map-matching", *REAL, OWN),
        *("updates=4500", "batch=128", "ema=0.999"),
    ),
    "tts_long-flow-map-matching": (
        *("task=speech/tts", "recipe=flow-map-matching", *REAL, OWN),
        *("updates=5000", "batch=64", "ema=0.999"),
    ),
    "clips_long-flow-map-matching": (
        *("task=video/clips", "recipe=flow-map-matching", *REAL, OWN),
        *("updates=4000", "batch=64", "ema=0.999"),
    ),
    "rigid_cloud_long-flow-map-matching": (
        *(*CLOUDS, OWN, "recipe=flow-map-matching", "task.network={clouds: 32, width: 256, depth: 4}"),
        *("updates=5000", "batch=512", "fit.updates=3000", "optim.lr=1.0e-3", "ema=0.999"),
    ),
    "markov_text_onehot_long-flow-map-matching": (
        *(*TOKENS[:-2], OWN, "recipe=flow-map-matching", "task.network={width: 128, depth: 4, heads: 4}"),
        *("evaluation.samples=8192", "updates=5000", "batch=512", "fit.updates=2000", "optim.lr=1.0e-3"),
        "ema=0.999",
    ),
    "adk_long-flow-map-matching": (
        *("task=coordinates/adk", "recipe=flow-map-matching", *REAL, OWN),
        *("updates=3000", "batch=32", "ema=0.995"),
    ),
}
"""Minutes of a GPU, an hour of a processor: run by name alone."""


def run(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The record of one cell."""
    words = ["distill", "seed=0", "threads=1", *overrides]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run([sys.executable, "-m", "omnidistill", *words, f"out={out}"], check=True)
        metrics = json.loads((out / "metrics.json").read_text())
    command = shlex.join(["omnidistill", *words])
    return {"command": command, "wall_seconds": round(time.monotonic() - began, 1), "metrics": metrics}


def row(cell: str, document: Mapping[str, Any]) -> list[str]:
    """Of the table: the teacher whole and at the student's step counts, the student, and what became of it.

    Args:
        cell: what the record's file is called, which tells one setting of a task from another.
    """
    metrics = document["metrics"]
    name = metrics["primary"]["name"]
    points = {
        who: {point["steps"]: point for point in metrics[who] if point["steps"] in STEPS}
        for who in ("teacher", "student")
    }
    full = max(metrics["teacher"], key=lambda point: point["steps"])
    shown = [
        " / ".join(figure(points[who][k]["metrics"][name]) if k in points[who] else "-" for k in STEPS)
        for who in ("teacher", "student")
    ]
    by = [
        f"{how} "
        + " / ".join(figure(p["metrics"][name]) for p in sorted(found["points"], key=lambda p: p["steps"]))
        for how, found in metrics.get("transitions", {}).items()
    ]
    gaps = metrics["gap_closed"]
    closed = " / ".join("-" if gaps.get(str(k)) is None else f"{gaps[str(k)]:.1f}" for k in STEPS)
    falls = metrics["falls"]
    device = metrics["environment"]["device"]
    return [
        cell,
        metrics["task"],
        metrics["recipe"],
        f"{name} {({'lower': '↓', 'higher': '↑'})[metrics['primary']['better']]}",
        f"{figure(full['metrics'][name])} ({full['steps']})",
        *shown,
        "; ".join(by) or "-",
        closed,
        "yes" if not falls else "no: " + ", ".join(f"{few} to {many}" for few, many in falls),
        f"{document['wall_seconds'] / 60:.1f}{'' if device == 'cpu' else f' ({device})'}",
    ]


def table() -> list[str]:
    """The lines of a Markdown table; none where there are no results. Students of the matrix last, on tasks in it."""
    records = {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}
    tasks = {record["metrics"]["task"] for record in records.values()}
    files = [*sorted(MATRIX.glob("*-*.json")), *(MATRIX.parent / f"{name}.json" for name in BESIDE)]
    others = {file.stem: json.loads(file.read_text()) for file in files if file.is_file()}
    records |= {name: other for name, other in others.items() if other["metrics"]["task"] in tasks}
    if not records:
        return []
    steps = ", ".join(map(str, STEPS))
    head = ["cell", "task", "recipe", "metric", "teacher, full", f"teacher at {steps}", f"student at {steps}"]
    head.append(f"by other transitions at {', '.join(map(str, STEPS[1:]))}")
    rows = [[*head, "gap closed, %", "monotone", "minutes"]]
    return markdown([*rows, *(row(name, record) for name, record in records.items())])


ABOUT = (
    "A cell's command stands in its record; those of `_long` were run on a GPU. On most mixtures 1 % of the gap at "
    "four steps is less than what samples tell, as the intervals in the records say, so that 99 % there is shown "
    "where the teacher needs more steps (`vp_linear`) and not refuted elsewhere. Why a cell is worse with more steps: "
    "`consistency-models` re-noises, and each answer has its own error; `dmd2` here is trained for one step; of "
    "`anyflow` on `vp_linear` the critic's error is what is left, at every step count; `flow-map-matching` there loses "
    "with seed 1 from two steps to four what is hardly above chance."
)
"""Said below the table."""


def section() -> list[str]:
    """The part of docs/results.md."""
    lines = table()
    return (
        []
        if not lines
        else ["## Any step", "", "`python benchmarks/any_step.py`", "", *lines, "", *whole(), "", ABOUT, ""]
    )


def whole(at: int = 8) -> list[str]:
    """Which cells are as good at so many steps as their teacher in full."""
    met: dict[str, list[str]] = {"better": [], "told": [], "not": []}
    for cell in sorted(file.stem for file in RESULTS.glob("*.json")):
        metrics = json.loads((RESULTS / f"{cell}.json").read_text())["metrics"]
        own = next((p for p in metrics["student"] if p["steps"] == at), None)
        full = max(metrics["teacher"], key=lambda p: p["steps"])
        if own is None or not own.get("interval") or not full.get("interval"):
            continue
        sign = 1.0 if metrics["primary"]["better"] == "lower" else -1.0
        low, high = sorted(sign * end for end in own["interval"])
        least, most = sorted(sign * end for end in full["interval"])
        met["not" if low > most else "better" if high < least else "told"].append(cell)
    said = {"better": "better than", "told": "not told from", "not": "not as good as"}
    return [
        f"- at {at} steps {said[key]} the teacher in full: {', '.join(cells) or 'none'}"
        for key, cells in met.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*CELLS, *LONG]))
    parser.add_argument("--again", action="store_true", help="also what has a record")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args()
    known = {**CELLS, **LONG}
    if unknown := sorted(set(args.names) - set(known)):
        parser.error(f"no cell is called {', '.join(unknown)}; there are {', '.join(known)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in () if args.table else args.names or CELLS:
        file = RESULTS / f"{name}.json"
        if args.again or not file.exists():
            file.write_text(json.dumps(run(known[name]), indent=1) + "\n")
    lines = table()
    (RESULTS / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
