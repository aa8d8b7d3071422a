"""Probability that a token is still clean, `alpha(t)`: 1 at t = 0, 0 at t = 1, decreasing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from omnidistill.errors import unknown
from omnidistill.paths.coefficients import differences
from omnidistill.shapes import Times

Schedule = Callable[[Tensor], Tensor]


def linear(t: Times) -> Times:
    """`1 - t` (MDLM's log-linear schedule without its epsilon: Sahoo et al. 2024, sec. 3.4)."""
    return 1.0 - t


def cosine(t: Times) -> Times:
    """`1 - cos(pi/2 (1 - t))`: fewer tokens are decided while little is known (Chang et al. 2022, MaskGIT)."""
    # cos(pi/2) is 6e-17 in float64; the last bit must not leave a probability of -1e-16.
    return (1.0 - torch.cos(0.5 * math.pi * (1.0 - t))).clamp(0.0, 1.0)


def arccos(t: Times) -> Times:
    """`1 - arccos(1 - t) 2/pi`, the inverse ratio schedule of Besnier & Chen (2023) used by Di[M]O."""
    return 1.0 - torch.arccos((1.0 - t).clamp(0.0, 1.0)) * (2.0 / math.pi)


def _power(t: Times, exponent: float) -> Times:
    return 1.0 - t**exponent


def polynomial(exponent: float) -> Schedule:
    """A schedule `1 - t**exponent`: above 1 most tokens are decided early on the way back, below it late."""
    return partial(_power, exponent=exponent)


def _rate_of_power(t: Times, exponent: float) -> Times:
    return -exponent * t ** (exponent - 1.0)


RATES: dict[Schedule, Schedule] = {
    linear: lambda t: -torch.ones_like(t),
    cosine: lambda t: -0.5 * math.pi * torch.sin(0.5 * math.pi * (1.0 - t)),
    arccos: lambda t: -(2.0 / math.pi) / torch.sqrt(t * (2.0 - t)),
}


def rate(alpha: Schedule, t: Times) -> Times:
    """`alpha'(t)`: in closed form for the schedules here, by differences of sixth order for any other function."""
    if alpha in RATES:
        return RATES[alpha](t)
    if isinstance(alpha, partial) and alpha.func is _power:
        return _rate_of_power(t, **alpha.keywords)
    return differences(alpha, t)


NAMED: dict[str, Schedule] = {"linear": linear, "cosine": cosine, "arccos": arccos}


def schedule(name_or_function: str | Schedule) -> Schedule:
    """A schedule by name, or any function of t that the caller brings."""
    if callable(name_or_function):
        return name_or_function
    if name_or_function not in NAMED:
        raise unknown("schedule", name_or_function, NAMED)
    return NAMED[name_or_function]
