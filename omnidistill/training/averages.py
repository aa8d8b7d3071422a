"""Models that follow the student: moving averages, and mentors that are replaced by the average now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.training.roles import EMA, STUDENT, Cast


class Pair(NamedTuple):
    """A follower's tensors and those that it follows."""

    mine: list[Tensor]
    theirs: list[Tensor]
    buffers: list[tuple[nn.Module, nn.Module, str]]

    @classmethod
    def of(cls, models: Mapping[str, nn.Module], cast: Cast, name: str, source: str) -> Pair:
        """What is fixed in both is the same tensor, so only the rest has to follow."""
        own, other = (dict(models[model].named_parameters()) for model in (name, source))
        free = cast.trainable[name]
        if strange := [key for key in free if key not in other or other[key].shape != own[key].shape]:
            raise UserError(
                f"role '{name}' follows the {source}, whose network is another: {strange[0]} is missing there; "
                "start it as a copy of the student"
            )
        buffers = []
        for key, _ in models[name].named_buffers():
            place, _, leaf = key.rpartition(".")
            # Where it lies rather than what it is: a network may put another tensor there.
            buffers.append((models[name].get_submodule(place), models[source].get_submodule(place), leaf))
        return cls([own[key] for key in free], [other[key] for key in free], buffers)

    def move(self, share: float) -> None:
        """Moves the average this share of the way to what it follows; buffers are copied."""
        torch._foreach_lerp_(self.mine, self.theirs, share)
        for ours, its, leaf in self.buffers:
            getattr(ours, leaf).copy_(getattr(its, leaf))


class Followers:
    """Moves all averages and mentors of a cast.

    A target's decay is the one that was asked for, from the first update on: it belongs to the method. The average that
    is sampled from has a short memory while there is little to remember, `min(decay, (1 + n) / (10 + n))`, or it would
    hold the initial weights for its first thousand updates.
    """

    def __init__(self, models: Mapping[str, nn.Module], cast: Cast) -> None:
        roles = cast.roles.items()
        self.averages = [
            (name, spec.average, Pair.of(models, cast, name, STUDENT))
            for name, spec in roles
            if spec.average is not None
        ]
        # Critics that are trained and drawn after the student besides.
        self.averages += [
            (name, 1.0 - spec.follow, Pair.of(models, cast, name, STUDENT))
            for name, spec in roles
            if spec.follow
        ]
        self.mentors = [
            (spec.refresh, Pair.of(models, cast, name, EMA)) for name, spec in roles if spec.refresh
        ]
        self.copies = [
            (spec.at or 0.0, Pair.of(models, cast, name, spec.copies)) for name, spec in roles if spec.copies
        ]

    @torch.no_grad()
    def follow(self, update: int, updates: int) -> None:
        """After the student's update number `update`, counted from 1, of `updates`."""
        for name, asked, pair in self.averages:
            decay = min(asked, (1.0 + update) / (10.0 + update)) if name == EMA else asked
            pair.move(1.0 - decay)
        # Then those that copy the average as it is now.
        for times, pair in self.mentors:
            done, before = (u * (times + 1) // updates for u in (update, update - 1))
            if done > before:
                pair.move(1.0)
        for at, pair in self.copies:
            if update == max(1, round(at * updates)):
                pair.move(1.0)
