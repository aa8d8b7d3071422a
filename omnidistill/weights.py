"""Weights of a loss over time, w(t): a paper's factor written once, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.paths import GaussianPath, Path
from omnidistill.paths.schedules import rate

Instants = Float64[Tensor, "b"] | Float64[Tensor, ""]


def _gaussian(function: Callable[[GaussianPath, Tensor], Tensor]) -> Callable[[Path, Tensor], Tensor]:
    def weight(path: Path, t: Tensor) -> Tensor:
        if "gaussian" not in path.offers:
            raise UserError(
                f"this weighting is a function of signal and noise and needs a Gaussian path, got {path}"
            )
        return function(path, t)  # type: ignore[arg-type]

    return weight


def _snr(path: GaussianPath, t: Instants) -> Instants:
    return path.noise_level(t) ** -2


def _signal(path: GaussianPath, t: Instants) -> Instants:
    return path.coefficients(t).alpha


def _product(path: GaussianPath, t: Instants) -> Instants:
    alpha, _, sigma = path.coefficients(t)
    return alpha * sigma


def _velocity(path: GaussianPath, t: Tensor) -> Tensor:
    alpha, _, sigma = path.coefficients(t)
    alpha_rate, _, sigma_rate = path.rates(t)
    return (alpha_rate - sigma_rate * alpha / sigma) ** 2


def _reveal(path: Path, t: Instants) -> Instants:
    if "masked" not in path.offers:
        raise UserError(f"the weighting nelbo is the likelihood bound of a masked path, got {path}")
    alpha = path.alpha  # type: ignore[attr-defined]
    return -rate(alpha, t) / (1.0 - alpha(t))


WEIGHTS: dict[str, Callable[[Path, Tensor], Tensor]] = {
    "uniform": lambda path, t: torch.ones_like(t),
    "snr": _gaussian(_snr),
    "truncated_snr": _gaussian(lambda path, t: _snr(path, t).clamp_min(1.0)),
    "min_snr_5": _gaussian(lambda path, t: _snr(path, t).clamp_max(5.0)),
    "alpha": _gaussian(_signal),
    "alpha_sigma": _gaussian(_product),
    "velocity": _gaussian(_velocity),
    "nelbo": _reveal,
}
"""`uniform`: 1. `snr`: alpha^2/sigma^2, the weight that makes an x0-gap the gradient of a KL divergence.
`truncated_snr`: max(snr, 1) (Salimans & Ho 2022, sec. 4). `min_snr_5`: min(snr, 5) (Hang et al. 2023).
`velocity`: (alpha' - sigma' alpha / sigma)^2, which turns an error of x0 into one of the trajectory's velocity; 1/t^2
on a rectified flow.
`alpha`: the signal's share, which trusts a teacher less the more noise it is asked about (Sauer et al. 2023, ADD).
`alpha_sigma`: alpha sigma, which turns an x0-gap g into sigma^2 times the eps-gap alpha g/sigma (SwiftBrush).
`nelbo`: -alpha'/(1 - alpha), 1/t for the linear schedule (Sahoo et al. 2024, MDLM, eq. 10); masked paths."""


def weight(name: str, path: Path, t: Instants) -> Instants:
    """The weight `name` at times t of this path."""
    if name not in WEIGHTS:
        raise unknown("weighting", name, WEIGHTS)
    return WEIGHTS[name](path, t)
