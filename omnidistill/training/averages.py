"""Models that follow the student: moving averages, and mentors that are replaced by the average now and then."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from omnidistill.training.roles import EMA, STUDENT, Cast


@torch.no_grad()
def follow(models: nn.ModuleDict, cast: Cast, update: int, updates: int) -> None:
    """After the student's update number `update`, counted from 1.

    A target's decay is the one that was asked for, from the first update on: it belongs to the method. The average that
    is sampled from has a short memory while there is little to remember, `min(decay, (1 + n) / (10 + n))`, or it would
    hold the initial weights for its first thousand updates.
    """
    for name, spec in cast.roles.items():
        if spec.average is not None:
            decay = min(spec.average, (1.0 + update) / (10.0 + update)) if name == EMA else spec.average
            _average(models, name, STUDENT, cast.trainable[name], 1.0 - decay)
    # Then those that copy the average as it is now.
    for name, spec in cast.roles.items():
        if spec.refresh:
            done, before = (u * (spec.refresh + 1) // updates for u in (update, update - 1))
            if done > before:
                _average(models, name, EMA, cast.trainable[name], 1.0)


def _average(models: nn.ModuleDict, name: str, source: str, free: Sequence[str], share: float) -> None:
    average, model = models[name], models[source]
    own, other = dict(average.named_parameters()), dict(model.named_parameters())
    mine: list[Tensor] = [own[key] for key in free]
    theirs: list[Tensor] = [other[key] for key in free]
    torch._foreach_lerp_(mine, theirs, share)
    for ours, its in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(its)
