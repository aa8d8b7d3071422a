"""Known toys, made of Gaussians, their colourings, and the cameras that look at them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.modalities.scenes.splats import Splats
from omnidistill.random import generator

Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

RED, GREEN, BLUE = (0.85, -0.7, -0.7), (-0.6, 0.55, -0.6), (-0.6, -0.3, 0.85)
YELLOW, DARK, WHITE = (0.9, 0.7, -0.7), (-0.8, -0.8, -0.8), (0.6, 0.6, 0.7)
BROWN = (0.1, -0.35, -0.7)


def _ring(
    n: int, radius: float, z: float, size: float, colour: tuple[float, float, float]
) -> list[Ellipsoid]:
    turn = [2 * math.pi * k / n for k in range(n)]
    return [((radius * math.cos(a), radius * math.sin(a), z), (size, size, size), colour) for a in turn]


TOYS: dict[str, list[Ellipsoid]] = {
    # A front with a nose and a back without, so that a scene with two fronts shows.
    "snowman": [
        ((0, 0, -0.45), (0.23, 0.23, 0.2), WHITE),
        ((0, 0, 0.0), (0.17, 0.17, 0.16), WHITE),
        ((0, 0, 0.36), (0.12, 0.12, 0.12), WHITE),
        ((0.2, 0, 0.34), (0.09, 0.025, 0.025), YELLOW),
        ((0.13, 0.07, 0.43), (0.03, 0.03, 0.03), DARK),
        ((0.13, -0.07, 0.43), (0.03, 0.03, 0.03), DARK),
        ((0, 0, 0.52), (0.16, 0.16, 0.025), RED),
        ((0, 0, 0.62), (0.09, 0.09, 0.07), RED),
        *_ring(6, 0.2, 0.2, 0.05, BLUE),
        ((0, 0.36, 0.08), (0.03, 0.14, 0.03), BROWN),
        ((0, -0.36, 0.08), (0.03, 0.14, 0.03), BROWN),
    ],
    "rocket": [
        ((0, 0, 0.0), (0.15, 0.15, 0.3), BLUE),
        ((0, 0, 0.5), (0.08, 0.08, 0.14), RED),
        ((0.17, 0, 0.15), (0.03, 0.07, 0.07), WHITE),
        *((p, (0.09, 0.09, 0.13), RED) for p, _, _ in _ring(3, 0.27, -0.4, 0.1, RED)),
        ((0, 0, -0.55), (0.07, 0.07, 0.12), YELLOW),
    ],
    "tree": [
        ((0, 0, -0.5), (0.06, 0.06, 0.2), BROWN),
        *_ring(7, 0.3, -0.15, 0.12, GREEN),
        *_ring(5, 0.19, 0.15, 0.1, GREEN),
        ((0, 0, 0.4), (0.1, 0.1, 0.15), GREEN),
        *((p, (0.04, 0.04, 0.04), RED) for p, _, _ in _ring(5, 0.4, -0.1, 0.04, RED)),
        ((0, 0, 0.63), (0.06, 0.06, 0.06), YELLOW),
    ],
}


TOYS["bareheaded"] = [part for part in TOYS["snowman"] if part[0][2] < 0.5]  # without its hat


def toy(name: str, colouring: int = 0) -> Splats:
    """One toy as b = 1 set of Gaussians; colourings 1 and 2 turn its channels round."""
    if name not in TOYS:
        raise unknown("toy", name, TOYS)
    place, size, colour = (torch.tensor(part, dtype=torch.float32) for part in zip(*TOYS[name], strict=True))
    count = len(place)
    still = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4)
    parts = (place, size, still, torch.full((count,), 0.97), colour.roll(colouring, 1))
    return Splats(*(part[None] for part in parts))


def spoiled(given: Splats) -> Splats:
    """The same out of focus and washed out: what a negative prompt speaks of."""
    return replace(
        given, scale=1.7 * given.scale + 0.06, opacity=0.6 * given.opacity, colour=0.4 * given.colour
    )


def repeated(given: Splats, count: int) -> Splats:
    """One set of Gaussians for each of `count` views."""
    parts = (given.mean, given.scale, given.turn, given.opacity, given.colour)
    return Splats(*(part.expand(count, *part.shape[1:]) for part in parts))


GREY = 0.0
"""Of the background."""
LOW, HIGH = -0.2, 0.8
"""Elevations of the cameras of training, in radians."""
TURNTABLE = 0.3
"""Elevation of those that are held out."""


def cameras(count: int, seed: int) -> Float[Tensor, "count 2"]:
    """Those of training: evenly about the axis, at elevations that are even, too, in a random order."""
    if count < 2:
        raise UserError(f"a scene is seen by two cameras at least, got task.cameras={count}")
    order = torch.randperm(count, generator=generator("cameras", seed))
    azimuth = 2 * math.pi * torch.arange(count) / count
    return torch.stack((azimuth, LOW + (HIGH - LOW) * (order + 0.5) / count), 1)


def turntable(count: int) -> Float[Tensor, "count 2"]:
    """Cameras that no training sees, the first of many being those of few: each turned on by the golden angle."""
    turns = (torch.arange(count, dtype=torch.float64) * (math.sqrt(5) - 1) / 2 + 0.03) % 1.0
    return torch.stack((2 * math.pi * turns, torch.full_like(turns, TURNTABLE)), 1).float()


class Codec:
    """Pictures as they are, or in latents of half their size: four channels by a fixed orthonormal map of the three
    colours, as the linear approximation of an autoencoder has it (Metzer et al. 2022, Latent-NeRF)."""

    def __init__(self, latent: bool) -> None:
        self.latent = latent
        g = generator("codec of scenes")
        self._map = torch.linalg.qr(torch.randn(4, 3, generator=g)).Q

    @property
    def channels(self) -> int:
        """Of a state."""
        return 4 if self.latent else 3

    @property
    def shrinks(self) -> int:
        """Pixels of a picture along a side of one of a state."""
        return 2 if self.latent else 1

    def encode(self, picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c _ _"]:
        if not self.latent:
            return picture
        return torch.einsum("lc,bchw->blhw", self._map.to(picture), F.avg_pool2d(picture, 2))

    def decode(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 _ _"]:
        if not self.latent:
            return x0
        return torch.einsum("lc,blhw->bchw", self._map.to(x0), x0)

    def colours(self, given: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b c"]:
        """Colours as channels of a state."""
        return given @ self._map.to(given).T if self.latent else given

    def background(self) -> Float[Tensor, "c"]:
        """What is behind all things."""
        return self.encode(torch.full((1, 3, 2, 2), GREY))[0, :, 0, 0]
