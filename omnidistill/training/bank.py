"""Teacher trajectories at hand while training: in memory, or pieces of them that lie on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Context


class Bank:
    """Rows of trajectories and the contexts that they were made under, in pieces that are alike.

    A piece may be a view of a file: of it the rows that are asked for are read, and no others.

    Args:
        pieces: of each the states, [n, times, ...], and the contexts of these n trajectories.
        times: Float64[times], falling to 0.
    """

    def __init__(self, pieces: Sequence[tuple[Tensor, Context]], times: Tensor) -> None:
        self.pieces, self.times = tuple(pieces), times
        self._ends = torch.tensor([len(states) for states, _ in self.pieces]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def first(self, count: int) -> Bank:
        """The first `count` trajectories."""
        pieces, left = [], count
        for states, context in self.pieces:
            if left <= 0:
                break
            some = slice(0, min(left, len(states)))
            pieces.append((states[some], context[some]))
            left -= len(states)
        return Bank(pieces, self.times)

    def ends(self) -> Bank:
        """Of each trajectory the noise and the sample alone."""
        # A view: of a mapped file nothing is read.
        pieces = [(states[:, :: len(self.times) - 1], context) for states, context in self.pieces]
        return Bank(pieces, self.times[[0, -1]])

    def rows(self, index: Tensor, device: torch.device | str = "cpu") -> dict[str, Any]:
        """What a step sees: `states` [b, times, ...], `times`, `context` of the trajectories `index`, Long[b]."""
        piece = torch.searchsorted(self._ends, index, right=True)
        order = torch.argsort(piece, stable=True)
        found = []
        for number in piece.unique().tolist():
            states, context = self.pieces[number]
            local = index[order][piece[order] == number] - (self._ends[number] - len(states))
            found.append((states[local], context[local]))
        back = torch.argsort(order)
        context = reduce(Context.joined, (context for _, context in found))
        return {
            "states": torch.cat([states for states, _ in found])[back].to(device),
            "times": self.times.to(device),
            "context": context[back].to(device),
        }
