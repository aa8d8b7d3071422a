"""A network that answers with a policy: once for a whole segment of a trajectory, which is then walked without asking.

    mixture   K Gaussians a position, conditioned on each state that is met (`MixturePosterior`; pi-Flow's GM policy)
    grid      x0 at K times of the segment (`GridPosterior`; pi-Flow's DX policy)
    arc       K velocities that change exponentially in time (`ArcPosterior`; ArcFlow)

The last layer is made wider, K (c + more) channels in the place of c. The first K c of them are K answers in the
network's own parameterisation, and start as what the network answered before, so that the student starts as the
teacher: its mean at the state it is asked about, and of `mixture` the spread too, for data as wide as `sigma_data`.

Asked with the time to jump to, such a denoiser walks its policy in `substeps` small steps, and its belief is the point
by which one jump (`Path.bridge`) does the same; so every sampler may ask it, and counts one call. Asked without, its
belief is the policy itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers.heads import last_layer
from omnidistill.denoisers.inputs import Here
from omnidistill.denoisers.network import NetworkDenoiser
from omnidistill.denoisers.parameterisation import affine, to_x0
from omnidistill.denoisers.second import Second
from omnidistill.errors import UserError, unknown
from omnidistill.paths import Path
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import ArcPosterior, GridPosterior, MixturePosterior, PointPosterior, Posterior
from omnidistill.random import generator

MORE = {"mixture": 2, "grid": 0, "arc": 2}
"""Channels of a component beside its c: logits of weights and logarithms of spreads, or rates."""

APART = 0.1
"""How far components lie apart at the start, as a share of the last layer's weights: equal ones would stay equal."""


class Policy(NamedTuple):
    """What a network's output is read as.

    Attributes:
        kind: a name of `MORE`.
        parts: K.
        substeps: of a walk over one segment.
        channels: c, of the state.
    """

    kind: str
    parts: int
    substeps: int
    channels: int

    @property
    def more(self) -> int:
        """Channels beside the components' own."""
        return self.parts * MORE[self.kind]

    @property
    def outputs(self) -> int:
        """Channels that the network answers with."""
        return self.parts * self.channels + self.more


def checked(kind: str, parts: int, substeps: int, channels: int) -> Policy:
    """A policy, checked."""
    if kind not in MORE:
        raise unknown("kind of student.policy", kind, MORE)
    if parts < 1 or substeps < 1 or channels < 1:
        raise UserError(
            f"student.policy needs parts >= 1 and substeps >= 1, got {parts} and {substeps} for {channels} channels"
        )
    return Policy(kind, parts, substeps, channels)


def widened(network: nn.Module, made: Policy, seed: int = 0) -> nn.Module:
    """The network with its last layer (`denoisers.heads.last_layer`) as wide as the policy needs.

    Raises:
        UserError: a last layer that is neither linear nor a plain convolution, or whose channels are not the state's.
    """
    inner: nn.Module = network.network if isinstance(network, Second) else network
    name = last_layer(inner)
    holder, _, leaf = name.rpartition(".")
    layer: Any = inner.get_submodule(name)
    plain = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
    )
    outputs = layer.weight.shape[0] if plain else 0
    if not plain or outputs % made.channels:
        raise UserError(
            f"student.policy={made.kind} widens a last layer that is linear or a plain convolution and answers with "
            f"{made.channels} channels or a multiple, got {type(layer).__name__} with {outputs or 'no'} outputs"
        )
    area = outputs // made.channels
    setattr(inner.get_submodule(holder), leaf, _wide(layer, made, area, seed))
    return network


def _wide(layer: Any, made: Policy, area: int, seed: int) -> nn.Module:
    more = made.outputs * area - made.parts * layer.weight.shape[0]
    weight = layer.weight.detach().repeat(made.parts, *(1 for _ in layer.weight.shape[1:]))
    if MORE[made.kind] and made.parts > 1:
        weight = weight + APART * _apart(layer.weight.detach(), made.parts, seed)
    weight = torch.cat((weight, weight.new_zeros(more, *weight.shape[1:])))
    if isinstance(layer, nn.Linear):
        wide: Any = nn.Linear(layer.in_features, len(weight), layer.bias is not None)
    else:
        options = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "padding_mode")}
        wide = type(layer)(
            layer.in_channels, len(weight), layer.kernel_size, bias=layer.bias is not None, **options
        )
    wide = wide.to(weight.device, weight.dtype)
    with torch.no_grad():
        wide.weight.copy_(weight)
        if layer.bias is not None:
            bias = layer.bias.detach().repeat(made.parts)
            wide.bias.copy_(torch.cat((bias, bias.new_zeros(more))))
    return wide


def _apart(weight: Tensor, parts: int, seed: int) -> Tensor:
    """Noise as large as the weights, of each component its own, that sums to nothing over the components."""
    shape = (parts, *weight.shape)
    noise = torch.randn(shape, generator=generator(seed, "components")).to(weight)
    return (weight.std() * (noise - noise.mean(0))).flatten(0, 1)


def fits(path: Path) -> bool:
    """Whether a policy can walk this path."""
    return {"gaussian", "deterministic"} <= path.offers and not {"anchored", "simplex"} & path.offers


class PolicyDenoiser(NetworkDenoiser):
    """A network whose output is a policy.

    Args:
        policy: the four values of `Policy`.
        others: as of `NetworkDenoiser`. `target_time` says whether the network is told where the segment ends; the
            denoiser itself always is.
    """

    def __init__(
        self,
        network: nn.Module,
        path: Path,
        parameterisation: str = "flow",
        *,
        policy: Sequence[Any],
        **others: Any,
    ) -> None:
        super().__init__(network, path, parameterisation, **others)
        self.made = checked(*policy)
        if not fits(path) or self.elsewhere is not None or self.cells is not None:
            raise UserError(
                f"student.policy={self.made.kind} walks points on a Gaussian path without an anchor, by the network's "
                f"own path and last layer; got {path}"
            )
        self.wants_target = True

    def reading(self) -> dict[str, Any]:
        """The keywords that rebuild this denoiser around another network."""
        return {**super().reading(), "policy": list(self.made)}

    def belief(
        self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None
    ) -> Posterior:
        """Without a time to jump to the policy itself, else the point of the jump."""
        t = as_time(t, x_t)
        out = self.output(x_t, t, context, target_time)
        made = self._policy(out, x_t, t, context, target_time)
        if target_time is None:
            return made
        return onto(made, x_t, t, as_time(target_time, x_t), self.path, self.made.substeps)

    def policy(
        self, x_t: Tensor, t: Tensor | float, context: Context = Context(), target_time: Tensor | None = None
    ) -> Any:
        """The policy for the segment from t to `target_time`, that can be asked again. One call."""
        self.count()
        t = as_time(t, x_t)
        return self._policy(self.output(x_t, t, context, target_time), x_t, t, context, target_time)

    def _read(self, out: Tensor, x_t: Tensor, t: Tensor, context: Context, here: Here) -> Posterior:
        return self._policy(out, x_t, t, context, None)

    def _policy(self, out: Tensor, x_t: Tensor, t: Tensor, context: Context, end: Tensor | None) -> Any:
        """What the output, Float[b outputs ...], means."""
        made, path = self.made, self.path
        expected = (x_t.shape[0], made.outputs, *x_t.shape[2:])
        if tuple(out.shape) != expected:
            raise UserError(
                f"a policy '{made.kind}' of {made.parts} parts needs answers of {expected}, got {tuple(out.shape)}; "
                "its states have their channels on axis 1"
            )
        inside = torch.where(t == 0, path.span[0], t)
        answers, more = out.to(x_t.dtype).split((out.shape[1] - made.more, made.more), 1)
        answers = answers.unflatten(1, (made.parts, made.channels))
        states = x_t.unsqueeze(1).expand_as(answers)
        means = to_x0(path, self.parameterisation, answers, states, inside, d=self.sigma_data)  # type: ignore[arg-type]
        clean = per_sample(t, x_t) == 0
        means = torch.where(clean.unsqueeze(1) if clean.ndim else clean, states, means)
        if context.mask is not None:
            means = means * context.mask.unsqueeze(1)
        if made.kind == "grid":
            low = torch.zeros_like(t) if end is None else as_time(end, x_t).expand(t.shape)
            return GridPosterior(means.flatten(1, 2), made.parts, t, low, t)
        if made.kind == "arc":
            velocities = path.velocity(states, means, inside)
            return ArcPosterior(torch.cat((velocities.flatten(1, 2), more), 1), made.parts, t, x_t, t, path)
        weights, log_std = more.chunk(2, 1)
        # In the network's own units a spread of 1 is what data as wide as sigma_data leave open.
        unit = affine(path, self.parameterisation, inside, self.sigma_data).b.abs()  # type: ignore[arg-type]
        unit = torch.where(t == 0, 0.0, unit)
        return MixturePosterior.of(
            means, weights, per_sample(unit.clamp_min(1e-6).log(), log_std) + log_std, x_t, t
        )


def onto(belief: Any, x_t: Tensor, t: Tensor, s: Tensor, path: Any, substeps: int) -> PointPosterior:
    """The point by which one jump leads from x_t at t to where the policy does at s."""
    x_s = walked(belief, x_t, t, s, path, substeps)
    (a_t, _, n_t), (a_s, _, n_s) = path.coefficients(t), path.coefficients(s)
    ratio = n_s / n_t
    span = a_s - ratio * a_t
    gone = span.abs() > 1e-9
    shaped = [per_sample(value, x_t) for value in (ratio, torch.where(gone, span, 1.0))]
    point = (x_s - shaped[0] * x_t) / shaped[1]
    return PointPosterior(torch.where(per_sample(gone.to(x_t.dtype), x_t) > 0, point, belief.mean))


def walked(belief: Any, x_t: Tensor, t: Tensor, s: Tensor, path: Any, substeps: int) -> Tensor:
    """x at s of the trajectory through x_t at t that a policy describes: in steps even in t, or in one if exact."""
    t, s = as_time(t, x_t), as_time(s, x_t)
    count = 1 if belief.exact else substeps
    x, u = x_t, t
    for i in range(count):
        v = t + (s - t) * ((i + 1) / count) if i + 1 < count else s
        x = belief.onwards(x, u, v, path)
        u = v
    return x
