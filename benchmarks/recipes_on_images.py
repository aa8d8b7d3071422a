"""Every recipe on the shipped Fashion-MNIST teacher at one budget: 1, 2, 4 and 8 steps, and what an update costs.

    python benchmarks/recipes_on_images.py [NAME ...] [key=value ...] [--again] [--minutes M]
    python benchmarks/recipes_on_images.py --table

Distils `task=image/fashion_mnist recipe=NAME` with the updates, batch and average of `BUDGET` for each of these
recipes, or for all that there are, one at a time on one thread; whatever else the recipe or its tuning on this task
says stays. What has a record is not run again unless `--again` says so; `--minutes` begins no further recipe after so
many. A record,
`benchmarks/results/recipes_on_images/NAME.json`, holds the command that does the same, both curves with intervals, the
gap closed at each step count, between which step counts quality falls, network calls and the seconds of training; of a
recipe that needs what these pictures do not offer it says what. Last comes the table, also as `table.md` beside the
records. Real data first: `omnidistill data fetch fashion_mnist`.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import recipe_records
from matrix_tables import figure, markdown

from omnidistill.configuration import listing
from omnidistill.configuration.compose import build, compose
from omnidistill.errors import NotOffered, RunError, UserError
from omnidistill.evaluation.curve import Point, quality
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.gap import falls, gaps_closed
from omnidistill.evaluation.intervals import RESAMPLES
from omnidistill.runs import setup
from omnidistill.runs.distil import train_student, training_record
from omnidistill.tasks import Metric

RESULTS = Path(__file__).parent / "results" / "recipes_on_images"
STEPS = (1, 2, 4, 8)
BUDGET = (
    "updates=300",
    "batch=32",
    "optim.decay=cosine",
    "optim.hold=0.3",
    "ema=0.98",
)
MANY = 90.0
"""Per cent of the gap at four steps that the table counts recipes by."""


def given(recipe: str) -> list[str]:
    """The overrides of a recipe's run: a tenth of the rate where a discriminator leads, for at the others' it wins."""
    parts = listing.content("recipe", recipe).get("objective") or {}
    leads = any(name.startswith("adversarial") and weight >= 1.0 for name, weight in parts.items())
    rate = "1.0e-4" if leads else "1.0e-3"
    return [
        "task=image/fashion_mnist",
        *BUDGET,
        f"optim.lr={rate}",
        "seed=0",
        "threads=1",
        f"recipe={recipe}",
    ]


def lacks(recipe: str) -> str | None:
    """Why a recipe cannot be run on these pictures, in a line; None where it can."""
    try:
        cfg = compose("config", [*given(recipe), "out=unused"])
        parts = setup.objective_of(cfg, build(cfg.task)).parts
    except (NotOffered, UserError) as error:
        return str(error)
    if all(getattr(part, "rewards", None) is not None for part in parts.values()):
        named = ", ".join(f"'{name}'" for name in parts)
        return (
            f"nothing but rewards ({named}): what is rewarded is not how near pictures are to held-out ones, which "
            "this table measures"
        )
    return None


def run(recipe: str, known: dict[float, list[Point]], more: Sequence[str] = ()) -> dict[str, Any]:
    """A record of one run. `known`: points of the teacher so far by guidance scale."""
    overrides = [*given(recipe), *more]
    cfg = compose("config", [*overrides, "out=unused"])
    words = ["omnidistill", "distill", *overrides, f"steps={','.join(map(str, STEPS))}", "out=DIR"]
    record: dict[str, Any] = {"recipe": recipe, "command": shlex.join(words), "steps": int(cfg.student.steps)}
    task, device = setup.task_of(cfg), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    judged = cfg.evaluation
    options = {"samples": judged.samples, "seed": judged.seed, "batch": judged.batch, "resamples": RESAMPLES}
    began = time.process_time()
    try:
        with tempfile.TemporaryDirectory() as folder:
            student, _, module = train_student(cfg, task, teacher, Path(folder), device)
        record["seconds"] = round(time.process_time() - began, 1)
        made = quality(student, setup.sampler_of(cfg), task, STEPS, name="student", **options)
    except NotOffered as error:
        return {"recipe": recipe, "reason": str(error)}
    except (RunError, UserError) as error:
        return {**record, "seconds": round(time.process_time() - began, 1), "failed": str(error)}
    if cfg.guidance not in known:
        guided = setup.guided(teacher, task, cfg.guidance)
        counts = [*STEPS, task.teacher_steps]
        known[cfg.guidance] = quality(guided, task.sampler(), task, counts, name="teacher", **options)
    trained = {key: training_record(module)[key] for key in ("student_updates", "calls")}
    return {**record, **figures(task.primary, known[cfg.guidance], made), **trained}


def figures(primary: Metric, teacher: Sequence[Point], student: Sequence[Point]) -> dict[str, Any]:
    """What a row of the table needs: both curves, gaps, falls."""
    whole = [[{**p.record(), "resampled": p.resampled} for p in points] for points in (teacher, student)]
    named = {"name": primary.name, "better": primary.better}
    gaps = gaps_closed(named, *whole)
    return {
        "metric": named,
        "teacher": [p.record() for p in teacher],
        "student": [p.record() for p in student],
        "gap": {steps: gap for steps, (gap, _) in gaps.items()},
        "gap_interval": {steps: ends and list(ends) for steps, (_, ends) in gaps.items()},
        "falls": falls(named, whole[1]),
        "environment": environment(),
    }


def teacher(r: Mapping[str, Any]) -> str:
    """The curve that a record is judged by; recipes under guidance have a guided teacher."""
    name = r["metric"]["name"]
    return " / ".join(figure(p["metrics"][name], p["interval"]) for p in r["teacher"])


def row(r: Mapping[str, Any], letter: str) -> list[str]:
    """Of the table."""
    name, ends = r["metric"]["name"], r["gap_interval"]["4"]
    curve = " / ".join(figure(p["metrics"][name], p["interval"]) for p in r["student"])
    gap = "no gap" if r["gap"]["4"] is None else f"{r['gap']['4']:.0f}"
    gap += "" if not ends else f" ({ends[0]:.0f} to {ends[1]:.0f})"
    calls = ", ".join(f"{k} {v / max(1, r['student_updates']):.3g}" for k, v in r["calls"].items() if v)
    monotone = "yes" if not r["falls"] else "no: " + ", ".join(f"{few} to {many}" for few, many in r["falls"])
    return [r["recipe"], str(r["steps"]), letter, curve, gap, monotone, calls, f"{r['seconds']:.0f}"]


def table(records: Sequence[Mapping[str, Any]], lacking: Sequence[str] = ()) -> list[str]:
    """Lines of Markdown: the teachers, a row for each recipe, the best at four steps first; then those that failed or
    do not apply, with reasons, and those not run yet."""
    done = sorted((r for r in records if "gap" in r), key=at_four)
    if not done:
        return []
    letters = {curve: chr(ord("A") + i) for i, curve in enumerate(sorted({teacher(r) for r in done}))}
    counts = ", ".join(map(str, STEPS))
    name = done[0]["metric"]["name"]
    lines = [
        f"- teacher {letter} at {', '.join(str(p['steps']) for p in done[0]['teacher'])}: {curve}"
        for curve, letter in letters.items()
    ]
    head = [
        "recipe",
        "its steps",
        "teacher",
        f"{name} at {counts}",
        "gap closed at 4, %",
        "monotone",
        "calls an update",
        "seconds",
    ]
    lines += ["", *markdown([head, *(row(r, letters[teacher(r)]) for r in done)]), ""]
    for least in (MANY, 100.0):
        met = [r["recipe"] for r in done if (r["gap"]["4"] or 0.0) >= least]
        lines.append(
            f"At least {least:g} % of the gap at 4 steps: {len(met)} of {len(done)}: {', '.join(met) or 'none'}."
        )
    steady = sum(not r["falls"] for r in done)
    lines += [
        "",
        f"Never worse with more steps, within the interval of the difference: {steady} of {len(done)}.",
        "",
    ]
    lines += [f"- {r['recipe']}: failed, {r['failed']}" for r in records if "failed" in r]
    lines += [f"- {r['recipe']}: {r['reason']}" for r in records if "reason" in r]
    return [*lines, *([f"- not run yet: {', '.join(lacking)}"] if lacking else [])]


def at_four(record: Mapping[str, Any]) -> float:
    """The student's metric at four steps, for sorting."""
    name = record["metric"]["name"]
    return next(float(p["metrics"][name]) for p in record["student"] if p["steps"] == 4)


def main() -> int:
    teachers: dict[float, list[Point]] = {}

    def record(name: str, more: list[str]) -> dict[str, Any]:
        reason = lacks(name)
        return {"recipe": name, "reason": reason} if reason else run(name, teachers, more)

    def text(records: list[dict[str, Any]], lacking: list[str]) -> str:
        return "\n".join(table(records, lacking)) + "\n"

    known = [entry["name"] for entry in listing.recipes()]
    return recipe_records.main(__doc__, {"": (RESULTS, ())}, known, record, text, ("gap",))


if __name__ == "__main__":
    sys.exit(main())
