"""What matching makes of a gap: the scale that divides it, and what it says of critic and student."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context, labels_of
from omnidistill.objectives.step import Step, reduce
from omnidistill.posteriors import Posterior
from omnidistill.times import Times

NORMALISERS = ("x0", "group", "none")


def scale(kind: str, real: Posterior, x0: Tensor, context: Context, floor: float) -> tuple[Tensor, Tensor]:
    """n, Float[b], and the share of samples where the floor took its place.

    `x0`: n = mean |x0 - D_real| over a sample's elements (Yin et al. 2023, DMD, eq. 8). `group`: the mean of that over
    the samples of one condition, so that a sample that the teacher likes less is moved farther than its neighbours
    instead of as far (a reward normalised within its group: Fan et al. 2026, R_dm, arXiv:2603.28460). `none`: 1.
    """
    if kind == "none":
        return torch.ones(x0.shape[0], device=x0.device), torch.zeros(())
    mask, distance = context.mask, real.distance(x0.detach())
    counts = torch.ones_like(distance, dtype=torch.bool) if mask is None else mask.expand(distance.shape)
    total = torch.where(counts, distance, 0.0).flatten(1).sum(1)
    n = total / counts.flatten(1).sum(1).clamp_min(1)
    if kind == "group":
        n = grouped(n, context)
    return n.clamp_min(floor), (n < floor).float().mean()


def grouped(values: Tensor, context: Context) -> Tensor:
    """Each of `values: Float[b]` replaced by the mean over the samples of its label; over all without labels."""
    labels = labels_of(context.condition)
    if labels is None:
        return values.mean().expand_as(values)
    found, index = labels.unique(return_inverse=True)
    total = values.new_zeros(len(found)).index_add(0, index, values)
    return (total / torch.bincount(index, minlength=len(found)).to(values.dtype))[index]


@torch.no_grad()
def diagnostics(step: Step, times: Times, fake: Posterior, gap: Tensor) -> dict[str, Tensor]:
    """What matching's update says of critic and student, by the names under which it is logged."""
    x0, path, mask = step.rollout.x0.detach(), step.path, step.context.mask
    target = path.certain(step.copy(times).target.detach())
    shown = {
        "matching/gap": gap.abs().mean(),
        # The critic's error on the student as it is now; beside its training loss it shows a lag.
        "matching/critic_nll": reduce(fake.divergence(target, "nll"), 1.0, mask),
        # Mean distance between two samples of the batch: falls towards 0 in a collapse.
        "matching/diversity": reduce(path.certain(x0.roll(1, 0)).distance(x0), 1.0, mask),
    }
    if step.batch.x0 is not None:
        data = step.batch.x0.to(x0.dtype)
        shown["matching/diversity_data"] = reduce(path.certain(data.roll(1, 0)).distance(data), 1.0, mask)
    return shown
