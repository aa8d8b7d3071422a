"""What a network is handed: the state, and its time in the view that the network was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.paths import GaussianPath, Path
from omnidistill.paths.coefficients import Coefficients
from omnidistill.shapes import State

View = Callable[[GaussianPath, Tensor], Tensor]

TIME_INPUTS: dict[str, View] = {
    "t": lambda path, t: t,
    "1000t": lambda path, t: 1000.0 * t,
    "1000(1-t)": lambda path, t: 1000.0 * (1.0 - t),
    "sigma": lambda path, t: path.noise_level(t),
    "log_sigma/4": lambda path, t: 0.25 * torch.log(path.noise_level(t)),
    "250log_sigma": lambda path, t: 250.0 * torch.log(path.noise_level(t)),
    "2atan_sigma/pi": lambda path, t: 2.0 / math.pi * torch.atan(path.noise_level(t)),
    "index": lambda path, t: path.index(t),  # type: ignore[attr-defined]
}
"""Views of time, see `NetworkDenoiser`."""


def check_time_input(name: str, path: Path) -> None:
    """
    Raises:
        UserError: there is no such view of time, or the path has not what it is made of.
    """
    if name not in TIME_INPUTS:
        raise unknown("time_input", name, TIME_INPUTS)
    if name == "index" and not hasattr(path, "index"):
        raise UserError(f"time_input 'index' needs a path made of a table, paths.discrete(...), got {path}")
    if "categorical" in path.offers and "sigma" in name:
        raise UserError(f"time_input '{name}' needs a Gaussian path, got {path}; use t or 1000t")


class Here(NamedTuple):
    """What a network is asked about, on the path that it was trained on.

    Attributes:
        x_t: the state.
        t: its time; where that is 0 the least of the path's span, for there some views of time are infinite and some
            parameterisations singular.
        clean: whether the time is 0: the belief is x_t itself, and the output is not read.
        at: the path's coefficients at t; None for tokens.
    """

    x_t: State
    t: Float64[Tensor, "*times"]
    clean: Bool[Tensor, "*times"]
    at: Coefficients | None

    def rows(self, some: slice) -> Here:
        """Of some of the samples."""
        if not self.t.ndim:
            return self._replace(x_t=self.x_t[some])
        at = None if self.at is None else Coefficients(*(value[some] for value in self.at))
        return Here(self.x_t[some], self.t[some], self.clean[some], at)
