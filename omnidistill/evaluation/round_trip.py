"""How much of held-out data is left after a way to noise and back."""

from __future__ import annotations

import torch

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.samplers import Sampler
from omnidistill.samplers.inversion import invert, regenerate
from omnidistill.tasks import Task

NAME = "round_trip"


@torch.no_grad()
def round_trip(
    denoiser: Denoiser,
    sampler: Sampler,
    task: Task,
    steps: int,
    samples: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> float:
    """`sqrt(E|x0' - x0|^2 / E|x0 - mean|^2)`, x0' made of held-out x0 by `steps` jumps to noise and as many back, each
    by one belief: 0 finds the data again, 1 is no better than their mean.

    Raises:
        UserError: a task without data, or a path on which no trajectory is deterministic.
    """
    held = task.batch(samples, generator(seed, "evaluation", NAME), "held_out")
    if held.x0 is None:
        raise UserError(f"evaluation.{NAME} needs real data, and {task.name} gives none")
    x0, context = held.x0.to(device), held.context.to(device)
    times = sampler.times(denoiser, steps).to(device)
    found = regenerate(denoiser, invert(denoiser, x0, times, context), times, context)
    real = torch.ones_like(x0) if context.mask is None else context.mask.expand_as(x0).to(x0.dtype)
    spread = ((x0 - x0.mean(0)).square() * real).sum()
    return float(((found - x0).square() * real).sum().div(spread).sqrt())
