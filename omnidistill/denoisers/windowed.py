"""A denoiser asked in overlapping windows, for states longer than its network should see at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers.base import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths.base import as_time, rows
from omnidistill.posteriors import Posterior
from omnidistill.shapes import Real, State, TensorTime, Time

TOGETHER = 8  # windows a network call: bounds the memory however long the state


class Windowed(Denoiser):
    """Beliefs of windows along the last axis, cross-faded where windows overlap:

    `D(x_t)_i = sum_w r_w(i) D(x_t[w])_i / sum_w r_w(i)`, r_w rising and falling linearly over the overlap (fusing
    diffusion paths: Bar-Tal et al. 2023, MultiDiffusion, eq. 5, with a ramp for its constant weights).

    The fusion happens at every sampler step, on one state with one noise, so neighbouring windows agree on what they
    share and there is no seam. A state of at most `length` is answered whole. Counts one call an answer, however many
    windows it takes: every element is asked about once, or twice in an overlap.

    Args:
        denoiser: of a Gaussian path.
        length: elements of a window.
        overlap: elements that neighbours share, at least 1 and at most half the window.
    """

    def __init__(self, denoiser: Denoiser, length: int, overlap: int) -> None:
        super().__init__(denoiser.path)
        if "gaussian" not in denoiser.path.offers:
            raise UserError(f"windows are fused on Gaussian paths, got {denoiser.path}")
        if not 1 <= overlap <= length // 2:
            raise UserError(
                f"windows need 1 <= overlap <= length / 2, got length={length}, overlap={overlap}"
            )
        self.denoiser, self.length, self.overlap = denoiser, int(length), int(overlap)
        self.wants_target = denoiser.wants_target
        self._walk: Callable[[], Denoiser] | None = None
        self._walking: dict[int, Denoiser] = {}

    def nodes(self, steps: int) -> Tensor | None:
        return self.denoiser.nodes(steps)

    def walk(self, times: Tensor, g: Any = None) -> Denoiser:
        """Every group of windows has a walk of its own."""
        made = Windowed(self.denoiser, self.length, self.overlap)
        made._counter, made._walk = self._counter, lambda: self.denoiser.walk(times, g)
        return made

    def _inner(self, first: int) -> Denoiser:
        if self._walk is None:
            return self.denoiser
        if first not in self._walking:
            self._walking[first] = self._walk()
        return self._walking[first]

    def belief(self, x_t: Real, t: Time, context: Context, target_time: TensorTime | None) -> Posterior:
        n, b = x_t.shape[-1], x_t.shape[0]
        if n <= self.length:
            return self._inner(0)(x_t, t, context, target_time=target_time)
        starts = self._starts(n)
        t = rows(as_time(t, x_t), b)
        target = None if target_time is None else rows(target_time, b)
        fused, total = torch.zeros_like(x_t), torch.zeros(n, dtype=x_t.dtype, device=x_t.device)
        answer: Posterior | None = None
        for first in range(0, len(starts), TOGETHER):
            some = starts[first : first + TOGETHER]
            parts = [self._cut(context, start, n) for start in some]
            around = parts[0]
            for part in parts[1:]:
                around = around.joined(part)
            x = torch.cat([x_t[..., start : start + self.length] for start in some])
            now, later = (
                None if u is None else torch.cat([self._cut_time(u, start, x_t) for start in some])
                for u in (t, target)
            )
            assert now is not None
            answer = self._inner(first)(x, now, around, target_time=later)
            for start, mean in zip(some, answer.parameters.split(b), strict=True):
                weight = self._weight(start, n, x_t)
                fused[..., start : start + self.length] += weight * mean
                total[start : start + self.length] += weight
        assert answer is not None
        return answer.replace(fused / total)

    def _starts(self, n: int) -> list[int]:
        """Evenly spaced, so that no last window overlaps its neighbour almost wholly."""
        hop = self.length - self.overlap
        count = -(-(n - self.length) // hop) + 1
        return [round(i * (n - self.length) / (count - 1)) for i in range(count)]

    def _weight(self, start: int, n: int, like: Float[Tensor, "..."]) -> Float[Tensor, "length"]:
        """r_w, from 1/overlap at an end that a neighbour takes over, 1 at an end of the state."""
        rise = torch.arange(1, self.length + 1, dtype=like.dtype, device=like.device) / self.overlap
        left = torch.ones_like(rise) if start == 0 else rise.clamp_max(1.0)
        right = torch.ones_like(rise) if start + self.length == n else rise.flip(0).clamp_max(1.0)
        return torch.minimum(left, right)

    def _cut_time(
        self, t: Float[Tensor, "b"] | Float[Tensor, "b f"], start: int, x_t: State
    ) -> Float[Tensor, "b"] | Float[Tensor, "b cut"]:
        """The times of one window: those of its own frames, where a time per frame runs along the last axis."""
        axis = getattr(self.path, "time_axis", None)
        along = t.ndim == 2 and axis is not None and axis % x_t.ndim == x_t.ndim - 1
        return t[:, start : start + self.length] if along else t

    def _cut(self, context: Context, start: int, n: int) -> Context:
        """The context of one window: what runs along the last axis is cut, the rest is the same for all."""

        def cut(value: Tensor | None) -> Tensor | None:
            return value if value is None or value.shape[-1] != n else value[..., start : start + self.length]

        return replace(context, anchor=cut(context.anchor), mask=cut(context.mask), reference=None)
