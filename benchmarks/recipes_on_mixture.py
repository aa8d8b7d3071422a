"""Every recipe on a Gaussian mixture given on the command line: does it close 95 % of the gap and keep every mode?

    python benchmarks/recipes_on_mixture.py [NAME ...] [--on plane] [key=value ...] [--again] [--minutes M]
    python benchmarks/recipes_on_mixture.py [--on plane] --table

Distils `task=exact/gaussian_mixture 'task.means=...' recipe=NAME`, nothing else said, for each of these recipes, or for
all that there are, one at a time on one thread; the mixture is one of `MIXTURES`. What has a record is not run again
unless `--again` says so, so that an interrupted table goes on and a new recipe joins it; `--minutes` stops before the
next recipe when so much time is over. Budgets stand in configs/tuning/exact/gaussian_mixture. A record, NAME.json in
the folder of `RESULTS`, holds the command that does the same, the step count that the recipe was trained for, the gap
closed there with its interval, the share of modes of weight >= 5 % that are recalled, seconds of the processor for all
of the training, and network calls; of a recipe that needs what Gaussian states do not offer it says what. Last comes
the table, also as `table.md` beside the records.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import foundation
import recipe_records

from omnidistill.configuration import listing
from omnidistill.configuration.compose import build, compose
from omnidistill.errors import NotOffered, RunError, UserError
from omnidistill.evaluation.curve import Point, quality
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.gap import gaps_closed
from omnidistill.evaluation.intervals import RESAMPLES
from omnidistill.objectives.matching import Matching
from omnidistill.runs import setup
from omnidistill.runs.distil import train_student, training_record

RESULTS = Path(__file__).parent / "results"
LEAST, NEARER, SECONDS = 95.0, 97.0, 240.0

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
PLANE = (*shlex.split(foundation.SEVEN), "threads=1")
SAMPLES = "evaluation.samples=2048"
MIXTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sixteen": ("recipes_on_mixture", (*MIXTURE, SAMPLES)),
    "plane": ("recipes_on_plane", (*PLANE, SAMPLES)),
}
"""The folder of the records, and the mixture: six modes in sixteen dimensions, seven in two."""
FOUR = (
    "At four steps the teacher (Heun's rule, seven calls) leaves an energy distance of about 0.1, and 5 % of that is "
    "less than chance between two perfect sets of 2048 samples. Recipes that need labels have two, each of several "
    "modes. Students that keep their noise are compared with the teacher on the same noise, those that "
    "re-noise are not. Several recipes were run at a time on two cores, which makes seconds longer. Tuning changes "
    "more than budgets, and each file says why: sdxl-lightning closes the gap by the squared error that goes on beside "
    "its discriminators, which alone do not."
)
"""Said below the table."""
WHY: dict[str, str] = {
    "slam": "it re-noises: at two steps it is within chance of the full teacher, at four it is not told from it",
    "arc": "nothing but a discriminator, whose pairs are of labels that leave modes open",
    "add": "score distillation draws samples into modes, and a discriminator is long in spreading them",
    "tdm": "near the prior its critic learns from noise 49 times a sample's size",
    "scott": "where a noisy step of the teacher ends is random given where it began, and a mean of targets makes modes "
    "narrower (its claim)",
    "accvideo": "a jump is learned from stored trajectories, and each of four adds its error (its claim)",
    "diversity-distillation": "its first step is the teacher's, whose answer to noise alone is the mean of all data: "
    "the three steps that are left do the work",
    "distillation-pp": "what the teacher says beside is a mean over all that a state may still become (its claim)",
    "speedupnet": "low-rank adapters alone learn, over a frozen network",
    "flow-opd": "its steps are noisy, and four Gaussian ones are not the law between these modes; the same divergence "
    "along deterministic steps, diffusionopd, closes the gap",
    **dict.fromkeys(
        ("ladd", "adm-dmdx", "gdd-i", "nitrofusion", "seaweed-apt"),
        "nothing but a discriminator teaches a student that starts from means to spread: modes and their weights are "
        "found, their widths only slowly, and under the noise at which the recipe looks hardly at all",
    ),
    "nct": "learned from pairs alone, in sixteen steps of u, each of which adds its error: its modes are too wide",
    "hyper-bagel": "segments have to share their updates with the rate that a critic needs (its claim)",
    "codi": "the distance to the data draws an answer to the mean of what its label leaves open, here a mode's spread; "
    "a larger weight, the recipe's 1, is worse, and without it nothing ties its own steps to the data",
    "ect": "from data alone: its last stages' jumps are so short that their gradient is mostly chance (its claim)",
    "dfd": "data are independent of the sample, so that scores at data only spread it (its claim)",
    "d-ode": "a solver's coefficients alone are fitted",
    "prodiff": "it halves a teacher of four steps, and is at best as good as that",
    "imagine-flash": "its teacher starts from a straight line, off the trajectory (its claim)",
    "swiftbrush": "weighted by alpha sigma and not normalised its pull is weak from a start at the mean",
    "imf": "from data alone, the velocities of which are mostly chance",
    "meanflow": "from data alone, the velocities of which are mostly chance; it was still getting better",
}
"""Why a recipe falls short, as far as it is known."""


def given(recipe: str, needs: list[str], more: Sequence[str] = ()) -> list[str]:
    """The overrides of a recipe's run: the mixture, with labels for those that need a condition: two, in turn; where
    each names a mode one step of the teacher is nearly the whole law."""
    means = next((line.partition("=")[2] for line in more if line.startswith("task.means=")), "[]")
    named = json.dumps([k % 2 for k in range(len(json.loads(means)))], separators=(",", ":"))
    labels = ["task.conditional=true", f"task.labels={named}"] if "condition" in needs else []
    return [*more, *labels, f"recipe={recipe}"]


def lacks(recipe: str, needs: list[str], more: Sequence[str] = MIXTURE) -> str | None:
    """Why a recipe has no figure on Gaussian states, in a line; None where it has."""
    if "anchored" in needs:
        return "needs an anchor, which a mixture does not have"
    try:
        cfg = compose("config", [*given(recipe, needs, more), "out=unused"])
        return elsewhere(setup.objective_of(cfg, build(cfg.task)).parts)
    except (NotOffered, UserError) as error:
        return str(error)


def elsewhere(parts: Mapping[str, Any]) -> str | None:
    """Where these objectives lead, if it is not the teacher's law; None if it is."""
    for name, part in parts.items():
        if getattr(part, "rewards", None) is not None:
            return f"'{name}' moves the law to where a reward is, away from the mixture"
        if isinstance(part, Matching) and part.real.replaced:
            return f"'{name}' moves the law of one label to that of another, away from the mixture"
    matched = [part for part in parts.values() if isinstance(part, Matching)]
    if matched and len(matched) == len(parts) and not any(part.asks for part in matched):
        return (
            "score distillation: moves each sample to a mode by itself, and nothing asks for the law of all"
        )
    return None


def run(
    recipe: str, needs: list[str], known: dict[str, list[Point]], more: Sequence[str] = ()
) -> dict[str, Any]:
    """A record of one run, at one step, two, four and the recipe's own count. `known`: points of teachers so far."""
    overrides = given(recipe, needs, more)
    cfg = compose("config", [*overrides, "out=unused"])
    steps = int(cfg.student.steps)
    counts = sorted({1, 2, 4, steps})
    words = ["omnidistill", "distill", *overrides, f"steps={','.join(map(str, counts))}", "out=DIR"]
    record: dict[str, Any] = {"recipe": recipe, "command": shlex.join(words), "steps": steps}
    task, device = build(cfg.task), setup.device_of(cfg)
    teacher = setup.teacher_of(cfg, task, device)
    options = {
        "samples": int(cfg.evaluation.samples),
        "seed": int(cfg.evaluation.seed),
        "resamples": RESAMPLES,
    }
    guided = setup.guided(teacher, task, cfg.guidance)
    shown = known.setdefault(f"{task.conditional} {cfg.guidance} {options['samples']}", [])
    lacking = sorted({*counts, task.teacher_steps} - {point.steps for point in shown})
    shown += quality(guided, task.sampler(), task, lacking, name="teacher", **options) if lacking else []
    there = [point for point in shown if point.steps == steps]
    if figures(task.primary.name, shown, there, steps)["gap"] is None:
        return {
            "recipe": recipe,
            "reason": f"no gap to close: the teacher at {steps} steps is as good as in full",
        }
    began = time.process_time()
    try:
        with tempfile.TemporaryDirectory() as folder:
            student, _, module = train_student(cfg, task, teacher, Path(folder), device)
        record["seconds"] = round(time.process_time() - began, 1)
        made = quality(student, setup.sampler_of(cfg), task, counts, name="student", **options)
    except NotOffered as error:
        return {"recipe": recipe, "reason": str(error)}
    except (RunError, UserError) as error:
        return {**record, "seconds": round(time.process_time() - began, 1), "failed": str(error)}
    trained = {key: training_record(module)[key] for key in ("student_updates", "calls")}
    return {**record, **figures(task.primary.name, shown, made, steps), **trained}


def figures(name: str, teacher: list[Point], student: list[Point], steps: int) -> dict[str, Any]:
    """What a row of the table needs, and both curves. `name`: of the primary metric."""
    whole = [[{**p.record(), "resampled": p.resampled} for p in points] for points in (teacher, student)]
    gaps = gaps_closed({"name": name, "better": "lower"}, *whole)
    value, ends = gaps[str(steps)]
    modes = next(p for p in student if p.steps == steps).metrics["heavy_modes_recalled"]
    return {
        "gap": value,
        "gap_interval": None if ends is None else list(ends),
        "modes": modes,
        "gaps": {count: gap for count, (gap, _) in gaps.items()},
        "student": {str(p.steps): [p.metrics[name], *(p.interval or ())] for p in student},
        "teacher": {str(p.steps): p.metrics[name] for p in sorted(teacher, key=lambda p: p.steps)},
        "environment": environment(),
    }


def holds(record: dict[str, Any]) -> bool:
    """Whether a recipe does what is asked of each: the gap, every heavy mode, within the time."""
    gap = record.get("gap")
    return gap is not None and gap >= LEAST and record["modes"] == 1.0 and record["seconds"] <= SECONDS


def verdict(record: dict[str, Any]) -> str:
    """`not told`: it falls short, by less than its interval."""
    ends = record["gap_interval"]
    near = bool(ends) and ends[1] >= LEAST and record["modes"] == 1.0 and record["seconds"] <= SECONDS
    return "yes" if holds(record) else "not told" if near else "no"


def table(records: list[dict[str, Any]], lacking: Sequence[str] = ()) -> str:
    """Markdown, a row for each recipe; those that do not apply come last, with their reasons, and those not run yet."""
    lines = [
        "| recipe | steps | gap closed, % | heavy modes | seconds | updates | calls an update | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in (r for r in records if "gap" in r):
        ends = r["gap_interval"]
        gap = "no gap" if r["gap"] is None else f"{r['gap']:.1f}"
        gap += "" if not ends else f" ({ends[0]:.1f} to {ends[1]:.1f})"
        calls = ", ".join(f"{k} {v / max(1, r['student_updates']):.3g}" for k, v in r["calls"].items())
        row = (
            r["recipe"],
            r["steps"],
            gap,
            f"{r['modes']:.2f}",
            f"{r['seconds']:.0f}",
            r["student_updates"],
            calls,
        )
        lines.append("| " + " | ".join(map(str, (*row, verdict(r)))) + " |")
    done = [r for r in records if "gap" in r]
    asked = [r for r in done if r["gap"] is not None]
    lines += [
        "",
        f"{sum(map(holds, asked))} of {len(asked)} hold; `not told` are within their interval of it. {FOUR}",
        "",
    ]
    if single := [r for r in asked if r["steps"] == 1]:
        near = {r["recipe"]: r["gap"] for r in single if r["gap"] < NEARER}
        rest = ", ".join(f"{name} {gap:.1f}" for name, gap in sorted(near.items(), key=lambda pair: -pair[1]))
        lines += [
            f"Of {len(single)} recipes of one step {len(single) - len(near)} close {NEARER:g} %; the others: "
            f"{rest or 'none'}.",
            "",
        ]
    more = [r["recipe"] for r in done if not typed(r["command"])]
    said = "with more said than the mixture and the recipe, by the commands in their records"
    lines += [f"- {said}: {', '.join(more)}"] if more else []
    short = [r["recipe"] for r in asked if r["gap"] < LEAST and r["recipe"] in WHY]
    lines += [f"- {name} falls short: {WHY[name]}" for name in short]
    slow = [r["recipe"] for r in asked if r["gap"] >= LEAST and r["seconds"] > SECONDS]
    lines += [f"- near enough, but later than after {SECONDS:g} seconds: {', '.join(slow)}"] if slow else []
    lines += [f"- {r['recipe']}: failed, {r['failed']}" for r in records if "failed" in r]
    lines += [f"- {r['recipe']}: {r['reason']}" for r in records if "reason" in r]
    lines += [f"- not run yet: {', '.join(lacking)}"] if lacking else []
    return "\n".join(lines) + "\n"


def typed(command: str) -> bool:
    """Whether a command says what the mixture is, and which recipe, and nothing else."""
    keys = {word.partition("=")[0] for word in shlex.split(command) if "=" in word}
    of_task = {"task", "task.means", "task.std", "task.weights", "task.teacher_steps"}
    of_task |= {"task.conditional", "task.labels"}
    return keys <= {*of_task, "threads", "evaluation.samples", "recipe", "steps", "out"}


def main() -> int:
    teachers: dict[str, list[Point]] = {}
    needs = {entry["name"]: entry["needs"] for entry in listing.recipes()}

    def record(name: str, more: list[str]) -> dict[str, Any]:
        if reason := lacks(name, needs[name], more):
            return {"recipe": name, "reason": reason}
        return run(name, needs[name], teachers, more)

    places = {name: (RESULTS / folder, mixture) for name, (folder, mixture) in MIXTURES.items()}
    return recipe_records.main(__doc__, places, needs, record, table, ("gap", "modes"))


if __name__ == "__main__":
    sys.exit(main())
