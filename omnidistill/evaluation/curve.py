"""Quality against steps: sample at each step count, measure, time, count the network calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.intervals import Interval, draw, interval
from omnidistill.evaluation.round_trip import NAME as ROUND_TRIP
from omnidistill.evaluation.round_trip import round_trip
from omnidistill.evaluation.translation import NAME as CYCLE
from omnidistill.evaluation.translation import lost, sources
from omnidistill.random import generator
from omnidistill.samplers import Sampler
from omnidistill.samplers.translation import start
from omnidistill.shapes import Resampled
from omnidistill.tasks import Task, numbers

Progress = Callable[[int, int], None]
KEPT = 64
"""Samples a point carries for rendering."""


@dataclass(frozen=True)
class Point:
    """One model at one step count.

    Attributes:
        steps: sampler steps.
        nfe: network calls a sample cost, as counted by the denoiser, guidance included; the mean where samples differ,
            and with shares where a network ran in part.
        metrics: what `task.measure` said.
        seconds_per_sample: wall time of sampling alone, over the number of samples, in batches.
        x0, context: the first samples and their contexts on the CPU, for `task.render`.
        resampled: the primary metric on resamples; None where none were asked for.
        interval: of the primary metric, see `intervals.interval`.
    """

    steps: int
    nfe: float
    metrics: dict[str, float]
    seconds_per_sample: float
    x0: Tensor = field(repr=False)
    context: Context = field(repr=False)
    resampled: Resampled | None = field(default=None, repr=False)
    interval: Interval | None = None

    def record(self) -> dict[str, Any]:
        """The point as metrics.json lists it."""
        return {
            "steps": self.steps,
            "nfe": self.nfe,
            "metrics": dict(self.metrics),
            "seconds_per_sample": self.seconds_per_sample,
            "interval": None if self.interval is None else list(self.interval),
        }


def quality(
    denoiser: Denoiser,
    sampler: Sampler,
    task: Task,
    steps: Sequence[int],
    samples: int,
    seed: int,
    batch: int = 256,
    progress: Progress | None = None,
    *,
    name: str = "model",
    keep: int = KEPT,
    resamples: int = 0,
    round_trips: bool = False,
    translates: bool = False,
) -> list[Point]:
    """The points of `denoiser`'s curve, in the order of `steps`.

    Contexts, starts and held-out data depend on the seed alone: a teacher and a student, and one model at two step
    counts, are compared on the same conditions and the same noise. The denoiser's own count of calls goes on counting.

    Args:
        samples: samples at each step count.
        seed: of everything drawn here.
        batch: samples a network call; it decides `seconds_per_sample`.
        progress: called as `progress(done, total)`, counted in sampler steps over all batches and step counts.
        name: what to call the model in errors, e.g. "student".
        keep: samples a point carries for rendering.
        resamples: of the primary metric, for intervals; the same samples are drawn for every model and step count.
        translates: walks start from held-out data of other labels (`samplers.translation`), and `cycle` says how much
            of them is lost on the way there and back.
        round_trips: also how well the model finds data again after as many steps back to noise, see `round_trip`.

    Raises:
        UserError: a step count, `samples` or `batch` below 1.
        RunError: a sample or a metric is not finite, or the batches cost different numbers of calls.
    """
    _check(steps, samples, batch)
    device = device_of(denoiser)
    with _in_full(device):
        context = task.contexts(samples, generator(seed, "evaluation", "contexts"))
        if translates:
            origin, context = sources(task, samples, seed, context)
    parts = [slice(start, min(start + batch, samples)) for start in range(0, samples, batch)]
    total, done = sum(steps) * len(parts), 0
    points = []
    with _evaluating(denoiser) as model:
        # The first call of a network pays for threads, allocations and the choice of kernels.
        first = context[parts[0]].to(device)
        warm = generator(seed, "evaluation", "warm-up", device=device)
        sampler.sample(model, task.like(min(batch, samples), device, first), 1, first, g=warm)
        for count in steps:
            chunks: list[Tensor] = []
            costs: list[float] = []
            seconds = 0.0
            for index, part in enumerate(parts):
                here = context[part].to(device)
                like = task.like(part.stop - part.start, device, here)
                g = generator(seed, "evaluation", "samples", index, device=device)
                report = _shifted(progress, done, total)
                x_1 = start(model.path, origin.x0[part].to(device)) if translates else None
                started = _now(device)
                sample = sampler.sample(model, like, count, here, g=g, x_1=x_1, progress=report)
                seconds += _now(device) - started
                done += count
                costs.append(sample.nfe)
                chunks.append(_finite(sample.x0, name, count).cpu())
            if len(set(costs)) != 1 and not denoiser.varies:
                raise RunError(
                    f"the {name} at {count} steps cost {sorted(set(costs))} calls in different batches"
                )
            sizes = [part.stop - part.start for part in parts]
            nfe = sum(cost * size for cost, size in zip(costs, sizes, strict=True)) / samples
            nfe = round(nfe) if abs(nfe - round(nfe)) < 1e-6 else round(nfe, 4)
            x0 = torch.cat(chunks)
            with _in_full(device):
                metrics = task.judged(x0, context, _held_out(seed))
                if round_trips:
                    metrics[ROUND_TRIP] = round_trip(model, sampler, task, count, samples, seed, device)
                if translates:
                    metrics[CYCLE] = lost(model, sampler, count, x0, origin, context, seed, batch, device)
                _known(task, metrics)
                _finite_metrics(metrics, f"the {name} at {_plural(count)}")
                found = _resampled(task, x0, context, seed, metrics, resamples)
            kept = (x0[:keep].clone(), context[slice(keep)])
            points.append(Point(count, nfe, metrics, seconds / samples, *kept, *found))
    return points


def baseline(task: Task, samples: int, seed: int, *, keep: int = KEPT, resamples: int = 0) -> Point | None:
    """The inputs themselves, judged like samples made from them at no step and no call; None where inputs are none."""
    context = task.contexts(samples, generator(seed, "evaluation", "contexts"))
    x0 = task.baseline(context)
    if x0 is None:
        return None
    metrics = task.judged(x0, context, _held_out(seed))
    _finite_metrics(metrics, "the inputs")
    found = _resampled(task, x0, context, seed, metrics, resamples)
    return Point(0, 0, metrics, 0.0, x0[:keep], context[slice(keep)], *found)


def _held_out(seed: int) -> torch.Generator:
    return generator(seed, "evaluation", "held out")


def _resampled(
    task: Task, x0: Tensor, context: Context, seed: int, metrics: Mapping[str, float], resamples: int
) -> tuple[Tensor | None, Interval | None]:
    """The primary metric on the resamples of this seed, and its interval."""
    if not resamples:
        return None, None
    # A metric that the task does not count gaps from itself is measured on resamples one by one.
    bootstrap = partial(Task.bootstrap, task) if task.other_primary else task.bootstrap
    values = bootstrap(x0, context, _held_out(seed), draw(len(x0), seed, resamples))
    return values, interval(metrics[task.primary.name], values)


def floor(task: Task, samples: int, seed: int) -> dict[str, float]:
    """What a perfect generator would score with this many samples: real against held-out real. {} without data."""
    metrics = task.floor(samples, generator(seed, "evaluation", "floor"))
    if task.more is not None and metrics:
        real = task.batch(samples, generator(seed, "evaluation", "floor"))
        held_out = task.batch(samples, _held_out(seed), "held_out")
        if (
            real.x0 is not None and real.x0.shape[1:] == task.shape
        ):  # crops are not what the function has seen
            metrics = metrics | numbers(task.more(real.x0, real.context, held_out.x0))
    _finite_metrics(metrics, "the real data")
    return metrics


def _known(task: Task, metrics: Mapping[str, float]) -> None:
    if task.primary.name not in metrics:
        raise UserError(
            f"{task.name} has no metric '{task.primary.name}'; primary= may be {', '.join(metrics)}"
        )


def device_of(module: nn.Module) -> torch.device:
    """Where the module lives; the CPU for a closed form without tensors."""
    held = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def _in_full(device: torch.device) -> torch.autocast:
    """Low precision is for sampling: data that are read only now, and metrics, are the same without it."""
    return torch.autocast(device.type, enabled=False)


class _evaluating:
    """The module in evaluation mode, and each part of it back in its own mode afterwards."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.modes = [(module, module.training) for module in model.modules()]

    def __enter__(self) -> Denoiser:
        self.model.eval()
        return self.model

    def __exit__(self, *exception: object) -> None:
        for module, mode in self.modes:
            module.training = mode


def _check(steps: Sequence[int], samples: int, batch: int) -> None:
    bad = [count for count in steps if count < 1]
    if bad:
        raise UserError(f"steps={','.join(map(str, steps))}: a sampler needs at least one step")
    if samples < 1 or batch < 1:
        raise UserError(f"evaluation needs at least one sample a batch, got samples={samples}, batch={batch}")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _shifted(progress: Progress | None, done: int, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda step: progress(done + step, total)


def _plural(steps: int) -> str:
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def _finite(x0: Tensor, name: str, steps: int) -> Tensor:
    broken = 0 if not x0.is_floating_point() else int((~x0.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise RunError(
            f"the {name} at {_plural(steps)}: {broken} of {len(x0)} samples hold NaN or infinity; not measured"
        )
    return x0


def _finite_metrics(metrics: dict[str, float], whose: str) -> None:
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise RunError(f"metric '{key}' of {whose} is {value}; metrics are finite numbers")
