"""Does a teacher denoise the data that it is given? If not, what would make it?

A network of another time convention, parameterisation or scale of input answers numbers of the right shape, passes
every check of a contract, and teaches nonsense. What gives it away is the error of its belief, `E |D(x_t, t) - x0|^2`,
beside that of the same answer read in another way: a denoiser that was trained is the least squares estimate under the
reading it was trained for, so no other reading of it may do much better.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omnidistill.context import Batch, Context
from omnidistill.denoisers.base import Denoiser
from omnidistill.denoisers.inputs import TIME_INPUTS
from omnidistill.denoisers.network import NetworkDenoiser
from omnidistill.denoisers.parameterisation import PARAMETERISATIONS, to_x0
from omnidistill.errors import UserError
from omnidistill.paths.base import as_time
from omnidistill.random import generator
from omnidistill.shapes import State

PLACES = (0.2, 0.5, 0.8)
"""Of the path's span, where a belief is asked for."""

HOPELESS, BAD = 0.4, 0.6
"""Another reading with this share of the error: the teacher is refused, or the user warned."""

INFORMED = 0.5
"""An answer says something under a reading if its error is this share of that of an answer of 0. One of an untrained
network says nothing under any."""


FEWEST = 128
"""Numbers in a batch: in fewer an untrained network may seem to know something."""


@dataclass(frozen=True)
class Doubt:
    """
    Attributes:
        times: where beliefs were asked for.
        errors: of the belief over the data's variance, at these times; 1 is the error of the data's mean.
        cause: what the reading that does better has that the teacher's has not.
        better: the errors under that reading.
    """

    times: tuple[float, ...]
    errors: tuple[float, ...]
    cause: str
    better: tuple[float, ...]

    @property
    def share(self) -> float:
        return _mean(self.better) / _mean(self.errors)

    @property
    def hopeless(self) -> bool:
        """Whether the other reading is so much better that the teacher is refused, not warned of."""
        return self.share < HOPELESS

    def __str__(self) -> str:
        at = ", ".join(f"{e:.2g} at t={t:.2g}" for e, t in zip(self.errors, self.times, strict=True))
        then = ", ".join(f"{e:.2g}" for e in self.better)
        return (
            f"the teacher does not denoise these data: its error over their variance is {at}; "
            f"{self.cause} it is {then}"
        )


@torch.no_grad()
def doubt(denoiser: Denoiser, x0: State, context: Context = Context(), seed: int = 0) -> Doubt | None:
    """What speaks against a teacher, None where nothing does or nothing can be said: for tokens, closed forms, networks
    that answer nothing under any reading. Costs six calls, and at most twelve more of a network whose answers say
    little as they are read; they are not counted.

    Args:
        x0: clean samples, on the denoiser's device.
    """
    if not isinstance(denoiser, NetworkDenoiser) or "gaussian" not in denoiser.path.offers:
        return None
    if x0.numel() < FEWEST or "simplex" in denoiser.path.offers:
        return None
    training, calls = denoiser.training, denoiser.calls
    denoiser.eval()
    try:
        return _doubt(denoiser, x0, context, seed)
    finally:
        denoiser.train(training)
        denoiser.calls = calls


def heed(denoiser: Denoiser, batch: Batch, device: str, seed: int = 0) -> None:
    """Refuses a hopeless teacher and warns of a bad one, on a batch of clean samples.

    Raises:
        UserError: another reading has less than 0.4 of the error.
    """
    if batch.x0 is None:
        return
    batch = batch.to(device)
    assert batch.x0 is not None
    found = doubt(denoiser, batch.x0, batch.context, seed)
    if found is None:
        return
    if found.hopeless:
        raise UserError(f"{found}; mend the teacher's reading (NetworkDenoiser), or teacher_check=false")
    warnings.warn(str(found), stacklevel=2)


def enough(shape: tuple[int, ...]) -> int:
    """How many samples tell: few of large ones."""
    size = 1
    for n in shape:
        size *= n
    return max(4, min(128, 2**17 // max(1, size)))


Errors = tuple[float, ...]


def _doubt(denoiser: NetworkDenoiser, x0: Tensor, context: Context, seed: int) -> Doubt | None:
    path = denoiser.path
    low, high = max(path.span[0], path.floor), path.span[1]
    times = tuple(low + share * (high - low) for share in PLACES)
    g = generator(seed, "plausible", device=x0.device)
    x = [path.corrupt(x0, t, context, g=g) for t in times]
    probe = _Probe(denoiser, x0, context, times, x)
    stated = probe.read(denoiser, None)
    best: tuple[Errors, str] | None = None
    for cause, errors, silent in probe.alternatives():
        informed = _mean(errors) < INFORMED * _mean(silent)
        if informed and (best is None or _mean(errors) < _mean(best[0])):
            best = errors, cause
    if best is None or not _mean(best[0]) < BAD * _mean(stated[0]):
        return None
    spread = float(_real((x0 - x0.mean(0)).square(), context)) or 1.0
    over = [tuple(e / spread for e in errors) for errors in (stated[0], best[0])]
    return Doubt(times, over[0], best[1], over[1])


class _Probe:
    """One set of noised samples, read in one way and another."""

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        context: Context,
        times: tuple[float, ...],
        x: list[Tensor],
    ) -> None:
        self.denoiser, self.x0, self.context, self.times, self.x = denoiser, x0, context, times, x
        self.outs: list[Tensor] = []

    def read(self, denoiser: NetworkDenoiser, outs: list[Tensor] | None) -> tuple[Errors, Errors]:
        """Mean squared errors of beliefs as `denoiser` reads these outputs, and of outputs of 0."""
        if outs is None:
            outs = [self.ask(denoiser, i, t) for i, t in enumerate(self.times)]
            self.outs = outs
        return self.errors(denoiser.parameterisation, outs), self.errors(denoiser.parameterisation, None)

    def ask(self, denoiser: NetworkDenoiser, index: int, t: float) -> Tensor:
        x = self.x[index]
        return denoiser.output(x, as_time(t, x), self.context).to(x.dtype)

    def errors(self, kind: str, outs: list[Tensor] | None) -> Errors:
        d = self.denoiser
        anchor = self.context.anchor if "anchored" in d.path.offers else None
        found = []
        for index, t in enumerate(self.times):
            x = self.x[index]
            out = torch.zeros_like(x) if outs is None else outs[index]
            mean = to_x0(d.path, kind, out, x, as_time(t, x), anchor, d.sigma_data)  # type: ignore[arg-type]
            found.append(float(_real((mean - self.x0).square(), self.context)))
        return tuple(found)

    def alternatives(self) -> Iterator[tuple[str, Errors, Errors]]:
        """(cause, errors, errors of outputs of 0) of every other reading."""
        d, outs = self.denoiser, self.outs
        low, high = d.path.span
        for kind in PARAMETERISATIONS:
            if kind in (d.parameterisation, "consistency"):
                continue
            try:
                yield f"read as parameterisation '{kind}'", self.errors(kind, outs), self.errors(kind, None)
            except UserError:  # singular on this path
                continue
        silent = self.errors(d.parameterisation, None)
        yield "with its sign turned", self.errors(d.parameterisation, [-out for out in outs]), silent
        turned = [self.ask(d, i, min(max(1.0 - t, low), high)) for i, t in enumerate(self.times)]
        for sign, words in ((-1.0, " and its sign turned (0 is noise and 1 data there)"), (1.0, "")):
            errors = self.errors(d.parameterisation, [sign * out for out in turned])
            yield f"with its time reversed{words}", errors, silent
        if _mean(self.errors(d.parameterisation, outs)) < INFORMED * _mean(silent):
            return  # it understands the time it is told; another may be one it cannot take
        for view in TIME_INPUTS:
            if view != d.time_input and (view != "index" or hasattr(d.path, "index")):
                changed = {**d.reading(), "time_input": view}
                yield from self._asked(f"told the time as '{view}'", changed, silent)
        words = "without its input scaled (unit_input=False)" if d.unit_input else "with unit_input=True"
        yield from self._asked(words, {**d.reading(), "unit_input": not d.unit_input}, silent)

    def _asked(
        self, cause: str, reading: dict[str, object], silent: Errors
    ) -> Iterator[tuple[str, Errors, Errors]]:
        other = NetworkDenoiser(self.denoiser.network, self.denoiser.path, **reading)  # type: ignore[arg-type]
        try:
            outs = [self.ask(other, i, t) for i, t in enumerate(self.times)]
        except Exception:  # a network may refuse numbers it was not made for, by whatever error
            return
        yield cause, self.errors(other.parameterisation, outs), silent


def _real(squares: Tensor, context: Context) -> Tensor:
    """The mean over real elements."""
    if context.mask is None:
        return squares.mean()
    real = context.mask.expand(squares.shape).to(squares.dtype)
    return (squares * real).sum() / real.sum().clamp_min(1.0)


def _mean(values: Errors) -> float:
    """Geometric: an error counts as a share, at every time alike. NaN counts as infinite."""
    logs = torch.tensor(values, dtype=torch.float64).nan_to_num(nan=torch.inf).clamp_min(1e-12).log()
    return float(logs.mean().exp())
