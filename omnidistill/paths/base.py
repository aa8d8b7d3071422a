"""The contract of a path."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.posteriors import Posterior
from omnidistill.shapes import Mask, Real, State, Time, Times, Tokens, Undecided

P = TypeVar("P", bound=Posterior)

Grid = Float64[Tensor, "{steps}+1"]


class Path(Protocol):
    """A corruption process `q(x_t | x0)` and its exact bridge `q(x_s | x_t, x0)`.

    Attributes:
        span: the times (low, high) inside [0, 1] between which networks are trained and asked; the ends where a
            schedule is singular lie outside.
        floor: time that a sampling grid would end at and where it puts 0 instead.
        offers: what recipes may need: `gaussian`, `masked`, `uniform`, `categorical`, `differentiable` (a belief's
            sample carries a gradient), `deterministic` (a bridge without fresh noise exists from the prior to the
            data), `composable` (two jumps can be written as one), `anchored`.
        time_axis: the axis of a state along which a time [b f] runs; None where there is one time a sample.
    """

    span: tuple[float, float]
    floor: float
    offers: frozenset[str]
    time_axis: int | None

    def prior(self, like: State, context: Context = ..., *, g: torch.Generator | None = None) -> State:
        """A sample at t = 1, shaped and placed like `like`."""
        ...

    def corrupt(
        self, x0: State, t: Time, context: Context = ..., *, g: torch.Generator | None = None
    ) -> State:
        """x_t ~ q(x_t | x0)."""
        ...

    def renoise(
        self, x0: State, t: Time, context: Context = ..., *, g: torch.Generator | None = None
    ) -> State:
        """x_t as a sampler sees it: `corrupt`, with less noise on a path that samples at a lower temperature. Samplers
        go on from a predicted x0 by it, and students are trained on it; teachers and critics on `corrupt`."""
        ...

    def bridge(
        self,
        x_t: State,
        x0: State,
        t: Time,
        s: Time,
        context: Context = ...,
        *,
        churn: float = 0.0,
        g: torch.Generator | None = None,
    ) -> State:
        """x_s ~ q(x_s | x_t, x0), s < t. `churn` 1 is the process's own posterior, 0 the deterministic jump where
        one exists; tokens have only the former. A deterministic jump of a Gaussian path may go upwards, s > t > 0."""
        ...

    def bridge_law(
        self, x_t: State, x0: State, t: Time, s: Time, context: Context = ..., *, churn: float = 0.0
    ) -> Any:
        """The law that `bridge` draws from: (mean, std) of a Gaussian, shaped like x_t; for tokens probabilities, one
        more axis."""
        ...

    def velocity(self, x_t: Real, x0: Real, t: Time, context: Context = ...) -> Real:
        """dx/dt of the deterministic trajectory through x_t that a belief x0 points along; an error for tokens."""
        ...

    def unresolved(self, x_t: State, t: Time) -> Undecided:
        """Where something is still to be decided."""
        ...

    def align(self, target: P, to: P, mask: Mask | None = None) -> P:
        """`target` moved by the symmetry of the data nearest to `to`; identity but for coordinates."""
        ...

    def share(
        self, x_t: State, x_r: State, t: Time, r: Time, s: Time
    ) -> Float[Tensor, "..."] | Bool[Tensor, "..."]:
        """Two jumps t -> r -> s with beliefs D1, D2 equal one jump t -> s with `w D1 + (1 - w) D2`; this is w, a truth
        value where it is 1 or 0."""
        ...

    def certain(self, x0: State) -> Any:
        """The belief that x0 is exactly this."""
        ...


def holds(condition: Bool[Tensor, ""]) -> bool:
    """Whether a condition on values holds; taken for granted where values cannot be looked at, which is while a graph
    is compiled and under `vmap`."""
    if torch.compiler.is_compiling():
        return True
    try:
        return bool(condition)
    except RuntimeError:  # what vmap answers to a question about values
        return True


def same(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> bool:
    """Whether two tensors are equal; taken for granted where `holds` takes a condition."""
    if torch.compiler.is_compiling():
        return True
    try:
        return torch.equal(a, b)
    except RuntimeError:
        return True


def finite(values: Float[Tensor, "..."]) -> bool:
    """Whether all numbers are finite, for a sum is only if all are; taken for granted where `holds` takes a
    condition."""
    if torch.compiler.is_compiling():
        return True
    try:
        return math.isfinite(float(values.detach().sum()))
    except RuntimeError:
        return True


def node(
    path: Path, above: Int[Tensor, "*times"], steps: Int[Tensor, "*#times"] | int, shift: float = 1.0
) -> Times:
    """The time of the node `above` steps above the last on the grid of `steps` steps. A fraction decides, so that the
    same place on a finer grid has the same bits."""
    return _placed(path.floor, path.span[1], above, steps, shift)


def _placed(
    floor: float, top: float, above: Int[Tensor, "*times"], steps: Int[Tensor, "*#times"] | int, shift: float
) -> Times:
    t = floor + (top - floor) * shifted(above.double() / steps, shift)
    t = torch.where(above == steps, top, t)
    return torch.where(above == 0, 0.0, t)


def grid(path: Path, steps: int, shift: float = 1.0) -> Grid:
    """Times from `span[1]` down to 0, uniform in t down to `floor`, whose place 0 takes, and moved
    towards the top by `shift`. The grid of N steps is every second node of that of 2 N, bit for bit, so that a model is
    asked on the coarse one at times that it learned on the fine one."""
    if steps < 1:
        raise UserError(f"a sampler needs at least one step, got steps={steps}")
    if torch.compiler.is_compiling():
        return _nodes(path.floor, path.span[1], steps, shift)
    # A run asks for the same few grids in every update; a copy, for what is remembered must not be changed.
    return _remembered(path.floor, path.span[1], steps, shift).clone()


def _nodes(floor: float, top: float, steps: int, shift: float) -> Grid:
    return _placed(floor, top, torch.arange(steps, -1, -1, device="cpu"), steps, shift)


_remembered = lru_cache(maxsize=256)(_nodes)


def floored(path: Path, steps: int, shift: float = 1.0) -> Grid:
    """Uniform in t down to `floor`, and from there one step to 0; on the `edm` path the grid of
    Karras et al. (2022), eq. 5. For long runs: of few steps it spends one where there is nothing left to do."""
    if steps < 2 or path.floor == 0.0:
        return grid(path, steps, shift)
    inner = grid(path, steps - 1, shift)
    return torch.cat((inner[:-1], torch.tensor([path.floor, 0.0], dtype=torch.float64)))


GRIDS: dict[str, Callable[..., Tensor]] = {"nested": grid, "karras": floored}


def shifted(t: Times, shift: float) -> Times:
    """`s t / (1 + (s - 1) t)`: times moved up for s > 1, so that a grid has more steps under much noise; 0 and 1 stay
    (Esser et al. 2024, eq. 23)."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def as_time(t: Time, like: State) -> Times:
    """Times as float64 on the state's device."""
    return torch.as_tensor(t, dtype=torch.float64, device=like.device)


def rows(t: Float[Tensor, "..."], count: int) -> Float[Tensor, "{count}"] | Float[Tensor, "{count} f"]:
    """Times with a row for each of `count` samples."""
    return t.expand(count) if t.ndim < 2 else t.expand(count, -1)


def per_sample(
    value: Shaped[Tensor, "..."], like: State, axis: int | None = None
) -> Shaped[Tensor, ""] | Shaped[Tensor, "#b *#state"]:
    """A value of time, shaped to broadcast against `like` and cast to its dtype if that is real.

    Args:
        value: a scalar, [b], or [b f] with one entry for each frame along `axis` of `like`.
        axis: the path's `time_axis`.

    Raises:
        UserError: a shape that is none of these. Torch would broadcast some of them over an axis that only happens to
            be as long.
    """
    value = value.to(like.dtype) if like.is_floating_point() else value
    if value.ndim == 0:
        return value
    shape = [1] * like.ndim
    fits = value.ndim <= 2 and value.shape[0] in (1, like.shape[0])
    if fits:
        shape[0] = value.shape[0]
    if fits and value.ndim == 2:
        fits = axis is not None and value.shape[1] == like.shape[axis]
        if fits and axis is not None:
            shape[axis] = value.shape[1]
    if not fits:
        frames = (
            f"[{like.shape[0]}, {like.shape[axis]}]" if axis is not None else "none per frame: no time_axis"
        )
        raise UserError(
            f"times of shape {list(value.shape)} do not fit a state of shape {list(like.shape)}; "
            f"possible: one number, [{like.shape[0]}], {frames}"
        )
    return value.reshape(shape)


def keep_given(tokens: Tokens, context: Context, vocab: int) -> Tokens:
    """The tokens with those that are given in place: the anchor holds them, and `vocab` where none is given."""
    if context.anchor is None:
        return tokens
    return torch.where(context.anchor == vocab, tokens, context.anchor)


def undecided(path: Path, x_t: Tokens, t: Time, context: Context, vocab: int) -> Bool[Tensor, "b n"]:
    """Tokens still to be found: unresolved and not given."""
    unresolved = path.unresolved(x_t, t)
    return unresolved if context.anchor is None else unresolved & (context.anchor == vocab)
