"""How long an update takes on this machine, and how much memory: each task with weights, a recipe of one network and
one with a critic; and one that takes a forward derivative, beside the same by a difference.

    python benchmarks/speed.py [--device auto] [--updates 40] [--only PATTERN] [--out FILE]

Trains twice and times the second run, so that what a device does once (its kernels' choice, its memory) is not counted.
Each case has a process of its own, whose peak is the case's: on a processor that of the whole program, with torch and
the data in it, on a GPU what torch allocated. The budget is the task's own but for the batch of `CASES`. Without
`--out` the record is `benchmarks/results/speed/DEVICE.json`: milliseconds an update, samples a second, peak memory,
versions and machine. Real data first: `omnidistill data fetch NAME`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from omnidistill.configuration.compose import build, compose
from omnidistill.errors import UserError
from omnidistill.evaluation.environment import environment
from omnidistill.runs import setup
from omnidistill.runs.configured import device_named
from omnidistill.runs.distil import train_student, training_record

RESULTS = Path(__file__).parent / "results" / "speed"
DERIVATIVES = ("scm", "scm by difference")
CASES = (
    # task, batch, recipes
    ("image/fashion_mnist", 64, ("flow-map-matching", "dmd2", *DERIVATIVES)),
    ("audio/music", 64, ("flow-map-matching", "dmd2", *DERIVATIVES)),
    ("speech/tts", 16, ("flow-map-matching", "dmd2")),
    ("video/clips", 32, ("flow-map-matching", "dmd2")),
    ("coordinates/adk", 16, ("flow-map-matching", "dmd2")),
    ("text/brown", 16, ("sdtt", "di-m-o")),
)
VARIANTS = {"scm by difference": ("recipe=scm", "families.flow_map.derivative=difference")}
"""What a name in `CASES` stands for where it is no recipe's."""


def measure(
    task_name: str, recipe: str, batch: int, updates: int, device: str, threads: int = 0
) -> dict[str, Any]:
    """Of one recipe on one task."""
    if threads:
        torch.set_num_threads(threads)
    chosen = VARIANTS.get(recipe, (f"recipe={recipe}",))
    given = [f"task={task_name}", *chosen, f"batch={batch}", f"device={device}", "log.lag=0"]
    cfg = compose("config", [*given, f"updates={updates}", "seed=0", "out=unused"])
    task, where = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, where)
    found: dict[str, Any] = {}
    for _ in range(2):
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            _, _, module = train_student(cfg, task, teacher, Path(folder), where)
        found = training_record(module)
    return {
        "task": task_name,
        "recipe": recipe,
        "batch": batch,
        "precision": str(cfg.precision),
        "ms_an_update": round(1000 * found["seconds"] / updates, 2),
        **{key: found[key] for key in ("samples_per_second", "peak_memory_mb")},
    }


def alone(*case: Any) -> dict[str, Any]:
    """`measure` in a process that ends with it: the peak of one that goes on is that of the largest case so far."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *case).result()


def section() -> list[str]:
    """The part of docs/results.md: a row a task and recipe, a column a machine; memory where each case was measured
    alone."""
    documents = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    if not documents:
        return []
    names = [f"{d['environment']['device']}, {d['environment']['threads']} threads" for d in documents]
    told = any(document.get("alone") for document in documents)
    what = "milliseconds an update" + (" (and MB at its peak)" if told else "")
    lines = ["## Speed", "", f"`python benchmarks/speed.py`: {what}.", ""]
    lines += [
        f"| task | recipe | batch | precision | {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for column, document in enumerate(documents):
        for case in document["cases"]:
            key = (case["task"], case["recipe"], str(case["batch"]), case["precision"])
            memory = f" ({case['peak_memory_mb']:.0f})" if document.get("alone") else ""
            rows.setdefault(key, {})[column] = f"{case['ms_an_update']:.0f}{memory}"
    for key, times in rows.items():
        shown = [times.get(column, "-") for column in range(len(documents))]
        lines.append(f"| {' | '.join((*key, *shown))} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--only", default="", help="tasks that match this pattern, e.g. 'image|tts'")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        where = device_named(args.device)
    except UserError as error:
        parser.error(str(error))
    about = environment(torch.device(where))
    out = args.out or RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', about['device'].lower()).strip('-')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    cases = []
    for task, batch, recipes in CASES:
        for recipe in recipes if re.search(args.only, task) else ():
            cases.append(alone(task, recipe, batch, args.updates, where, args.threads))
            print(cases[-1], flush=True)
            document = {"schema": 1, "seed": 0, "updates": args.updates, "alone": True}
            document |= {"cases": cases, "environment": about}
            out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
