"""Distributions of training times, truncated to the path's span, never clamped: a clamp piles mass on an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.paths.base import shifted


class Times(Protocol):
    """A distribution of training times."""

    def __call__(self, count: int, path: Path, g: torch.Generator) -> Float64[Tensor, "{count}"]:
        """Times inside `path.span`."""
        ...


def _uniform(count: int, g: torch.Generator) -> Float64[Tensor, "{count}"]:
    return torch.rand(count, generator=g, device=g.device, dtype=torch.float64)


@dataclass(frozen=True)
class Uniform:
    """Uniform in t between `low` and `high`, cut to the path's span, after it is moved towards noise by `shift`
    (`paths.shifted`; Esser et al. 2024, eq. 23)."""

    low: float = 0.0
    high: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.shift < float("inf"):
            raise UserError(f"times are shifted by a number above 0, got shift={self.shift}")
        if not 0.0 <= self.low < self.high <= 1.0:
            raise UserError(f"times need 0 <= low < high <= 1, got low={self.low}, high={self.high}")

    def __call__(self, count: int, path: Path, g: torch.Generator) -> Float64[Tensor, "{count}"]:
        low, high = max(self.low, path.span[0]), min(self.high, path.span[1])
        if low >= high:
            raise UserError(
                f"times from {self.low:g} to {self.high:g} lie outside the span {path.span} of {path}"
            )
        # The ends are moved back, so that the shifted times lie between them.
        low, high = (_unshifted(end, self.shift) for end in (low, high))
        return shifted(low + (high - low) * _uniform(count, g), self.shift)


def _unshifted(t: float, shift: float) -> float:
    return t / (shift - (shift - 1.0) * t)


@dataclass(frozen=True)
class Annealed:
    """Uniform between `low` and an upper end that falls from `high` to `end` over the run: coarse shapes first, details
    later. The end is `high + (end - high) p^power`, p the share of the run that is over.

    Args:
        width: of the window below the upper end; None: down to `low`.
        power: 1 falls evenly, 1/2 fast at first.
    """

    low: float = 0.02
    high: float = 0.98
    end: float = 0.2
    power: float = 1.0
    width: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.end <= self.high <= 1.0 or not self.power > 0.0:
            raise UserError(
                "annealed times need 0 <= low < end <= high <= 1 and power > 0, got "
                f"low={self.low}, end={self.end}, high={self.high}, power={self.power}"
            )
        if self.width is not None and not self.width > 0.0:
            raise UserError(f"the window of annealed times has a width above 0, got {self.width}")

    def __call__(
        self, count: int, path: Path, g: torch.Generator, over: float = 0.0
    ) -> Float64[Tensor, "{count}"]:
        top = self.high + (self.end - self.high) * over**self.power
        low = self.low if self.width is None else max(self.low, top - self.width)
        return Uniform(low, top)(count, path, g)


@dataclass(frozen=True)
class Onwards:
    """Times above the one that the student's step led to, counted from the state that its sampler goes on with: that
    state is noised further, not the sample (`Step.copy`).

    Args:
        upto: `prior`, up to `high`; `step`, up to where the step began, so that each step has times of its own.
        low, high: as of `Uniform`.
        margin: least distance above the state's time; what is learned there is mostly the noise that was just added.
    """

    upto: str = "prior"
    low: float = 0.02
    high: float = 0.98
    margin: float = 0.02

    def __post_init__(self) -> None:
        if self.upto not in ("prior", "step"):
            raise UserError(f"times onwards reach up to 'prior' or 'step', got upto='{self.upto}'")
        if not 0.0 <= self.low < self.high <= 1.0 or not 0.0 < self.margin < 1.0:
            raise UserError(
                "times onwards need 0 <= low < high <= 1 and 0 < margin < 1, got "
                f"low={self.low}, high={self.high}, margin={self.margin}"
            )

    def __call__(
        self, count: int, path: Path, g: torch.Generator, s: float = 0.0, began: float = 1.0
    ) -> Tensor:
        """Between s and, for `upto: step`, `began`."""
        low = max(self.low, path.span[0], s + self.margin)
        high = min(self.high, path.span[1], began if self.upto == "step" else 1.0)
        if low >= high:
            raise UserError(
                f"no time is left between a step's end {s:g} (margin {self.margin:g}) and {high:g}; lower margin or "
                "take fewer steps"
            )
        return low + (high - low) * _uniform(count, g)


def _truncated_normal(
    count: int, low: Float64[Tensor, ""], high: Float64[Tensor, ""], g: torch.Generator
) -> Float64[Tensor, "{count}"]:
    below, above = torch.special.ndtr(low), torch.special.ndtr(high)
    return torch.special.ndtri(below + (above - below) * _uniform(count, g))


@dataclass(frozen=True)
class LogitNormal:
    """`logit(t) ~ N(mean, std^2)`, cut to the path's span (Esser et al. 2024, sec. 3.1)."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, count: int, path: Path, g: torch.Generator) -> Float64[Tensor, "{count}"]:
        ends = torch.tensor(path.span, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
        low, high = (torch.logit(ends) - self.mean) / self.std
        return torch.sigmoid(self.mean + self.std * _truncated_normal(count, low, high, g))


@dataclass(frozen=True)
class LogNormalSigma:
    """`log(sigma/alpha) ~ N(mean, std^2)`, cut to the path's span (Karras et al. 2022, table 1). Gaussian paths."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, count: int, path: Path, g: torch.Generator) -> Float64[Tensor, "{count}"]:
        if "gaussian" not in path.offers:
            raise UserError(f"LogNormalSigma needs a Gaussian path, got {path}; use Uniform times")
        # An infinite noise level at t = 1 is the untruncated end.
        ends = torch.log(path.noise_level(torch.tensor(path.span, dtype=torch.float64)))  # type: ignore[attr-defined]
        low, high = (ends - self.mean) / self.std
        # The clamp mends the last bit of the inverse; the level itself is truncated.
        level = torch.exp(self.mean + self.std * _truncated_normal(count, low, high, g))
        return path.time_from_noise_level(level).clamp(*path.span)  # type: ignore[attr-defined]
