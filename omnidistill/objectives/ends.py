"""Where the jumps of a consistency model end: for each pair of times t > r a time s <= r; for t < r, a jump towards
noise, a time s >= r where ends are `both_ways`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths import Path, grid


class Ends(Protocol):
    """Where a jump that has reached r is asked to end: a distribution of s given t and r."""

    told: bool
    """Whether the student has to be told s: one state is asked for several."""
    refined: bool
    """Whether `progress` changes anything."""
    both_ways: bool
    """Whether t < r has an end too."""

    def __call__(
        self,
        t: Float64[Tensor, "b"],
        r: Float64[Tensor, "b"],
        path: Path,
        g: torch.Generator,
        progress: float = 0.0,
    ) -> Float64[Tensor, "b"]:
        """Float64[b]: 0 <= s <= r < t, or t < r <= s <= 1."""
        ...


@dataclass(frozen=True)
class Data:
    """The data, s = 0: plain consistency (Song et al. 2023). Towards noise the top of the path."""

    told: ClassVar[bool] = False
    refined: ClassVar[bool] = False
    both_ways: ClassVar[bool] = True

    def __call__(
        self,
        t: Float64[Tensor, "b"],
        r: Float64[Tensor, "b"],
        path: Path,
        g: torch.Generator,
        progress: float = 0.0,
    ) -> Float64[Tensor, "b"]:
        return torch.where(r > t, path.span[1], torch.zeros_like(r))


@dataclass(frozen=True)
class Anywhere:
    """s uniform over the nodes at or below r of a grid (Kim et al. 2023, CTM), no farther from t than
    `window`; r itself where none is.

    Args:
        nodes: steps of the grid.
        window: the longest jump, in t.
    """

    nodes: int = 18
    window: float = 1.0
    told: ClassVar[bool] = True
    refined: ClassVar[bool] = False
    both_ways: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.nodes < 1 or not 0.0 < self.window <= 1.0:
            raise UserError(
                f"ends need nodes >= 1 and 0 < window <= 1, got nodes={self.nodes}, window={self.window}"
            )

    def __call__(
        self,
        t: Float64[Tensor, "b"],
        r: Float64[Tensor, "b"],
        path: Path,
        g: torch.Generator,
        progress: float = 0.0,
    ) -> Float64[Tensor, "b"]:
        return _among(grid(path, self.nodes), r, t - self.window, g)


@dataclass(frozen=True)
class Edges:
    """The trajectory is cut into equal segments, and a jump ends at the lower edge of its own (Wang et al. 2024, PCM)
    or, `inside`, anywhere from there to r (Ren et al. 2024, Hyper-SD); one towards noise at the upper edge (Starodubcev
    et al. 2024, iCD), or between r and there.

    Args:
        segments: their number at first.
        final: their number at the end; it is halved on the way there, in equal phases. None keeps `segments`.
        inside: s is uniform between edge and r, and the edge itself for half of the samples.
    """

    segments: int = 4
    final: int | None = None
    inside: bool = False
    both_ways: ClassVar[bool] = True

    def __post_init__(self) -> None:
        last = self.segments if self.final is None else self.final
        power = last >= 1 and self.segments % last == 0 and (self.segments // last).bit_count() == 1
        if not power:
            raise UserError(
                "segments are halved down to final, so one is 1, 2, 4, ... times the other; "
                f"got {self.segments}, {last}"
            )

    @property
    def told(self) -> bool:
        """Whether the student has to be told s: inside a segment, and where segments change."""
        return self.inside or self.refined

    @property
    def refined(self) -> bool:
        """Whether segments merge while it trains."""
        return self.final not in (None, self.segments)

    def count(self, progress: float) -> int:
        """The number of segments at this point of training."""
        if self.final is None:
            return self.segments
        halvings = (self.segments // self.final).bit_length() - 1
        return max(self.final, self.segments >> int(progress * (halvings + 1)))

    def __call__(
        self,
        t: Float64[Tensor, "b"],
        r: Float64[Tensor, "b"],
        path: Path,
        g: torch.Generator,
        progress: float = 0.0,
    ) -> Float64[Tensor, "b"]:
        times = grid(path, self.count(progress)).flip(0).to(r.device)
        below = times[torch.searchsorted(times, r + SLACK, right=True) - 1].minimum(r)
        above = times[torch.searchsorted(times, r - SLACK).clamp_max(len(times) - 1)].maximum(r)
        edge = torch.where(r > t, above, below)
        if not self.inside:
            return edge
        u = (2.0 * _draw(r, g) - 1.0).clamp_min(0.0)
        s = edge + u * (r - edge)
        return torch.where(s < path.span[0], 0.0, s)


@dataclass(frozen=True)
class Grids:
    """s from the union of the sampling grids of `low` to `high` steps, so that all of them are learned (Wang et al.
    2024, TDD): uniform over its nodes at most `window` below the largest that is not above r, then moved
    towards the data by up to a share `jitter` of itself.
    """

    low: int = 4
    high: int = 8
    window: float = 0.26
    jitter: float = 0.3
    told: ClassVar[bool] = True
    refined: ClassVar[bool] = False
    both_ways: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (1 <= self.low <= self.high and 0.0 < self.window <= 1.0 and 0.0 <= self.jitter < 1.0):
            raise UserError(
                "grids need 1 <= low <= high, 0 < window <= 1 and 0 <= jitter < 1, got "
                f"low={self.low}, high={self.high}, window={self.window}, jitter={self.jitter}"
            )

    def __call__(
        self,
        t: Float64[Tensor, "b"],
        r: Float64[Tensor, "b"],
        path: Path,
        g: torch.Generator,
        progress: float = 0.0,
    ) -> Float64[Tensor, "b"]:
        nodes = torch.cat([grid(path, n) for n in range(self.low, self.high + 1)]).unique()
        top = nodes.to(r.device)[torch.searchsorted(nodes.to(r.device), r + SLACK, right=True) - 1]
        s = _among(nodes, r, top - self.window, g) * (1.0 - self.jitter * _draw(r, g))
        return torch.where(s < path.span[0], 0.0, s)


SLACK = 1e-9
"""Times that should be equal come from two formulas."""


def _among(nodes: Tensor, r: Tensor, low: Tensor, g: torch.Generator) -> Tensor:
    """A node uniform over those from `low` to r; r where there is none."""
    nodes = nodes.sort().values.to(r.device)
    first = torch.searchsorted(nodes, low - SLACK)
    count = torch.searchsorted(nodes, r + SLACK, right=True) - first
    chosen = first + (_draw(r, g) * count).long().minimum((count - 1).clamp_min(0))
    return torch.where(count > 0, nodes[chosen.clamp_max(len(nodes) - 1)], r).minimum(r)


def _draw(like: Tensor, g: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=g, device=g.device, dtype=torch.float64).to(like.device)
