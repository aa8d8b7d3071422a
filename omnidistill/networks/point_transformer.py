"""A small transformer over labelled points in space, the students' network on clouds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.embeddings import zero
from omnidistill.networks.features import Asked, Found, stacked
from omnidistill.networks.forward_mode import layer_norm
from omnidistill.networks.transformer import Trunk
from omnidistill.shapes import Labels, PerSample


class PointTransformer(nn.Module):
    """Coordinates in, coordinates out; every point sees every real one.

    Points are told apart by a learned label each (they are atoms of a shape, not an exchangeable set). The last layer
    starts at zero: a new network answers 0. Rotations are not built in; training under random ones has to teach them.

    Args:
        points: the most points it takes.
        width, depth, heads, target_time, guidance, num_classes: see `Trunk`.
    """

    feature_module = "trunk"  # its output, Float[b n width], is what a discriminator head reads
    feature_axis = 2
    returns_features = True
    reusable_as = "residual"

    def __init__(
        self,
        points: int,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        target_time: bool = False,
        guidance: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.points, self.feature_channels = points, width
        self.first = nn.Linear(3, width)
        self.labels = nn.Parameter(0.5 * torch.randn(points, width))
        self.last = zero(nn.Linear(width, 3))
        self.trunk = Trunk(width, depth, heads, target_time, guidance, num_classes)
        self.reusable = stacked("trunk.blocks", depth)

    def forward(
        self,
        x: Float[Tensor, "b n 3"],
        t: PerSample,
        condition: Labels | None = None,
        *,
        target_time: PerSample | None = None,
        guidance: PerSample | None = None,
        mask: Bool[Tensor, "#b n 1"] | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Float[Tensor, "answered n 3"] | Found:
        """mask: real points come first."""
        n = x.shape[1]
        labels: Tensor = self.labels
        if mask is None and n > self.points:
            raise UserError(f"this network was built for at most {self.points} points, got {n}")
        if n > self.points:  # padding needs no label
            labels = F.pad(labels, (0, 0, 0, n - self.points))
        real = None if mask is None else mask.expand(*x.shape[:2], 1).squeeze(-1)
        h = self.trunk(self.first(x) + labels[:n], t, condition, target_time, guidance, real)
        asked = Asked(features, answered)
        if (some := asked.note("trunk", h)) is not None:
            if not answered:
                return asked.result(None)
            h = h[some]
        return asked.result(self.last(layer_norm(h)))
