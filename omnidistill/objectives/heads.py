"""Discriminator heads on features of inner layers, one or a jury of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.features import DECLARED
from omnidistill.errors import UserError
from omnidistill.networks.embeddings import TimeEmbedding, zero
from omnidistill.shapes import PerSample


class Head(nn.Module):
    """Features of a denoiser's inner layer to one logit; positive says real.

    Args:
        told: it is also given a time, whose embedding starts at zero.
    """

    def __init__(self, channels: int, width: int = 128, told: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, 1)
        )
        self.time = TimeEmbedding(width, silent=True) if told else None

    def forward(self, features: Float[Tensor, "b c"], t: PerSample | None = None) -> Float[Tensor, "b"]:
        norm, first, *rest = self.layers
        hidden = first(norm(features))
        if self.time is not None:
            assert t is not None
            hidden = hidden + self.time(t)
        for layer in rest:
            hidden = layer(hidden)
        return hidden.squeeze(-1)

    @torch.no_grad()
    def redraw(self, g: torch.Generator) -> None:
        """The head as a new one, its weights drawn from g as `nn.Linear` draws them."""
        norm, *_ = self.layers
        norm.weight.fill_(1.0)  # type: ignore[operator]
        norm.bias.zero_()  # type: ignore[operator]
        if self.time is not None:
            zero(self.time.outer)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                for parameter in (layer.weight, layer.bias):
                    drawn = torch.rand(parameter.shape, generator=g, device=g.device, dtype=parameter.dtype)
                    parameter.copy_((2.0 * drawn - 1.0) * bound)


class Jury(nn.Module):
    """Several heads, which share out the layers among them: features of all layers, one after another, to a logit of
    each head.

    Args:
        widths: channels of each layer.
        heads: their number; head i reads layer i modulo the number of layers. None: one a layer.
        drawn: how many of them judge an update; None: all.
        renewed: share of the heads that the engine replaces by new ones before each update of the discriminator (Chen
            et al. 2024, NitroFusion, arXiv:2412.02030): no head gets old enough to win.
        told: see `Head`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        width: int = 128,
        heads: int | None = None,
        drawn: int | None = None,
        renewed: float = 0.0,
        told: bool = False,
    ) -> None:
        super().__init__()
        count = len(widths) if heads is None else heads
        check_jury(count, drawn, renewed)
        if count < len(widths):
            raise UserError(
                f"heads={count} leave some of {len(widths)} layers unread; give at least {len(widths)}"
            )
        self.widths, self.drawn, self.renewed = tuple(widths), drawn, renewed
        self.heads = nn.ModuleList(Head(widths[i % len(widths)], width, told) for i in range(count))

    def forward(
        self, features: Float[Tensor, "b c"], which: Sequence[int] | None = None, t: PerSample | None = None
    ) -> Float[Tensor, "b heads"]:
        parts = features.split(list(self.widths), 1)
        asked = range(len(self.heads)) if which is None else which
        return torch.stack([self.heads[i](parts[i % len(parts)], t) for i in asked], 1)

    def draw(self, g: torch.Generator) -> list[int]:
        """The heads that judge this update."""
        count = len(self.heads)
        order = torch.randperm(count, generator=g, device=g.device).tolist()
        return order[: self.drawn or count]

    def renew(self, g: torch.Generator) -> int:
        """Replaces each head with probability `renewed`; says how many were. The engine does so before each update."""
        if not self.renewed:
            return 0
        chosen = torch.rand(len(self.heads), generator=g, device=g.device) < self.renewed
        for head, new in zip(self.heads, chosen.tolist(), strict=True):
            if new:
                head.redraw(g)  # type: ignore[operator]
        return int(chosen.sum())


def check_jury(heads: int | None, drawn: int | None, renewed: float) -> None:
    """Refuses numbers that no jury can have."""
    if heads is not None and heads < 1:
        raise UserError(f"a discriminator has at least one head, got heads={heads}")
    if drawn is not None and not 1 <= drawn <= (heads or drawn):
        raise UserError(f"drawn heads are some of all, got drawn={drawn} of heads={heads}")
    if not 0.0 <= renewed < 1.0:
        raise UserError(f"renewed is a share from 0 to below 1, got {renewed}")


def reader(
    denoiser: Denoiser,
    layers: tuple[str, ...],
    width: int,
    heads: int | None,
    drawn: int | None,
    renewed: float,
    told: bool,
) -> Head | Jury:
    """What reads these layers of a denoiser: one head of the declared ones together, or a jury."""
    if layers == DECLARED and heads is None:
        return Head(denoiser.feature_channels(), width, told)
    return Jury(list(denoiser.feature_widths(layers).values()), width, heads, drawn, renewed, told)


def named(layers: Sequence[str] | str | None) -> tuple[str, ...]:
    """Names of layers as a recipe gives them."""
    if layers is None:
        return DECLARED
    return (layers,) if isinstance(layers, str) else tuple(layers)
