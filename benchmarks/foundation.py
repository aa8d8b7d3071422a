"""The runs behind the figures of README and docs: each is one `omnidistill` command, its metrics.json is kept.

    python benchmarks/foundation.py [NAME ...] [--list] [--runs DIR]

Runs one after another (two trainings at once on two cores slow each other down tenfold) and writes
`benchmarks/results/NAME.json`: the command, its wall time and the run's metrics.json with seed, versions and machine.
Real data first: `omnidistill data fetch fashion_mnist`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

# Chosen without looking at how any recipe does on them: unequal weights, 5 to 12 modes, 2 to 16 dimensions.
SEVEN = (
    "task=exact/gaussian_mixture task.means=[[0,2],[1.5,1.3],[2,-0.5],[0.4,-1.8],[-1.2,-1.5],[-2,0],[-1.3,1.4]] "
    "task.std=0.15 task.weights=[0.3,0.2,0.15,0.1,0.1,0.08,0.07]"
)


def _spread(modes: int, dim: int) -> str:
    """Corners of a cube in `dim` dimensions by a fixed rule, with weights in the ratio 1 : 3."""
    means = [[1.5 if (k * 7 + d * (k + 3)) % 5 < 2 else -1.5 for d in range(dim)] for k in range(modes)]
    for k in range(modes):
        means[k][k % dim] += 0.75
    weights = [1 + 2 * k / (modes - 1) for k in range(modes)]
    return f"task=exact/gaussian_mixture task.means={means} task.std=0.2 task.weights={weights}".replace(
        ", ", ","
    )


MIXTURES = {"mixture_7x2": SEVEN, "mixture_12x8": _spread(12, 8), "mixture_5x16": _spread(5, 16)}
CHAINS = {f"chain_seed{seed}": f"task=exact/markov_text task.seed={seed}" for seed in (3, 11)}

CASES: dict[str, str] = {}
for name, task in MIXTURES.items():
    for recipe in ("consistency-models", "dmd", "dmd2"):
        CASES[f"{name}-{recipe}"] = f"distill {task} recipe={recipe} steps=1,2,4"
for name, task in CHAINS.items():
    CASES[f"{name}-di-m-o"] = f"distill {task} recipe=di-m-o steps=1"
    for recipe in ("cdlm", "sdtt"):
        CASES[f"{name}-{recipe}"] = f"distill {task} recipe={recipe} steps=1,8,64"
# Shapes that nobody tuned for.
CLOUDS = {11: "task.points=12 task.shapes=4", 23: "task.points=9 task.shapes=5"}
for seed, cloud in CLOUDS.items():
    for recipe in ("consistency-models", "dmd2"):
        about = f"distill task=exact/rigid_cloud task.seed={seed} {cloud} recipe={recipe} steps=1,2,4,8"
        CASES[f"rigid_cloud_seed{seed}-{recipe}"] = f"{about} evaluation.samples=2000 threads=1"
CASES |= {
    "fashion_mnist_pixels-dmd2-1step": "distill task=image/fashion_mnist_pixels recipe=dmd2 steps=1",
    "fashion_mnist_pixels-dmd2-4step": "distill task=image/fashion_mnist_pixels recipe=dmd2 student.steps=4 steps=4",
    "fashion_mnist_pixels-consistency-models": (
        "distill task=image/fashion_mnist_pixels recipe=consistency-models steps=1,2,4"
    ),
    "fashion_mnist_pixels-demo": "demo",
}


def run(name: str, arguments: str, runs: Path) -> None:
    """One case, in a folder of its own; the result is written only if the command ended well."""
    out = runs / name
    command = ["omnidistill", *shlex.split(arguments), f"out={out}"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], check=True)
    seconds = time.perf_counter() - began
    document = {
        "command": shlex.join(["omnidistill", *shlex.split(arguments)]),
        "wall_seconds": round(seconds, 1),
        "metrics": json.loads((out / "metrics.json").read_text()),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name}: omnidistill {arguments}" for name, arguments in CASES.items()))
        return
    unknown = [name for name in args.names if name not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]}; --list shows all")
    for name in args.names or CASES:
        run(name, CASES[name], args.runs)


if __name__ == "__main__":
    main()
