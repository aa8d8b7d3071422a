"""Conformance of tasks."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path as FilePath

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.tasks import Metric, Task
from omnidistill.testing.base import Report, close, gap, rewritten, seeded
from omnidistill.testing.denoisers import check_denoiser
from omnidistill.testing.paths import check_path


def check_task(
    task: Task,
    *,
    count: int = 256,
    teacher: Denoiser | None = None,
    teacher_steps: int | None = None,
    seed: int = 0,
) -> list[str]:
    """Checks a task as a plug-in would be used: its data, path, networks, teacher, metrics and files. Properties:

    1. The form is filled in: name, shape, dtype, path, primary metric, teacher_steps.
    2. Batches have the declared shape and dtype, are finite, and depend on the generator alone; the first of many
       contexts are those of few.
    3. The path passes `check_path`.
    4. A fresh network, read as `reading` says, passes `check_denoiser`; with second embeddings it starts equal.
    5. The primary metric is measured; all metrics are finite, repeat under one seed and ignore the batch's order
       and what padding holds.
    6. Real against real (the floor) beats an untrained network.
    7. The teacher at its full steps beats itself at one (where it has a closed form, or `teacher` is given).
    8. `render` writes a readable picture first, and the modality's own format.

    Args:
        count: samples that metrics are computed from.
        teacher: a trained teacher, for tasks without a closed form.
        teacher_steps: fewer than the task's own, to save time.

    Raises:
        ConformanceError: the first property that fails.
    """
    report = Report(f"task {task.name}")
    with report.section("the form is filled in"):
        report.require(task.name and task.name != "unnamed", "it has a name", task.name)
        report.require(isinstance(task.primary, Metric), "primary is a Metric", task.primary)
        report.require(task.teacher_steps > 1, "teacher_steps is more than one", task.teacher_steps)
        shape = tuple(task.like(3).shape)
        report.require(shape == (3, *task.shape), "like(count) has the task's shape", shape)
    batch = _check_data(report, task, count, seed)
    teacher = teacher or task.exact_teacher()
    if batch.x0 is not None:
        few, around = _whole(batch)
        report.lines += check_path(task.path, few, around, seed=seed)
    untrained = _check_network(report, task, batch, seed)
    report.lines += [] if teacher is None else _teacher_answers(task, teacher, batch, seed)
    _check_metrics(report, task, batch, untrained, seed)
    if teacher is not None:
        with report.section("the teacher at full steps beats itself at one step"):
            full = teacher_steps or task.teacher_steps
            many, one = (_score(task, teacher, steps, batch, seed) for steps in (full, 1))
            report.require(
                _better(task, many, one), f"{task.primary.name} at {full} steps beats 1", f"{many} and {one}"
            )
    with report.section("render writes readable files"):
        _check_files(report, task, batch, seed)
    return report.lines


def _check_data(report: Report, task: Task, count: int, seed: int) -> Batch:
    with report.section("batches have shape and dtype, are finite and seeded"):
        for split in ("train", "held_out"):
            batch, again, other = (task.batch(count, seeded(s), split) for s in (seed, seed, seed + 1))
            report.require(batch.count == count, f"batch(n, split='{split}') gives n samples", batch.count)
            for x in _tensors(batch.context):
                report.require(len(x) == count, "contexts have one entry a sample", tuple(x.shape))
            if batch.x0 is None or again.x0 is None or other.x0 is None:
                continue
            kind = (tuple(batch.x0.shape), batch.x0.dtype)
            expected = (tuple(task.like(count, context=batch.context).shape), task.dtype)
            report.require(kind == expected, "x0 has the task's shape and dtype", kind)
            report.require(torch.isfinite(batch.x0).all(), "x0 is finite", batch.x0)
            report.require(torch.equal(batch.x0, again.x0), "one seed, one batch", gap(batch.x0, again.x0))
            report.require(
                not torch.equal(batch.x0, other.x0), "another seed, another batch", "the same samples"
            )
        contexts = task.contexts(5, seeded(seed))
        for x in _tensors(contexts):
            report.require(len(x) == 5, "contexts(n) has one entry a sample", tuple(x.shape))
        for few, many in zip(_tensors(contexts), _tensors(task.contexts(32, seeded(seed))), strict=True):
            first = many[tuple(slice(n) for n in few.shape)]
            report.require(torch.equal(first, few), "the first of many contexts are those of few", "others")
        if task.conditional:
            report.require(
                contexts.condition is not None, "a conditional task's contexts have a condition", "None"
            )
    return task.batch(count, seeded(seed))


def _check_network(report: Report, task: Task, batch: Batch, seed: int) -> NetworkDenoiser:
    def fresh(**options: bool) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return task.network(**options)

    plain = fresh()
    untrained = NetworkDenoiser(fresh(), task.path, **task.reading())
    with torch.no_grad():  # networks start with layers of zeros, behind which nothing could be seen
        g = seeded(seed)
        for parameter in plain.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=g).to(parameter))
    stirred = NetworkDenoiser(plain, task.path, **task.reading())
    if batch.x0 is not None:
        report.lines += check_denoiser(stirred, batch.x0[:4], batch.context[:4], seed=seed)
    x, context = _state(task, batch, seed)
    with report.section("second embeddings start at zero"), torch.no_grad():
        scale = torch.linspace(1.0, 5.0, len(x))
        for options in ({"target_time": True}, {"guidance": True}, {"target_time": True, "guidance": True}):
            network = fresh(**options)
            extra = network.load_state_dict(plain.state_dict(), strict=False)
            report.require(
                not extra.unexpected_keys, "a network with embeddings has all weights of one without", extra
            )
            reading = {**task.reading(), "target_time": options.get("target_time", False)}
            more = NetworkDenoiser(network, task.path, **reading)
            told = replace(context, guidance=scale) if "guidance" in options else context
            target = (
                torch.linspace(0.1, 0.4, len(x), dtype=torch.float64) if "target_time" in options else None
            )
            a = more(x, 0.6, told, target_time=target).parameters
            b = stirred(x, 0.6, context).parameters
            report.require(
                close(a, b), f"with {', '.join(options)} it starts equal to the one without", gap(a, b)
            )
    return untrained


def _teacher_answers(task: Task, teacher: Denoiser, batch: Batch, seed: int) -> list[str]:
    return [] if batch.x0 is None else check_denoiser(teacher, batch.x0[:4], batch.context[:4], seed=seed)


def _check_metrics(report: Report, task: Task, batch: Batch, untrained: Denoiser, seed: int) -> None:
    name = task.primary.name
    with report.section("metrics are finite, seeded and blind to order and padding"):
        made = (
            FewStep()
            .sample(
                untrained, task.like(batch.count, context=batch.context), 1, batch.context, g=seeded(seed)
            )
            .x0
        )
        x0, context = made if batch.x0 is None else batch.x0, batch.context

        def measure(x: Tensor, around: Context) -> dict[str, float]:
            # Another seed than the batch's: a reference drawn from the same one would be the batch itself.
            return task.measure(x, around, generator(seed, "measure"))

        found, worst = measure(x0, context), measure(made, context)
        report.require(name in found, "the primary metric is measured", f"'{name}' not in {', '.join(found)}")
        wrong = {key: value for key, value in (found | worst).items() if not math.isfinite(value)}
        report.require(not wrong, "metrics are finite", wrong)
        again = measure(x0, context)
        report.require(found == again, "metrics repeat under one seed", f"{found} and {again}")
        back = torch.arange(len(x0) - 1, -1, -1)
        turned = measure(x0[back], context[back])[name]
        # A reference drawn for these contexts is another draw in another order: noise, small beside what is measured.
        noise = 0.1 * abs(found[name] - worst[name]) + 1e-6
        same = abs(turned - found[name]) <= noise
        report.require(same, f"{name} ignores the order of samples", f"{found[name]} and {turned}")
        once = torch.ones(1, len(x0), dtype=torch.long)
        drawn = float(task.bootstrap(x0, context, generator(seed, "measure"), once)[0])
        same = math.isclose(drawn, found[name], rel_tol=1e-4, abs_tol=1e-6)
        report.require(same, f"the bootstrap of {name} is of {name}", f"{drawn} and {found[name]}")
        if context.mask is not None:
            other = measure(rewritten(x0, context.mask, seeded(seed)), context)[name]
            same = math.isclose(other, found[name], rel_tol=1e-5, abs_tol=1e-7)
            report.require(same, f"{name} ignores what padding holds", f"{found[name]} and {other}")
    with report.section("real data beat an untrained network"):
        floor = task.floor(batch.count, generator(seed, "floor"))
        if floor:
            better = _better(task, floor[name], worst[name])
            report.require(better, f"the floor's {name} is better", f"{floor[name]} and {worst[name]}")


def _check_files(report: Report, task: Task, batch: Batch, seed: int) -> None:
    from matplotlib import image

    few, context = batch.x0, batch.context
    if few is None:
        few, context = _state(task, batch, seed)
    with tempfile.TemporaryDirectory() as folder:
        files = task.render(few[:8], context[:8], FilePath(folder) / "samples")
        report.require(files, "render returns the files it wrote", "none")
        for file in files:
            inside = FilePath(file).is_file() and FilePath(folder) in FilePath(file).parents
            report.require(inside, "every file is where it was asked for", file)
            report.require(FilePath(file).stat().st_size > 0, "no file is empty", file)
        report.require(FilePath(files[0]).suffix == ".png", "the first file is a png", files[0])
        picture = image.imread(files[0])
        report.require(
            picture.size and picture.max() > picture.min(), "the picture shows something", picture.shape
        )
        suffixes = {FilePath(file).suffix for file in files}
        own = task.file_suffix()
        report.require(own in suffixes, f"one file has the modality's own suffix {own}", sorted(suffixes))
        listed = set(task.file_suffixes())
        report.require(
            suffixes == listed, f"file_suffixes are those of the files, {sorted(suffixes)}", sorted(listed)
        )


def _whole(batch: Batch) -> tuple[Tensor, Context]:
    """Two samples without padding, as `check_path` wants them: padding is taken for data, which it is to a path."""
    assert batch.x0 is not None
    return batch.x0[:2], replace(batch.context[:2], mask=None)


def _state(task: Task, batch: Batch, seed: int) -> tuple[Tensor, Context]:
    context = batch.context[:4]
    return task.path.prior(task.like(4, context=context), context, g=seeded(seed)), context


def _score(task: Task, denoiser: Denoiser, steps: int, batch: Batch, seed: int) -> float:
    g = generator(seed, "sample")
    sample = task.sampler().sample(
        denoiser, task.like(batch.count, context=batch.context), steps, batch.context, g=g
    )
    return task.measure(sample.x0, batch.context, generator(seed, "measure"))[task.primary.name]


def _better(task: Task, a: float, b: float) -> bool:
    return a < b if task.primary.better == "lower" else a > b


def _tensors(context: Context) -> list[Tensor]:
    found: list[Tensor] = []
    context.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found
