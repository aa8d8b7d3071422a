"""The student's scenes, and the network of a critic that is told the camera."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.context import Condition, labels_of
from omnidistill.modalities.scenes.splats import Splats, view
from omnidistill.modalities.scenes.teacher import camera_of
from omnidistill.networks.features import Answer, inside, parted
from omnidistill.networks.unet import UNet


class Scene(nn.Module):
    """`particles` scenes of n Gaussians each: all that a student of this kind is.

    A sample is what the camera in its condition sees of the scene that its entry `particle` names (the first one, where
    there is no such entry), as large as the state that is asked about. State and time are not looked at.

    Args:
        background: colour behind all Gaussians.
        bounded: colours are -1 to 1.
        begin: what the scenes start as; None: small Gaussians anywhere in the ball.
    """

    def __init__(
        self,
        gaussians: int,
        particles: int,
        channels: int,
        background: Float[Tensor, "c"],
        bounded: bool,
        begin: Splats | None = None,
    ) -> None:
        super().__init__()
        shape = (particles, gaussians)
        direction = F.normalize(torch.randn(*shape, 3), dim=-1)
        self.mean = nn.Parameter(direction * 0.75 * torch.rand(*shape, 1) ** (1 / 3))
        self.log_scale = nn.Parameter(torch.full((*shape, 3), math.log(0.09)))
        self.turn = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]) + 0.1 * torch.randn(*shape, 4))
        self.logit = nn.Parameter(torch.full(shape, -1.5))
        self.colour = nn.Parameter(0.3 * torch.randn(*shape, channels))
        self.bounded = bounded
        self.register_buffer("background", background)
        if begin is not None:
            self._begin(begin)

    @torch.no_grad()
    def _begin(self, given: Splats) -> None:
        """Its first Gaussians are those given, in every scene, and the others can hardly be seen."""
        count = given.opacity.shape[1]
        self.logit.fill_(-4.0)
        colour = given.colour.clamp(-0.95, 0.95).atanh() if self.bounded else given.colour
        parts = (given.mean, given.scale.log(), given.turn, given.opacity.logit(), colour)
        own = (self.mean, self.log_scale, self.turn, self.logit, self.colour)
        for mine, part in zip(own, parts, strict=True):
            mine[:, :count] = part

    def splats(self, particle: Tensor) -> Splats:
        """The Gaussians of these scenes."""
        colour = self.colour.tanh() if self.bounded else self.colour
        turn = F.normalize(self.turn, dim=-1)
        # Scales have an end, or a Gaussian that fell behind the camera would swallow the scene.
        scale = self.log_scale.exp().clamp(0.01, 0.5)
        parts = (self.mean.clamp(-1.2, 1.2), scale, turn, self.logit.sigmoid(), colour)
        return Splats(*(part[particle] for part in parts))

    def forward(self, x: Float[Tensor, "b c h w"], t: Tensor, condition: Condition = None) -> Tensor:
        camera = camera_of(condition)
        which = condition.get("particle") if isinstance(condition, Mapping) else None
        which = torch.zeros(len(camera), dtype=torch.long, device=camera.device) if which is None else which
        return view(self.splats(which), camera, x.shape[-1], self.background)  # type: ignore[arg-type]


class ViewNet(nn.Module):
    """A U-Net that is told the camera as planes beside the state, and the label as its class."""

    returns_features = True
    feature_module = "inner.middle"
    feature_axis = 1

    def __init__(
        self, channels: int, labels: int, widths: Sequence[int] = (24, 48), particles: int = 1, **options: Any
    ) -> None:
        super().__init__()
        self.particles = nn.Embedding(particles, 4) if particles > 1 else None
        extra = 4 + (4 if particles > 1 else 0)
        self.inner = UNet(widths, channels, extra, 2, num_classes=labels, heads=2, **options)
        self.feature_channels = self.inner.feature_channels

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Tensor,
        condition: Condition = None,
        *,
        features: Sequence[str] | None = None,
        **told: Any,
    ) -> Answer:
        camera = camera_of(condition)
        planes = torch.cat((camera.sin(), camera.cos()), 1)
        if self.particles is not None:
            assert isinstance(condition, Mapping)
            planes = torch.cat((planes, self.particles(condition["particle"])), 1)
        anchor = planes[:, :, None, None].expand(-1, -1, *x.shape[2:]).to(x.dtype)
        asked = inside(features, "inner")
        answer = self.inner(x, t, labels_of(condition), anchor=anchor, features=asked, **told)
        return parted(answer, "inner") if features else answer
