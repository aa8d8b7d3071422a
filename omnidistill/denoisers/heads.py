"""A copy of a network's last layer for each cell of a grid of times, from one evaluation of what lies before it.

Head k answers what is believed, on average, while the trajectory passes from t_k to t_{k+1}, seen from a state (x, t)
above it. A jump from t to r needs the mean over the cells on the way, and since the layer is linear that is one layer
too: its weights are `sum_k s_k W_k`. With `rho = alpha / sigma` a jump is linear in rho (`Path.share`), so

    s_k = (rho_{k+1} - rho_k) / (rho_r - rho_t)     of the part of the cell between t and r,

and a jump to the data, where rho is infinite, asks the last cell alone. A student of heads is told no second time: any
two times are a choice of weights (PDD 2026, arXiv:2607.26004, there for velocities).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.features import inside, parted
from omnidistill.paths import Path, grid
from omnidistill.paths.base import as_time

LAST_LAYERS = ("last", "head", "conv_out", "proj_out", "final_layer.linear", "linear_out")
"""Where networks here and in diffusers have the layer that answers, themselves or the one network inside them. What a
wrapper makes of its output must be linear in it, as a rotation or a gain is."""

_CONVOLUTIONS: dict[type, Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
_here = threading.local()  # the shares of the call that is being made in this thread


def edges(path: Path, count: int) -> Tensor:
    """Float64[count + 1]: the times between which the cells lie, from the prior down to 0."""
    return grid(path, count)


def shares(path: Any, count: int, t: Tensor, r: Tensor) -> Tensor:
    """Float64[b count]: s_k of a jump from t to r, Float64[b]; where r = t, all of it is of the cell below t."""
    times = edges(path, count).to(t.device)
    rho = _rho(path, times)
    top, low = _rho(path, t).unsqueeze(1), _rho(path, r).unsqueeze(1)
    covered = torch.minimum(rho[1:], low) - torch.maximum(rho[:-1], top)
    # Nodes are numbers from two formulas; what is left of a cell by rounding is nothing.
    part = torch.where(covered > 1e-12 * (1.0 + top), covered, 0.0)
    total = part.sum(1, keepdim=True)
    # Of the last cell infinitely much is covered, or nothing is: then one cell has all.
    whole = F.one_hot(_cell(times, torch.where(r == 0, 0.0, t)), count).to(t.dtype)
    some = total.isfinite() & (total > 0)
    return torch.where(some, part / torch.where(some, total, 1.0), whole)


def _rho(path: Any, t: Tensor) -> Tensor:
    alpha, _, sigma = path.coefficients(t)
    return torch.where((t == 0) | (sigma == 0), torch.inf, alpha / sigma)


def _cell(times: Tensor, t: Tensor) -> Tensor:
    """Long[b]: the cell that a trajectory enters at t."""
    found = torch.searchsorted(-times, -(t - 1e-9), right=False) - 1
    return found.clamp(0, len(times) - 2)


class Spread(nn.Module):
    """`count` copies of a linear layer or convolution, and their mean under the shares that are told."""

    def __init__(self, layer: Any, count: int) -> None:
        super().__init__()
        plain = type(layer) is nn.Linear or (
            type(layer) in _CONVOLUTIONS and layer.groups == 1 and layer.padding_mode == "zeros"
        )
        if not plain:
            raise UserError(
                f"student.cells copies a last layer that is linear or a plain convolution, got {type(layer).__name__}"
            )
        self.kind, self.count = type(layer), count
        self.options = (
            {}
            if self.kind is nn.Linear
            else {k: getattr(layer, k) for k in ("stride", "padding", "dilation")}
        )
        weight, bias = layer.weight.detach(), layer.bias
        self.weight = nn.Parameter(weight.expand(count, *weight.shape).clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().expand(count, *bias.shape).clone())

    def forward(self, h: Tensor) -> Tensor:
        told = getattr(_here, "shares", None)
        if told is None:
            raise UserError("a network of heads is asked by its denoiser, which says which cells are meant")
        # Samples that are asked for features alone may have stopped before.
        told = told[: h.shape[0]].to(self.weight.dtype)
        weight = (told @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        bias = None if self.bias is None else told @ self.bias
        if len(told) == 1:  # one jump for all: one layer
            return self._plain(h, weight[0], None if bias is None else bias[0])
        between = (1,) * (h.ndim - 2)
        if self.kind is nn.Linear:
            out = torch.einsum("b...i,boi->b...o", h, weight)
            return out if bias is None else out + bias.reshape(len(h), *between, -1)
        b, c = h.shape[:2]
        many = _CONVOLUTIONS[self.kind](
            h.reshape(1, b * c, *h.shape[2:]), weight.flatten(0, 1), groups=b, **self.options
        )
        out = many.reshape(b, -1, *many.shape[2:])
        return out if bias is None else out + bias.reshape(b, -1, *between)

    def _plain(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kind is nn.Linear:
            return F.linear(h, weight, bias)
        return _CONVOLUTIONS[self.kind](h, weight, bias, **self.options)


class Heads(nn.Module):
    """`network` with its last layer spread over `count` cells, all of them equal at the start.

    It is called as before, with `cells: Float[b count]` (or one row for all) beside: the shares of the heads. Its
    parameters are `network.*`; the last layer's have an axis more.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        if count < 2:
            raise UserError(f"student.cells needs at least 2 of them, got {count}")
        name = last_layer(network)
        holder, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(holder), leaf, Spread(network.get_submodule(name), count))
        self.network, self.count = network, count
        self.wants_target_time, self.wants_guidance = False, getattr(network, "guidance", None) is not None
        for attribute in ("feature_axis", "feature_channels", "returns_features"):
            if hasattr(network, attribute):
                setattr(self, attribute, getattr(network, attribute))
        if isinstance(getattr(network, "feature_module", None), str):
            self.feature_module = f"network.{network.feature_module}"
        layers: Any = getattr(network, "feature_layers", None)
        if layers is not None:
            self.feature_layers = {f"network.{name}": width for name, width in layers.items()}

    def forward(self, *args: Any, cells: Tensor, **keywords: Any) -> Any:
        if layers := keywords.get("features"):
            keywords["features"] = inside(layers, "network")
        before, _here.shares = getattr(_here, "shares", None), cells
        try:
            answer = self.network(*args, **keywords)
        finally:
            _here.shares = before
        return parted(answer, "network") if layers else answer


def last_layer(network: nn.Module) -> str:
    """The name of the layer that answers: the network's own `last_module`, else one that is known by name."""
    modules = dict(network.named_modules())
    declared = getattr(network, "last_module", None)
    for name in (declared,) if isinstance(declared, str) else LAST_LAYERS:
        inner = [found for found in modules if found.endswith(f".{name}")]
        if name in modules or len(inner) == 1:
            return name if name in modules else inner[0]
    raise UserError(
        f"which layer of {type(network).__name__} answers is not known; give the network an attribute "
        f"last_module='NAME', or call the layer one of {', '.join(LAST_LAYERS)}"
    )


def jump_shares(path: Path, count: int, t: Tensor | float, r: Tensor | float, like: Tensor) -> Tensor:
    """`shares` for a batch: one row where t and r are one for all."""
    t, r = as_time(t, like), as_time(r, like)
    both = torch.broadcast_tensors(t.reshape(-1), r.reshape(-1))
    return shares(path, count, *both)
