"""The contract of a path."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.posteriors import Posterior

Time = Tensor | float
P = TypeVar("P", bound=Posterior)


class Path(Protocol):
    """A corruption process `q(x_t | x0)` and its exact bridge `q(x_s | x_t, x0)`.

    Attributes:
        span: the times (low, high) inside [0, 1] between which networks are trained and asked; the ends where a
            schedule is singular lie outside.
        floor: lowest time that a sampling grid visits before its last jump to 0.
        offers: what recipes may need: `gaussian`, `masked`, `uniform`, `categorical`, `differentiable` (a belief's
            sample carries a gradient), `deterministic` (a bridge without fresh noise exists), `composable` (two
            jumps can be written as one), `anchored`.
    """

    span: tuple[float, float]
    floor: float
    offers: frozenset[str]

    def prior(self, like: Tensor, context: Context = ..., *, g: torch.Generator | None = None) -> Tensor:
        """A sample at t = 1, shaped and placed like `like`."""
        ...

    def corrupt(
        self, x0: Tensor, t: Time, context: Context = ..., *, g: torch.Generator | None = None
    ) -> Tensor:
        """x_t ~ q(x_t | x0)."""
        ...

    def renoise(
        self, x0: Tensor, t: Time, context: Context = ..., *, g: torch.Generator | None = None
    ) -> Tensor:
        """x_t as a sampler sees it: `corrupt`, with less noise on a path that samples at a lower temperature. Samplers
        go on from a predicted x0 by it, and students are trained on it; teachers and critics on `corrupt`."""
        ...

    def bridge(
        self,
        x_t: Tensor,
        x0: Tensor,
        t: Time,
        s: Time,
        context: Context = ...,
        *,
        churn: float = 0.0,
        g: torch.Generator | None = None,
    ) -> Tensor:
        """x_s ~ q(x_s | x_t, x0), s < t. `churn` 1 is the process's own posterior, 0 the deterministic jump where
        one exists; tokens have only the former."""
        ...

    def unresolved(self, x_t: Tensor, t: Time) -> Tensor:
        """Bool, shaped like x_t: where something is still to be decided."""
        ...

    def align(self, target: P, to: P, mask: Tensor | None = None) -> P:
        """`target` moved by the symmetry of the data nearest to `to`; identity but for coordinates."""
        ...

    def share(self, x_t: Tensor, x_r: Tensor, t: Time, r: Time, s: Time) -> Tensor:
        """Two jumps t -> r -> s with beliefs D1, D2 equal one jump t -> s with `w D1 + (1 - w) D2`; this is w."""
        ...

    def certain(self, x0: Tensor) -> Any:
        """The belief that x0 is exactly this."""
        ...


def grid(path: Path, steps: int) -> Tensor:
    """Float64[steps + 1]: times from `span[1]` down to 0. Uniform in t, or uniform down to `floor` and then 0,
    which on the `edm` path is the grid of Karras et al. (2022), eq. 5."""
    if steps < 1:
        raise UserError(f"a sampler needs at least one step, got steps={steps}")
    top = path.span[1]
    if path.floor == 0.0:
        return torch.linspace(top, 0.0, steps + 1, dtype=torch.float64)
    return torch.cat(
        (torch.linspace(top, path.floor, steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    )


def shifted(t: Tensor, shift: float) -> Tensor:
    """`s t / (1 + (s - 1) t)`: times moved up for s > 1, so that a grid has more steps under much noise; 0 and 1 stay
    (Esser et al. 2024, eq. 23)."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def as_time(t: Time, like: Tensor) -> Tensor:
    """Times as float64 on the state's device: a scalar, or one per sample."""
    return torch.as_tensor(t, dtype=torch.float64, device=like.device)


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """A scalar or Float[b], shaped to broadcast against `like` and cast to its dtype if that is real."""
    value = value.to(like.dtype) if like.is_floating_point() else value
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def keep_given(tokens: Tensor, context: Context, vocab: int) -> Tensor:
    """The tokens with those that are given in place: the anchor holds them, and `vocab` where none is given."""
    if context.anchor is None:
        return tokens
    return torch.where(context.anchor == vocab, tokens, context.anchor)


def undecided(path: Path, x_t: Tensor, t: Time, context: Context, vocab: int) -> Tensor:
    """Bool[b n]: tokens still to be found: unresolved and not given."""
    unresolved = path.unresolved(x_t, t)
    return unresolved if context.anchor is None else unresolved & (context.anchor == vocab)
