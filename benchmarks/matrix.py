"""The matrix behind the table of all modalities: tasks x recipes at the budgets of configs/tuning/TASK/RECIPE.yaml.

    python benchmarks/matrix.py [key=value ...] [--runs DIR]
    python benchmarks/matrix.py --copy DIR [DIR ...]

Runs `omnidistill sweep sweep=modalities out=DIR key=value ...`, which does what is missing, then writes for each
finished cell `benchmarks/results/matrix/TASK-RECIPE-SEED.json`: the command, its wall time, and the run's metrics.json
with seed, versions and machine; and `unfinished.json` with what failed or cannot be, and why. `--copy` runs nothing and
takes the cells of sweeps that were run elsewhere. Real data first: `omnidistill data fetch NAME` for each name of
`omnidistill data list`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omnidistill.evaluation import cells

RESULTS = Path(__file__).parent / "results" / "matrix"


def command_of(run: Path) -> str:
    """The command of a run without the place where it was run."""
    words = shlex.split((run / "logs" / "command.txt").read_text())
    return shlex.join(word for word in words if word.partition("=")[0] not in ("out", "resume"))


def copy(folders: Sequence[Path], results: Path = RESULTS) -> list[Path]:
    """One file for each finished cell of these sweeps, and one for those that are not."""
    results.mkdir(parents=True, exist_ok=True)
    written, unfinished = [], []
    for found in (found for folder in folders for found in cells.single(cells.find(folder))):
        cell = found.cell
        recipe = cell.recipe or cell.choice
        if found.metrics is None:
            why = {"status": found.status, "reason": found.reason}
            unfinished.append({"task": cell.task, "recipe": recipe, "seed": cell.seed, **why})
            continue
        document = {
            "command": command_of(found.run),
            "wall_seconds": found.seconds,
            "metrics": found.metrics,
        }
        file = results / f"{cell.task.replace('/', '_')}-{recipe}-{cell.seed}.json"
        file.write_text(json.dumps(document, indent=1) + "\n")
        written.append(file)
    (results / "unfinished.json").write_text(json.dumps(unfinished, indent=1) + "\n")
    return written


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--runs", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--copy", type=Path, nargs="+", metavar="DIR")
    args = parser.parse_args()
    status = 0
    if not args.copy:
        command = ["omnidistill", "sweep", "sweep=modalities", f"out={args.runs}", *args.overrides]
        status = subprocess.run([sys.executable, "-m", *command]).returncode
        if status not in (0, 1):  # 1: cells have failed, which is a result, too
            return status
    print(*copy(args.copy or [args.runs]), sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
