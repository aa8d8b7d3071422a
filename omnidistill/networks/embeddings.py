"""How a network is told numbers and labels: the time, the class, the second time, the guidance scale."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.shapes import Labels, PerSample

M = TypeVar("M", bound=nn.Module)


class Waves(nn.Module):
    """Sines and cosines of f geometric frequencies; no parameters.

    Args:
        frequencies: f.
        ratio: of the highest frequency to the lowest.
        scale: multiplies them all; 1 suits numbers in [0, 1] or log-sigmas.
    """

    rates: Tensor

    def __init__(self, frequencies: int = 16, ratio: float = 100.0, scale: float = 1.0) -> None:
        super().__init__()
        # From half a radian a unit, which tells the ends of [0, 1] apart, to 50 or 100, which tell 1/50 or 1/100
        # apart; higher ones make time derivatives large (Lu and Song 2024, arXiv:2410.11081, section 4.1).
        rates = scale * 0.5 * ratio ** torch.linspace(0, 1, frequencies)
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, t: PerSample) -> Float[Tensor, "b waves"]:
        # Never below float32: in bfloat16 the angle of t = 0.99 at 100 radians is off by a fifth of a radian.
        dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
        angles = t.to(dtype).unsqueeze(1) * self.rates.to(dtype)
        return torch.cat((angles.sin(), angles.cos()), dim=1)


class LinearEmbedding(nn.Module):
    """Waves and a linear layer. `silent` zeroes it: see `TimeEmbedding`."""

    def __init__(self, width: int, frequencies: int = 16, silent: bool = False, ratio: float = 100.0) -> None:
        super().__init__()
        self.waves = Waves(frequencies, ratio)
        self.linear = nn.Linear(2 * frequencies, width)
        if silent:
            zero(self.linear)

    def forward(self, t: PerSample) -> Float[Tensor, "b width"]:
        return self.linear(self.waves(t).to(self.linear.weight.dtype))


class TimeEmbedding(nn.Module):
    """Waves and a two-layer perceptron.

    `silent` zeroes the last layer: a network with this embedding equals the one without it until it is trained.
    """

    def __init__(
        self,
        width: int,
        silent: bool = False,
        frequencies: int = 16,
        ratio: float = 100.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.waves = Waves(frequencies, ratio, scale)
        self.inner, self.outer = nn.Linear(2 * frequencies, width), nn.Linear(width, width)
        if silent:
            zero(self.outer)

    def forward(self, t: PerSample) -> Float[Tensor, "b width"]:
        return self.outer(F.silu(self.inner(self.waves(t).to(self.inner.weight.dtype))))


def told(
    network: nn.Module,
    t: PerSample,
    condition: Labels | None = None,
    target_time: PerSample | None = None,
    guidance: PerSample | None = None,
) -> Float[Tensor, "b width"]:
    """The sum of what `network` is told, by its own modules.

    Args:
        network: its `time` embeds t; `classes`, `target_time` and `guidance` are modules or None. `classes` has
            `num_classes + 1` rows, the last of which is the null label, also taken where no condition is given.
    """
    name = type(network).__name__
    sum_ = network.time(t)  # type: ignore[operator]
    classes = getattr(network, "classes", None)
    if classes is not None:
        if condition is None:
            null = int(network.num_classes)  # type: ignore[arg-type]
            condition = torch.full(t.shape, null, device=t.device)
        sum_ = sum_ + classes(condition)
    elif condition is not None:
        raise UserError(
            f"this {name} was built without classes (num_classes=None) and cannot take a condition"
        )
    for keyword, value in (("target_time", target_time), ("guidance", guidance)):
        if value is None:
            continue
        module = getattr(network, keyword, None)
        if module is None:
            raise UserError(f"this {name} was built with {keyword}=False and cannot take {keyword}")
        sum_ = sum_ + module(value)
    return sum_


def zero(layer: M) -> M:
    """The layer with all its parameters at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
