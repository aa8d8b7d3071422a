"""Walks that start from data: a sample of one label becomes one of another, without pairs to learn it from.

The data stand where the noise would (Parmar et al. 2024, CycleGAN-Turbo, arXiv:2403.12036), so that nothing of them is
lost before the first answer; which way to go the condition says.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from omnidistill.context import Batch, labels_of
from omnidistill.errors import NotOffered, UserError
from omnidistill.paths import Path
from omnidistill.shapes import Real


class Source(NamedTuple):
    """What each sample is translated from.

    Attributes:
        x0: data of the same batch, in another order.
        labels: what they are samples of, Long[b].
    """

    x0: Real
    labels: Tensor


def start(path: Path, x0: Real) -> Real:
    """`alpha(1) x0 + sigma(1) x0`: the state at the prior's end with x0 in the place of the noise.

    Raises:
        UserError: a path without noise there, or one that starts at an anchor.
    """
    check(path)
    alpha, _, sigma = path.coefficients(1.0)  # type: ignore[attr-defined]
    return (alpha + sigma).item() * x0


def check(path: Path) -> None:
    """Refuses paths on which data cannot stand in the place of the noise."""
    if not {"gaussian", "deterministic"} <= path.offers or "anchored" in path.offers:
        raise NotOffered(
            f"a translation starts from data in the place of noise, and {path} has no noise there or an anchor; it "
            "needs a Gaussian path without an anchor, such as rectified_flow"
        )


def source(batch: Batch, g: torch.Generator, structure: torch.Generator) -> Source:
    """For each sample of the batch another one, of another label.

    Args:
        g: draws which sample of a label it is.
        structure: draws which labels go together.

    Raises:
        UserError: no data, no labels, or samples of different lengths.
    """
    labels = labels_of(batch.context.condition)
    if batch.x0 is None or labels is None:
        lacks = "labels" if batch.x0 is not None else "data"
        raise UserError(f"a translation goes from data of one label to another, and this task has no {lacks}")
    rows = partners(labels, g, structure)
    mask = batch.context.mask
    if mask is not None and not torch.equal(mask, mask[rows]):
        raise UserError(
            "a translation is as long as what it is made from, and the samples of this batch differ in length; give "
            "samples of one length"
        )
    return Source(batch.x0[rows], labels[rows])


def partners(labels: Tensor, g: torch.Generator, structure: torch.Generator) -> Tensor:
    """A permutation of the samples, Long[b], that leads from each to one of another label.

    Sorted by label, in random order within each, they are turned round by at least the most frequent label's count and
    at most what is left of the batch. Where one label has more than half of them, those that find no partner stay with
    their own; they are as few as can be.
    """
    count = len(labels)
    keys = torch.rand(count, generator=g, device=g.device, dtype=torch.float64).to(labels.device)
    order = torch.argsort(labels.double() + keys)
    most = int(labels.unique(return_counts=True)[1].max())
    spare = max(count - 2 * most, 0)
    more = int(torch.randint(spare + 1, (), generator=structure, device=structure.device))
    return torch.empty_like(order).scatter_(0, order, order.roll(most + more))
