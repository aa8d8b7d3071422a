"""Samples as one PNG: a grid of grey (or RGB) images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import UserError

SMALLEST_SIDE = 56  # pixels on the page; smaller images are enlarged by a whole factor, without blurring


def grid(samples: Float[Tensor, "n c h w"], columns: int | None = None, gap: int = 2) -> np.ndarray[Any, Any]:
    """Samples in [-1, 1], c = 1 or 3 -> uint8 [H W c], row by row; empty places and gaps are white.

    Args:
        columns: images a row; None makes the grid about square.
        gap: pixels between two images.

    Raises:
        UserError: no sample, another number of channels, or NaN pixels.
    """
    if samples.ndim != 4 or not len(samples) or samples.shape[1] not in (1, 3):
        raise UserError(
            f"cannot draw samples of shape {tuple(samples.shape)}; expected [n >= 1, 1 or 3, h, w]"
        )
    if not samples.isfinite().all():
        raise UserError("cannot draw samples with NaN or infinite pixels")
    pixels = ((samples.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    zoom = max(1, math.ceil(SMALLEST_SIDE / min(pixels.shape[2:])))
    tiles = pixels.permute(0, 2, 3, 1).numpy().repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width, channels = tiles.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        page[top : top + height, left : left + width] = tile
    return page


def render(samples: Tensor, path: str | Path, columns: int | None = None) -> Path:
    """Writes `grid(samples, columns)` as a PNG, making its folder; returns the path."""
    from PIL import Image

    page, path = grid(samples, columns), Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page.squeeze(-1) if page.shape[-1] == 1 else page).save(path, format="PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
