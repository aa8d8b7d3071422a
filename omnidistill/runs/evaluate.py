"""Quality against steps of a run's teacher and student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

import torch
from omegaconf import DictConfig

import omnidistill
from omnidistill.configuration import listing
from omnidistill.configuration.compose import load_config
from omnidistill.context import Context
from omnidistill.denoisers import Denoiser, Told
from omnidistill.errors import UserError
from omnidistill.evaluation.curve import KEPT, Point, baseline, floor, quality
from omnidistill.evaluation.environment import environment
from omnidistill.evaluation.intervals import RESAMPLES
from omnidistill.evaluation.metrics_file import metrics_document, read_metrics, write_metrics
from omnidistill.evaluation.report import write_report
from omnidistill.evaluation.shared import Shared, digest, home
from omnidistill.evaluation.table import print_table
from omnidistill.paths import Path
from omnidistill.progress import track
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.samplers import FewStep, Growing
from omnidistill.samplers.walker import innermost, walkers
from omnidistill.student import Recipe, led, read_denoiser
from omnidistill.tasks import Task


def judge(
    cfg: DictConfig, task: Task, teacher: Denoiser, student: Denoiser, training: dict[str, Any], out: FilePath
) -> dict[str, Any]:
    """Evaluates both at the run's step counts, the teacher at its full steps too, in the run's precision; writes
    metrics.json, samples and report.html and prints the table. A cell of a sweep takes the points of the teacher that a
    former cell has measured."""
    steps = sorted({int(s) for s in cfg.steps})
    seed = cfg.evaluation.seed
    options = {"samples": cfg.evaluation.samples, "seed": seed, "batch": cfg.evaluation.batch}
    options["resamples"] = RESAMPLES
    # Runs of before do not say; a metric of the student's own is no part of what tasks measure.
    options["round_trips"] = bool(cfg.evaluation.get("round_trip", False))
    full = sorted({*steps, *cfg.evaluation.teacher_steps, task.teacher_steps})
    task.meet(teacher, cfg.evaluation.samples, seed)
    real = floor(task, cfg.evaluation.samples, seed)
    low = torch.autocast(setup.device_of(cfg), torch.bfloat16, enabled=cfg.precision == "bf16")
    kept, context = _kept(cfg, task, teacher, options, real, out), Context()
    if kept.folder is not None:
        context = task.contexts(cfg.evaluation.samples, generator(seed, "evaluation", "contexts"))

    def measure(counts: list[int], alive: Callable[[], None]) -> list[Point]:
        with low, _bar(counts, options, "sampling the teacher", alive) as progress:
            return quality(
                teacher, task.sampler(), task, counts, progress=progress, name="teacher", **options
            )

    teacher_points = kept.points(full, context, measure, str(out))
    options["translates"] = cfg.student.get("inputs") == "translated"
    with low, _bar(steps, options, "sampling the student") as progress:
        sampler = setup.sampler_of(cfg)
        student_points = quality(student, sampler, task, steps, progress=progress, name="student", **options)
    # Walkers are made for the walk that they are saved with.
    asked = None if walkers(student) else cfg.evaluation.get("transitions")
    by = other_samplers(asked, sampler, task.path)
    several = [count for count in steps if count > 1]  # at one step all of them are the same
    others = {}
    for name, other in by.items() if several else ():
        with low, _bar(several, options, f"sampling the student by {name}") as progress:
            others[name] = quality(
                student, other, task, several, progress=progress, name=f"student by {name}", keep=0, **options
            )
    inputs = baseline(task, cfg.evaluation.samples, seed, resamples=RESAMPLES)
    document = metrics_document(
        task,
        cfg.recipe.name,
        cfg.seed,
        teacher=teacher_points,
        student=student_points,
        floor=real,
        training=training,
        environment=environment(str(setup.device_of(cfg))),
        samples=cfg.evaluation.samples,
        inputs=inputs,
        transition=sampler.transition,
        others=others,
    )
    write_metrics(document, out)
    _render(task, out / "samples", teacher_points, student_points, inputs, seed)
    write_report(out)
    print_table(document)
    return document


GAMMA = 0.5
"""Share of the noise that `gamma` draws anew where the run's student has no gamma of its own."""


def other_samplers(names: Sequence[str] | None, own: FewStep, path: Path) -> dict[str, FewStep]:
    """The samplers by which a student is judged beside its own: of `names` those that its path allows, on the same
    times. Tokens have one way of keeping what is resolved, and no other; nor have states that grow."""
    if isinstance(own, Growing):
        return {}
    needs = {
        "renoise": {"gaussian"},
        "ode": {"gaussian", "deterministic"},
        "gamma": {"gaussian", "deterministic"},
    }
    return {
        name: FewStep(name, own.listed, own.shift, GAMMA if name == "gamma" else None)
        for name in names or ()
        if name != own.transition and needs[name] <= path.offers
    }


def _kept(
    cfg: DictConfig,
    task: Task,
    teacher: Denoiser,
    options: dict[str, Any],
    real: dict[str, float],
    out: FilePath,
) -> Shared:
    """Where a sweep keeps the teacher's points; the metrics of its real data stand for the data themselves."""
    folder = home(out)
    if folder is None:
        return Shared(None, "", task.primary.name)
    sampler = task.sampler()
    # A recipe may give its students a network of another size; the teacher's own is in its weights.
    told = {key: value for key, value in setup.plain(cfg.task).items() if key != "network"}
    key = digest(
        teacher,
        task=told,
        sampler=[type(sampler).__qualname__, vars(sampler)],
        guidance=cfg.guidance,
        precision=cfg.precision,
        device=setup.device_of(cfg),
        threads=torch.get_num_threads(),
        versions=[omnidistill.__version__, torch.__version__],
        real=real,
        **(
            {"teachers": [digest(one) for _, one in several]}
            if (several := getattr(teacher, "denoisers", None))
            else {}
        ),
        **({"route": setup.plain(cfg.route)} if several else {}),
        **({"rewards": rewards} if (rewards := setup.rewards_of(cfg)) else {}),
        **options,
    )
    return Shared(folder, key, task.primary.name)


def _render(
    task: Task,
    folder: FilePath,
    teacher: Sequence[Point],
    student: Sequence[Point],
    inputs: Point | None,
    seed: int,
    count: int = KEPT,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in [path for name in ("teacher_*", "student_*", "real*", "input*") for path in folder.glob(name)]:
        old.unlink()  # of an evaluation at other step counts; the page shows what lies here
    for name, points in (("teacher", teacher), ("student", student)):
        for point in points:
            task.render(point.x0, point.context, folder / f"{name}_{point.steps}")
    if inputs is not None:
        task.render(inputs.x0, inputs.context, folder / "input")
    context = next((point.context for point in (*teacher, *student)), Context())
    if context.reference is not None:  # the truth of the very items that the models were asked for
        task.render(context.reference, context, folder / "real")
        return
    real = task.batch(count, generator(seed, "evaluation", "real"), "held_out")
    if real.x0 is not None:
        task.render(real.x0, real.context, folder / "real")


@contextmanager
def _bar(
    steps: Sequence[int], options: dict[str, Any], title: str, each: Callable[[], None] = lambda: None
) -> Any:
    batches = -(-options["samples"] // options["batch"])
    with track(sum(steps) * batches, title) as advance:
        seen = 0

        def progress(done: int, total: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done
            each()

        yield progress


def evaluate(
    folder: str | FilePath, changes: Callable[[DictConfig], DictConfig] | None = None
) -> dict[str, Any]:
    """Evaluates a finished run again, e.g. at other step counts; the training record stays as it was."""
    out = FilePath(folder)
    cfg = load_config(out)
    if changes:
        cfg = changes(cfg)
    device = setup.device_of(cfg)
    if cfg.task.get("name") == listing.OWN:
        raise UserError(
            f"the student in {out} was made from your own module, which no file holds: omnidistill.load({str(out)!r}, "
            "network=, path=) samples it, and report shows what was measured"
        )
    task = setup.task_of(cfg)
    if setup.rewards_of(cfg):
        setup.judged_by_rewards(task, setup.objective_of(cfg, task))
    student, recipe = read_denoiser(out, "student", setup.of_student(cfg, task)[1], device)
    bare = setup.teacher_of(cfg, task, device)
    student = _as_asked(cfg, task, student, recipe, bare, device)
    teacher = setup.guided(bare, task, cfg.guidance)
    return judge(cfg, task, teacher, student, read_metrics(out)["training"], out)


def _as_asked(
    cfg: DictConfig, task: Task, student: Denoiser, recipe: Recipe, teacher: Denoiser, device: str
) -> Denoiser:
    """The student with other walkers than it was saved with, where the configuration asks for others."""
    asked, former = setup.plain(cfg.student.get("inference")) or {}, dict(recipe.inference or {})
    if asked == former:
        return student
    kept = dict(zip(former, walkers(student), strict=True))
    chain = []
    for (name, options), walker in zip(asked.items(), setup.chain_of(cfg), strict=True):
        if options == former.get(name):
            walker = kept[name]
        elif walker.learns:
            raise UserError(
                f"student.inference.{name} was learned, and evaluating learns nothing; distil anew"
            )
        chain.append(walker)
    inside = innermost(student)
    inside = inside if recipe.guidance is None else Told(inside, recipe.guidance)
    made = led(inside, chain, teacher, task.null).to(device).eval()
    setup.settle(
        [walker for walker in chain if walker not in kept.values()], made, cfg, task, teacher, device
    )
    return made
