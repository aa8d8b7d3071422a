"""From data back to the noise that they come from, and from there to data again."""

from __future__ import annotations

import itertools

from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths import GaussianPath, Path

START = 0.01
"""The time that clean data are taken for. At 0 a state says nothing of its noise; the error that this makes is of
second order in the noise level there, divided by the data's own spread."""


def invertible(path: Path) -> GaussianPath:
    """The path, if a state of it says which noise it comes from."""
    if not {"gaussian", "deterministic"} <= path.offers:
        raise UserError(
            f"{path} has no deterministic way from data to noise; inversion needs a Gaussian path"
        )
    return path  # type: ignore[return-value]


def beginning(path: Path, start: float, above: Tensor) -> Tensor:
    """Where a way up to the times `above` starts: at `start`, but not beyond half of them, nor where networks are not
    asked."""
    return (0.5 * above).clamp_max(start).clamp_min(path.span[0])


def invert(
    denoiser: Denoiser, x0: Tensor, times: Tensor, context: Context = Context(), *, start: float = START
) -> Tensor:
    """x_1 of the deterministic trajectory that ends in x0 (DDIM inversion, Song et al. 2021, sec. 4.3; by a student
    that learned jumps towards noise, Starodubcev et al. 2024, iCD, alg. 1).

    Args:
        times: Float64[n + 1] of a sampler, from the top down to 0; walked upwards, with `start` in place of 0.
        start: the noiseless x0 is taken for the state at this time.
    """
    path = invertible(denoiser.path)
    upwards = times.flip(0).clone()
    upwards[0] = beginning(path, start, upwards[1])
    return _walk(denoiser, path.expected(x0, upwards[0], context), upwards, context)


def regenerate(denoiser: Denoiser, x_1: Tensor, times: Tensor, context: Context = Context()) -> Tensor:
    """x_0 of the deterministic trajectory through x_1, in single jumps over these times."""
    invertible(denoiser.path)
    return _walk(denoiser, x_1, times, context)


def _walk(denoiser: Denoiser, x: Tensor, times: Tensor, context: Context) -> Tensor:
    for t, s in itertools.pairwise(times):
        told = s.expand(len(x)) if denoiser.wants_target else None
        belief = denoiser(x, t.expand(len(x)), context, target_time=told)
        x = denoiser.path.bridge(x, belief.sample(None, context.mask), t, s, context)
    return x
