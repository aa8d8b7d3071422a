"""Distributions of pairs of times (t, r), r < t, between which a consistency objective compares beliefs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths import Path, grid
from omnidistill.paths.base import node
from omnidistill.times import LogNormalSigma, Times, Uniform

REDRAWS = 1000


class Jumps(Protocol):
    """A distribution of pairs of times, the distance that a student learns to skip.

    Attributes:
        nodes: steps of the grid that times lie on, at the start of training.
    """

    nodes: int
    refined: bool
    """Whether `progress` changes anything; taken for true where it is not said."""

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Float64[Tensor, "{count}"], Float64[Tensor, "{count}"]]:
        """Times t and r < t. `progress` in [0, 1] is how much of the training is over."""
        ...

    def middle(self, t: Tensor, s: Tensor, path: Path, progress: float = 0.0, round_: int = 0) -> Tensor:
        """Where a jump from t to s, drawn at this point of training, is broken in two."""
        ...


def half_way(t: Tensor, s: Tensor, path: Path, nodes: int | None = None, shift: float = 1.0) -> Tensor:
    """The time between s and t where a jump is broken in two.

    With `nodes`, the steps of the grid that t and s lie on, it is a node of the grid of twice as many steps, bit for
    bit, also under a shift; without, the middle of s and t, 0 standing for the path's floor.
    """
    if nodes is None:
        return 0.5 * (t + s.clamp_min(path.floor))
    times = grid(path, nodes, shift).to(t.device)
    steps_to_t, steps_to_s = ((time.unsqueeze(-1) - times).abs().argmin(-1) for time in (t, s))
    return node(path, 2 * nodes - (steps_to_t + steps_to_s), 2 * nodes, shift)


@dataclass(frozen=True)
class Nodes:
    """t uniform over the nodes of a sampling grid, r the node `skip` steps below it.

    Args:
        nodes: steps of the grid; halved in each round of progressive distillation.
        final: steps of the grid at the end of training; the number doubles on the way there in equal phases (Song &
            Dhariwal 2023, sec. 3.4). None keeps `nodes`.
        skip: how many steps a jump covers. LCM's skipping-step (Luo et al. 2023, sec. 4.3), 20 of its 1000 times, is
            one of 50 nodes.
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
        """Whether the grid becomes finer while it trains."""
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
    ) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "b"]]:
        size = self.size(progress, round_)
        times = grid(path, size, self.shift)
        start = torch.randint(size, (count,), generator=g, device=g.device).cpu()
        return times[start], times[(start + self.skip).clamp_max(size)]

    def middle(self, t: Tensor, s: Tensor, path: Path, progress: float = 0.0, round_: int = 0) -> Tensor:
        return half_way(t, s, path, self.size(progress, round_), self.shift)


@dataclass(frozen=True)
class Within:
    """t uniform over the nodes of a grid of `segments` steps, r uniform in the step that begins there (intra-segment
    guidance; Ge et al. 2025, SenseFlow)."""

    segments: int = 4
    shift: float = 1.0
    nodes: int = 1
    refined: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise UserError(f"jumps inside segments need segments >= 1, got segments={self.segments}")

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Tensor, Tensor]:
        times = grid(path, self.segments, self.shift)
        start = torch.randint(self.segments, (count,), generator=g, device=g.device).cpu()
        t, edge = times[start], times[start + 1].clamp_min(path.span[0])
        u = torch.rand(count, generator=g, device=g.device, dtype=torch.float64).cpu()
        return t, edge + u * (t - edge)

    def middle(self, t: Tensor, s: Tensor, path: Path, progress: float = 0.0, round_: int = 0) -> Tensor:
        return half_way(t, s, path)


@dataclass(frozen=True)
class Gap:
    """t from any distribution, r = t minus a gap whose density falls linearly from `smallest` to 0 at `largest` (CDLM's
    scheduler of jumps) or at t, if that is less; an r below the path's span is 0.

    Args:
        times: of t; those below `smallest` are drawn again.
        largest: the widest gap.
        smallest: the narrowest. The weight 1 / (t - r) is at most its inverse: with gaps down to 0 its second moment is
            infinite, and one sample would outweigh the batch.
    """

    times: Times = Uniform()
    largest: float = 0.5
    smallest: float = 0.01
    nodes: int = 1
    refined: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 < self.smallest < self.largest <= 1.0:
            raise UserError(
                f"gaps need 0 < smallest < largest <= 1, got smallest={self.smallest}, largest={self.largest}"
            )

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "b"]]:
        t = self._times(count, path, g)
        u = torch.rand(count, generator=g, device=g.device, dtype=torch.float64).to(t.device)
        # Inverse of the distribution function 1 - (1 - x)^2, scaled to what is left below t.
        room = t.clamp_max(self.largest) - self.smallest
        r = t - (self.smallest + (1.0 - torch.sqrt(1.0 - u)) * room)
        # Networks are not asked below the span; there the state is as good as clean.
        return t, torch.where(r < path.span[0], 0.0, r)

    def _times(self, count: int, path: Path, g: torch.Generator) -> Tensor:
        t = self.times(count, path, g)
        for _ in range(REDRAWS):
            low = t < self.smallest
            if not bool(low.any()):
                return t
            t[low] = self.times(int(low.sum()), path, g)
        raise UserError(
            f"{self.times} on {path} hardly ever reaches smallest={self.smallest}; lower smallest"
        )

    def middle(self, t: Tensor, s: Tensor, path: Path, progress: float = 0.0, round_: int = 0) -> Tensor:
        return half_way(t, s, path)


@dataclass(frozen=True)
class Halving:
    """Steps of grids of 1, 2, 4, ... 2^(levels - 1) steps, each grid as likely as the others and each of its steps too,
    broken in two at the next grid's node (Frans et al. 2024, Shortcut Models, sec. 3.1: step sizes 1, 1/2, ..., 1/64).

    Args:
        levels: the number of grids.
        shift: of their times towards noise, that of the sampler whose steps are to be learned.
    """

    levels: int = 7
    shift: float = 1.0
    nodes: int = 1
    refined: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise UserError(f"step sizes are halved from 1 on, levels >= 1, got levels={self.levels}")
        if self.shift < 1:
            raise UserError(
                f"a grid is shifted towards noise by a factor of at least 1, got shift={self.shift}"
            )

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "b"]]:
        level = torch.randint(self.levels, (count,), generator=g, device=g.device).cpu()
        steps = 2**level
        share = torch.rand(count, generator=g, device=g.device, dtype=torch.float64).cpu()
        above = 1 + (share * steps).long().clamp_max(steps - 1)
        return node(path, above, steps, self.shift), node(path, above - 1, steps, self.shift)

    def middle(self, t: Tensor, s: Tensor, path: Path, progress: float = 0.0, round_: int = 0) -> Tensor:
        return half_way(t, s, path, 2 ** (self.levels - 1), self.shift)


@dataclass(frozen=True)
class Shrinking:
    """r follows t more closely in each stage: with sigma the noise level of Karras et al. (2022),

        `sigma_r = sigma_t max(0, 1 - (1 + k sigmoid(-b sigma_t)) / q^(stage + 1))`

    (Geng et al. 2024, ECT, as in the released code). In the first stage r = 0 up to a sigma of log(7) for k = 8, which
    is denoising of the data; at large sigma r is half of t's. An r below the path's span is 0.

    Args:
        times: of t.
        stages: their number, of equal length.
        q, k, b: of the formula.
    """

    times: Times = LogNormalSigma(-1.1, 2.0)
    stages: int = 8
    q: float = 2.0
    k: float = 8.0
    b: float = 1.0
    nodes: int = 1
    refined: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.stages >= 1 and self.q > 1.0 and self.k >= 0.0 and self.b > 0.0):
            raise UserError(
                f"shrinking jumps need stages >= 1, q > 1, k >= 0 and b > 0, got stages={self.stages}, q={self.q}, "
                f"k={self.k}, b={self.b}"
            )

    def __call__(
        self, count: int, path: Path, g: torch.Generator, progress: float = 0.0, round_: int = 0
    ) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "b"]]:
        if "gaussian" not in path.offers:
            raise UserError(f"jumps that shrink in sigma need a Gaussian path, got {path}; use Gap")
        t = self.times(count, path, g)
        level = path.noise_level(t)  # type: ignore[attr-defined]
        stage = min(self.stages - 1, int(progress * self.stages))
        share = 1.0 - (1.0 + self.k * torch.sigmoid(-self.b * level)) / self.q ** (stage + 1)
        r = path.time_from_noise_level(level * share.clamp_min(0.0))  # type: ignore[attr-defined]
        return t, torch.where((r < path.span[0]) | (share <= 0), 0.0, r)

    def middle(self, t: Tensor, s: Tensor, path: Path, progress: float = 0.0, round_: int = 0) -> Tensor:
        return half_way(t, s, path)
