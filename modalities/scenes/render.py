"""Views as a turntable: a picture with a row for each scene, and a film (gif) that goes round."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.image.render import grid
from omnidistill.modalities.image.render import render as write_grid

COLUMNS = 8
FRAME = 120  # milliseconds


def rounds(
    views: Float[Tensor, "b 3 h w"], azimuth: Float[Tensor, "b"], particle: Int[Tensor, "b"]
) -> list[Tensor]:
    """The views of each scene in the order in which a turntable shows them; all scenes have as many."""
    found = []
    for one in particle.unique():
        mine = (particle == one).nonzero().squeeze(1)
        found.append(views[mine[azimuth[mine].remainder(2 * torch.pi).argsort()]])
    count = min(len(each) for each in found)
    return [each[torch.linspace(0, len(each) - 1, count).round().long()] for each in found]


def turntable(
    views: Float[Tensor, "b 3 h w"], azimuth: Float[Tensor, "b"], particle: Int[Tensor, "b"], target: Path
) -> list[Path]:
    """Writes `target`.png and `target`.gif."""
    from PIL import Image

    around = rounds(views, azimuth, particle)
    count = min(COLUMNS, len(around[0]))
    chosen = torch.linspace(0, len(around[0]) * (1 - 1 / count), count).round().long()
    strip = write_grid(torch.cat([each[chosen] for each in around]), target.with_suffix(".png"), count)
    frames = [Image.fromarray(grid(torch.stack(now), len(around))) for now in zip(*around, strict=True)]
    film = target.with_suffix(".gif")
    try:
        frames[0].save(film, save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
    except OSError as error:
        raise UserError(f"cannot write {film}: {error.strerror or error}") from error
    return [strip, film]
