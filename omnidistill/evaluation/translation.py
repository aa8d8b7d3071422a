"""Held-out data to be translated, and how much of them is lost on the way there and back."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Batch, Context, labels_of, relabelled
from omnidistill.denoisers import Denoiser
from omnidistill.random import generator
from omnidistill.samplers import Sampler
from omnidistill.samplers.translation import Source, source, start
from omnidistill.tasks import Task

NAME = "cycle"


def sources(task: Task, samples: int, seed: int, context: Context) -> tuple[Source, Context]:
    """For each context held-out data of another label, and the contexts: those given, where they are the held-out
    data's own, as they are by default."""
    held = task.batch(samples, generator(seed, "evaluation", "contexts"), "held_out")
    own, given = labels_of(held.context.condition), labels_of(context.condition)
    if own is None or given is None or not torch.equal(own, given):
        context = held.context
    g = generator(seed, "evaluation", "sources")
    return source(Batch(held.x0, context, samples), g, g), context


def lost(
    denoiser: Denoiser,
    sampler: Sampler,
    steps: int,
    made: Tensor,
    of: Source,
    context: Context,
    seed: int,
    batch: int = 256,
    device: torch.device | str = "cpu",
) -> float:
    """`sqrt(E|x' - x|^2 / E|x - mean|^2)`, x' made of the translations of x by as many steps under the label of x:
    0 finds x again, 1 is no better than the mean of all x."""
    there = context.with_condition(relabelled(context.condition, of.labels))
    g = generator(seed, "evaluation", NAME, device=device)
    parts = []
    for first in range(0, len(made), batch):
        part = slice(first, first + batch)
        x_1 = start(denoiser.path, made[part].to(device))
        parts.append(sampler.sample(denoiser, x_1, steps, there[part].to(device), g=g, x_1=x_1).x0.cpu())
    back = torch.cat(parts)
    real = torch.ones_like(back) if context.mask is None else context.mask.expand_as(back).to(back.dtype)
    spread = ((of.x0 - of.x0.mean(0)).square() * real).sum()
    return float(((back - of.x0).square() * real).sum().div(spread).sqrt())
