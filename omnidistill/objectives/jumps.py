"""Distributions of pairs of times (t, r), r < t, between which a consistency objective compares beliefs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths import Path, grid, shifted
from omnidistill.times import Times, Uniform


class Jumps(Protocol):
    nodes: int
    refined: bool
    """Whether `progress` changes anything; taken for true where it is not said."""

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Float64[count] times t and r < t. `progress` in [0, 1] is how much of the training is over."""
        ...


def half_way(t: Tensor, s: Tensor, path: Path) -> Tensor:
    """The node between s and t on the grid of twice as many steps. A grid with a `floor` visits it before 0."""
    return torch.where(s == 0, 0.5 * (t + path.floor), 0.5 * (t + s))


@dataclass(frozen=True)
class Nodes:
    """t uniform over the nodes of a sampling grid, r the node `skip` steps below it.

    Args:
        nodes: steps of the grid; halved in each round of progressive distillation.
        final: steps of the grid at the end of training; the number doubles on the way there in equal phases (Song &
            Dhariwal 2023, sec. 3.4). None keeps `nodes`.
        skip: how many steps a jump covers (LCM's skipping-step, Luo et al. 2023, sec. 4.3).
        shift: of the grid's times towards noise (`paths.shifted`); that of the sampler whose endpoints are to be
            learned.
    """

    nodes: int = 32
    final: int | None = None
    skip: int = 1
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.skip < 1 or self.skip > self.nodes:
            raise UserError(
                f"a grid of jumps needs nodes >= skip >= 1, got nodes={self.nodes}, skip={self.skip}"
            )
        if self.final is not None and self.final < self.nodes:
            raise UserError(
                f"the grid is refined from nodes to final, got nodes={self.nodes}, final={self.final}"
            )
        if self.shift < 1:
            raise UserError(
                f"a grid is shifted towards noise by a factor of at least 1, got shift={self.shift}"
            )

    @property
    def refined(self) -> bool:
        return self.final is not None

    def size(self, progress: float, round_: int) -> int:
        """The number of grid steps at this point of training."""
        if self.final is None:
            return max(1, self.nodes >> round_)
        doublings = (
            -(-self.final // self.nodes) - 1
        ).bit_length()  # the last of them may fall short of doubling
        return min(self.final, self.nodes << int(progress * (doublings + 1)))

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Tensor, Tensor]:
        size = self.size(progress, round_)
        times = shifted(grid(path, size), self.shift).clamp_max(path.span[1])
        start = torch.randint(size, (count,), generator=g, device=g.device).cpu()
        return times[start], times[(start + self.skip).clamp_max(size)]


@dataclass(frozen=True)
class Gap:
    """t from any distribution, r = t minus a gap whose density falls linearly from 0 to `largest` (CDLM's scheduler
    of jumps); an r below the path's span is 0.

    Args:
        largest: the widest gap.
    """

    times: Times = Uniform()
    largest: float = 0.5
    nodes: int = 1
    refined: ClassVar[bool] = False

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Tensor, Tensor]:
        t = self.times(count, path, g)
        u = torch.rand(count, generator=g, device=g.device, dtype=torch.float64).to(t.device)
        # Inverse of the distribution function 1 - (1 - x)^2, scaled to what is left below t.
        gap = (1.0 - torch.sqrt(1.0 - u)) * torch.minimum(t, torch.tensor(self.largest, dtype=torch.float64))
        r = t - gap.clamp_min(1e-6)
        # Networks are not asked below the span; there the state is as good as clean.
        return t, torch.where(r < path.span[0], 0.0, r)
