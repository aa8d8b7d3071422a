"""Every recipe on one Gaussian mixture given on the command line: does it close 95 % of the gap and keep every mode?

    python benchmarks/recipes_on_mixture.py [NAME ...] [--again] [--runs DIR]
    python benchmarks/recipes_on_mixture.py --table

Runs `omnidistill distill task=exact/gaussian_mixture 'task.means=...' recipe=NAME` for each of these recipes, or for
all that there are, one at a time and each in a process of its own; what has a record is not run again unless `--again`
says so, so that an interrupted table goes on and a new recipe joins it. The budget is that of the recipe's own tuning
on the task. A record, `benchmarks/results/recipes_on_mixture/NAME.json`, holds the command, the step count that the
recipe was trained for, the gap closed there with its interval, the share of modes of weight >= 5 % that are recalled,
wall seconds and network calls; of a recipe that needs what Gaussian states do not offer it says what. Last comes the
table, also as `table.md` beside the records.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from omnidistill.configuration import listing
from omnidistill.configuration.compose import build, compose
from omnidistill.errors import NotOffered, UserError
from omnidistill.evaluation.metrics_file import read_metrics
from omnidistill.runs import setup

RESULTS = Path(__file__).parent / "results" / "recipes_on_mixture"
LEAST, SECONDS = 95.0, 240.0

MEANS = (
    (1.0, -0.6, 0.4, 0.8, -0.2, 0.5, -0.9, 0.3, 0.7, -0.4, 0.1, -0.8, 0.6, 0.2, -0.5, 0.9),
    (-0.8, 0.9, -0.3, 0.1, 0.7, -0.6, 0.4, -1.0, 0.2, 0.8, -0.5, 0.3, -0.7, 0.6, 0.9, -0.1),
    (0.2, 0.4, -1.0, -0.7, 0.5, 0.9, 0.1, 0.6, -0.8, -0.3, 0.8, 0.7, -0.4, -0.9, 0.3, -0.6),
    (-0.5, -0.9, 0.8, -0.4, -0.7, 0.2, 0.9, 0.5, -0.1, 0.6, -0.3, 0.4, 1.0, -0.2, -0.8, 0.7),
    (0.6, 0.1, 0.3, -1.0, 0.9, -0.8, -0.5, -0.2, 0.4, 0.7, 0.9, -0.6, -0.1, 0.8, -0.3, -0.4),
    (-0.3, 0.7, 0.9, 0.6, -0.4, -0.1, -0.8, 0.8, -0.6, -0.9, -0.2, 0.5, 0.3, -0.7, 0.4, -1.0),
)
"""Six points in sixteen dimensions, some four apart."""
MIXTURE = (
    "task=exact/gaussian_mixture",
    f"task.means={json.dumps(MEANS, separators=(',', ':'))}",
    "task.std=0.3",
    "task.weights=[0.3,0.25,0.2,0.1,0.1,0.05]",
    "task.teacher_steps=32",
    "threads=1",
)


def given(recipe: str, needs: list[str]) -> list[str]:
    """The overrides of a recipe's run: the mixture, with labels for those that need a condition."""
    return [*MIXTURE, *(["task.conditional=true"] if "condition" in needs else []), f"recipe={recipe}"]


def lacks(recipe: str, needs: list[str]) -> str | None:
    """Why a recipe cannot be run on Gaussian states, in a line; None where it can."""
    if "anchored" in needs:
        return "needs an anchor, which a mixture does not have"
    try:
        cfg = compose("config", [*given(recipe, needs), "out=unused"])
        setup.objective_of(cfg, build(cfg.task))
    except (NotOffered, UserError) as error:
        return str(error)
    return None


def run(recipe: str, needs: list[str], folder: Path) -> dict[str, Any]:
    """One run in a process of its own, at one step, two and the recipe's own count."""
    overrides = given(recipe, needs)
    cfg = compose("config", [*overrides, "out=unused"])
    steps = int(cfg.student.steps)
    counts = ",".join(str(n) for n in sorted({1, 2, 4, steps}))
    words = ["omnidistill", "distill", *overrides, f"steps={counts}"]
    began = time.monotonic()
    made = subprocess.run(
        [sys.executable, "-m", *words, f"out={folder / recipe}"], capture_output=True, text=True
    )
    seconds = round(time.monotonic() - began, 1)
    record: dict[str, Any] = {
        "recipe": recipe,
        "command": shlex.join(words),
        "steps": steps,
        "seconds": seconds,
    }
    if made.returncode:
        last = (made.stderr.strip().splitlines() or ["no word"])[-1]
        return {**record, "failed": last}
    return {**record, **figures(read_metrics(folder / recipe), steps)}


def figures(document: dict[str, Any], steps: int) -> dict[str, Any]:
    """What a row of the table needs of a run's metrics.json, and the whole curve of the student."""
    points = {point["steps"]: point for point in document["student"]}
    name = document["primary"]["name"]
    return {
        "gap": document["gap_closed"].get(str(steps)),
        "gap_interval": document["gap_interval"].get(str(steps)),
        "modes": points[steps]["metrics"]["heavy_modes_recalled"],
        "curve": {str(k): {name: p["metrics"][name], "interval": p["interval"]} for k, p in points.items()},
        "gaps": document["gap_closed"],
        "teacher": {str(p["steps"]): p["metrics"][name] for p in document["teacher"]},
        "updates": document["training"]["student_updates"],
        "calls": document["training"]["calls"],
        "environment": document["environment"],
    }


def holds(record: dict[str, Any]) -> bool:
    """Whether a recipe does what is asked of each: the gap, every heavy mode, within the time."""
    gap = record.get("gap")
    return gap is not None and gap >= LEAST and record["modes"] == 1.0 and record["seconds"] <= SECONDS


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, a row for each recipe; those that do not apply come last, with their reasons."""
    lines = [
        "| recipe | steps | gap closed, % | heavy modes | seconds | calls a student update | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in (r for r in records if "gap" in r):
        ends = r["gap_interval"]
        gap = "no gap" if r["gap"] is None else f"{r['gap']:.1f}"
        gap += "" if not ends else f" ({ends[0]:.1f} to {ends[1]:.1f})"
        calls = ", ".join(f"{k} {v / r['updates']:.3g}" for k, v in r["calls"].items())
        row = (r["recipe"], r["steps"], gap, f"{r['modes']:.2f}", f"{r['seconds']:.0f}", calls)
        lines.append("| " + " | ".join(map(str, (*row, "yes" if holds(r) else "no"))) + " |")
    done = [r for r in records if "gap" in r]
    lines += ["", f"{sum(map(holds, done))} of {len(done)} hold.", ""]
    lines += [f"- {r['recipe']}: failed, {r['failed']}" for r in records if "failed" in r]
    lines += [f"- {r['recipe']}: {r['reason']}" for r in records if "reason" in r]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--again", action="store_true", help="also what has a record")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--runs", type=Path, help="keep the runs here")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    known = {entry["name"]: entry["needs"] for entry in listing.recipes()}
    for name in () if args.table else args.names or known:
        file = RESULTS / f"{name}.json"
        if file.exists() and not args.again:
            continue
        if reason := lacks(name, known[name]):
            record = {"recipe": name, "reason": reason}
        else:
            with tempfile.TemporaryDirectory() as folder:
                record = run(name, known[name], args.runs or Path(folder))
        file.write_text(json.dumps(record, indent=1) + "\n")
        print(name, {k: record.get(k) for k in ("gap", "modes", "seconds", "reason", "failed")}, flush=True)
    records = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    (RESULTS / "table.md").write_text(table(records))
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
