"""Derivatives of a map along a trajectory or in its second time, and what is done with them: for `flow_map`.

`derivative: forward` is exact, one call that costs about two (`torch.func.jvp`). `derivative: difference` asks twice
more without gradient and takes the central difference over `2 h`. Its error is `h^2/6 |f'''| + eps/h |f|`, relative to
`|f'|` that is `(w h)^2/6 + eps/(w h)` for a wave of w radians a unit of time. Embeddings here have w <= 50, hence
`h = eps^(1/3) / 10`: errors of about 1e-4 each in float32, the least precision that it is taken in; 1e-10 in float64.
Where a time would leave its interval the difference is one-sided, with an error of `h/2 |f''|`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.answers import dtype_of
from omnidistill.errors import UserError
from omnidistill.networks.embeddings import Waves, zero
from omnidistill.paths.base import per_sample
from omnidistill.shapes import Mask, PerSample, Real

DERIVATIVES = ("forward", "difference")
FLOOR = 1e-2
"""c of the adaptive weight, of a squared error summed over a sample (Geng et al. 2025, MeanFlow, sec. 4.3)."""

Moved = Callable[..., Tensor]


def forward(ask: Moved, at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(ask(*at), its derivative along `along`); a `UserError` where the network has no forward derivative."""
    try:
        return torch.func.jvp(ask, at, along)  # type: ignore[return-value]
    except RuntimeError as problem:
        said = str(problem).strip().splitlines()[0]
        if not any(word in said.lower() for word in ("forward ad", "forward mode", "forward-mode", "jvp")):
            raise
        raise UserError(
            f"the student cannot be differentiated forwards ({said[:120]}); "
            "set families.flow_map.derivative=difference, or take identity: semigroup, which needs no derivative"
        ) from problem


@torch.no_grad()
def difference(
    ask: Callable[[Tensor], Tensor],
    time: Float64[Tensor, "b"],
    low: Float64[Tensor, "b"] | Float64[Tensor, ""],
    high: Float64[Tensor, "b"] | Float64[Tensor, ""],
    h: float,
) -> Float[Tensor, "b ..."]:
    """The rate of `ask(time)` at `time` from what it is `h` above and below, within [low, high]."""
    up, down = torch.minimum(time + h, high), torch.maximum(time - h, low)
    state, ends = torch.get_rng_state(), []
    for moved in (up, down):
        torch.set_rng_state(state)  # layers that draw, draw the same
        with torch.autocast(time.device.type, enabled=False):
            ends.append(ask(moved))
    width = torch.where(up > down, up - down, 1.0)
    return (ends[0] - ends[1]) / per_sample(width, ends[0])


def width_of(student: Denoiser, x: Tensor) -> float:
    """h: see above."""
    dtype = torch.promote_types(dtype_of(student, x), torch.float32)
    return 0.1 * float(torch.finfo(dtype).eps ** (1.0 / 3.0))


def norm(values: Float[Tensor, "b *state"], mask: Mask | None = None) -> PerSample:
    """The Euclidean norm of each sample, padding left out."""
    return (values if mask is None else values * mask).flatten(1).norm(dim=1)


def normalised(residual: Real, unit: PerSample, c: float, mask: Mask | None = None) -> Real:
    """`g / (|g| + c)` of the tangent g = unit * residual (Lu & Song 2024, sCM, sec. 4.1), back in the residual's units.

    Args:
        unit: from the belief's units to those of the network's output, in which c is meant.
    """
    wide = per_sample(unit, residual)
    return residual / per_sample(norm(wide * residual, mask) + c, residual)


def adaptive(error: Real, w: Tensor, power: float, mask: Mask | None = None) -> PerSample:
    """`1 / (|e|^2 + c)^power`, |e|^2 the sample's weighted squared error, twice the summed loss."""
    total = (error.detach() if mask is None else error.detach() * mask).flatten(1).sum(1)
    return (2.0 * w * total + FLOOR) ** -power


class TimeWeight(nn.Module):
    """w(t) of `E exp(w(t)) loss(t) - w(t)`, whose optimum gives every time the same expected loss (Karras et al. 2024,
    EDM2, arXiv:2312.02696; Lu & Song 2024, sCM, alg. 1). Zero at the start."""

    def __init__(self, frequencies: int = 16) -> None:
        super().__init__()
        self.waves = Waves(frequencies)
        self.linear = zero(nn.Linear(2 * frequencies, 1))

    def forward(self, t: Float64[Tensor, "b"]) -> Float64[Tensor, "b"]:
        weights = self.linear(self.waves(t).to(self.linear.weight.dtype))
        return weights.squeeze(1).to(t.dtype)
