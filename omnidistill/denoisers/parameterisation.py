"""What a network's output means. Every parameterisation of a Gaussian path is affine in the clean sample:

    x0 = a(t) (x_t - beta y) + b(t) (out - o(t) y)

| name | out | a | b |
|---|---|---|---|
| `x0` | x0 | 0 | 1 |
| `eps` | eps | 1/alpha | -sigma/alpha |
| `score` | -eps/sigma | 1/alpha | sigma^2/alpha |
| `v` | alpha eps - sigma x0 | alpha/n^2 | -sigma/n^2, n^2 = alpha^2 + sigma^2 |
| `flow` | dx_t/dt at fixed x0, eps | sigma'/w | -sigma/w, w = sigma' alpha - sigma alpha' |
| `flow_to_data` | -dx_t/dt | sigma'/w | sigma/w |
| `edm` | Karras F | d^2 alpha/m^2 | d sigma/m, m^2 = sigma^2 + d^2 alpha^2 |
| `trigflow` | -F | d^2 alpha/m^2 | -d sigma/m |
| `consistency` | F | d^2/((l - l0)^2 + d^2) / alpha | d (l - l0)/sqrt(l^2 + d^2), l = sigma/alpha, l0 = l(span[0]) |

d is the data's standard deviation. v: Salimans & Ho 2022. edm: Karras et al. 2022, table 1, multiplied out so that
alpha = 0 is regular. trigflow: Lu & Song 2024, the same map with the opposite sign. consistency: Song et al.
2023, appendix C; the boundary f(x, t) = x holds at the lowest noise level by construction. In all others but `x0`
it holds at t = 0, because a(0) = 1 and b(0) = 0 wherever alpha(0) = 1 and sigma(0) = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.paths.base import Time, finite, per_sample
from omnidistill.paths.coefficients import Coefficients
from omnidistill.paths.gaussian import GaussianPath
from omnidistill.shapes import Real


class Affine(NamedTuple):
    """x0 = a * (x_t - beta y) + b * (out - o y)."""

    a: Float64[Tensor, "*times"]
    b: Float64[Tensor, "*times"]
    o: Float64[Tensor, "*times"]


def _x0(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    zero = torch.zeros_like(t)
    return Affine(zero, torch.ones_like(t), zero)


def _eps(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    alpha, _, sigma = at
    return Affine(1.0 / alpha, -sigma / alpha, torch.zeros_like(t))


def _score(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    alpha, _, sigma = at
    return Affine(1.0 / alpha, sigma**2 / alpha, torch.zeros_like(t))


def _v(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    alpha, _, sigma = at
    square = alpha**2 + sigma**2
    return Affine(alpha / square, -sigma / square, torch.zeros_like(t))


def _flow(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    alpha, _, sigma = at
    alpha_rate, beta_rate, sigma_rate = path.rates(t)
    w = sigma_rate * alpha - sigma * alpha_rate
    return Affine(sigma_rate / w, -sigma / w, beta_rate)


def _flow_to_data(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    a, b, o = _flow(path, t, d, at)
    return Affine(a, -b, -o)


def _edm(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    alpha, _, sigma = at
    square = sigma**2 + (d * alpha) ** 2
    return Affine(d * d * alpha / square, d * sigma / square.sqrt(), torch.zeros_like(t))


def _trigflow(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    a, b, o = _edm(path, t, d, at)
    return Affine(a, -b, o)


def _consistency(path: GaussianPath, t: Tensor, d: float, at: Coefficients) -> Affine:
    alpha, _, sigma = at
    # alpha (l - l0), so that alpha = 0 is regular
    above = sigma - alpha * path.noise_level(path.span[0])
    scale = (d * alpha) ** 2
    return Affine(
        d * d * alpha / (above**2 + scale), d * above / (sigma**2 + scale).sqrt(), torch.zeros_like(t)
    )


PARAMETERISATIONS: dict[str, Callable[[GaussianPath, Tensor, float, Coefficients], Affine]] = {
    "x0": _x0,
    "eps": _eps,
    "score": _score,
    "v": _v,
    "flow": _flow,
    "flow_to_data": _flow_to_data,
    "edm": _edm,
    "trigflow": _trigflow,
    "consistency": _consistency,
}

REGULAR = frozenset(("x0", "v", "edm", "trigflow"))
"""Those that are singular nowhere, for alpha and sigma are never both 0."""


def affine(
    path: GaussianPath, kind: str, t: Time, sigma_data: float = 1.0, at: Coefficients | None = None
) -> Affine:
    """The coefficients of `kind` at t; a `UserError` where it is singular (e.g. eps where alpha is 0). `at` are those
    of the path there, where they are known."""
    if kind not in PARAMETERISATIONS:
        raise unknown("parameterisation", kind, PARAMETERISATIONS)
    t = torch.as_tensor(t, dtype=torch.float64)
    coefficients = PARAMETERISATIONS[kind](path, t, sigma_data, path.coefficients(t) if at is None else at)
    if kind not in REGULAR and not finite(coefficients.a + coefficients.b):
        raise UserError(
            f"parameterisation '{kind}' is singular on path '{path.name}' at t={float(t.max()):g}; "
            "use x0, v or edm, or stay inside path.span"
        )
    return coefficients


def to_x0(
    path: GaussianPath,
    kind: str,
    out: Real,
    x_t: Real,
    t: Time,
    anchor: Real | None = None,
    d: float = 1.0,
    at: Coefficients | None = None,
) -> Real:
    """The clean sample that the output `out` of a `kind` network means; `at` as in `affine`."""
    at = path.coefficients(t) if at is None else at
    coefficients = affine(path, kind, t, d, at)[: 2 if anchor is None else 3]
    a, b, *o = (per_sample(c.to(x_t.device), x_t, path.time_axis) for c in coefficients)
    if anchor is None:
        return a * x_t + b * out
    beta = per_sample(at.beta.to(x_t.device), x_t, path.time_axis)
    return a * (x_t - beta * anchor) + b * (out - o[0] * anchor)


def from_x0(
    path: GaussianPath,
    kind: str,
    x0: Real,
    x_t: Real,
    t: Time,
    anchor: Real | None = None,
    d: float = 1.0,
) -> Real:
    """The inverse of `to_x0`; needs sigma > 0, for at t = 0 every output means the same x0."""
    a, b, o = (per_sample(c.to(x_t.device), x_t, path.time_axis) for c in affine(path, kind, t, d))
    if anchor is None:
        return (x0 - a * x_t) / b
    beta = per_sample(path.coefficients(t).beta.to(x_t.device), x_t, path.time_axis)
    return (x0 - a * (x_t - beta * anchor)) / b + o * anchor


def convert(
    path: GaussianPath,
    value: Real,
    x_t: Real,
    t: Time,
    source: str,
    target: str,
    anchor: Real | None = None,
    sigma_data: float = 1.0,
) -> Real:
    """`value` of parameterisation `source` expressed in `target`, at the same x_t, t and anchor.

    Example:
        >>> path = rectified_flow()
        >>> score = convert(path, velocity, x_t, t, "flow", "score")
    """
    x0 = to_x0(path, source, value, x_t, t, anchor, sigma_data)
    return from_x0(path, target, x0, x_t, t, anchor, sigma_data)
