"""Samples for people: a picture of mel spectrograms, and sounds by Griffin-Lim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import write_audio
from omnidistill.modalities.audio.signal import MelSignature, griffin_lim

COLUMNS, GAP, ZOOM = 2, 4, 2  # mels a row; pixels between them; pixels a bin
DARKEST, BRIGHTEST = -9.0, 1.0  # of natural log-mels, so that pages compare


def sound(log_mel: Float[Tensor, "m t"], signature: MelSignature, seed: int = 0) -> Float[Tensor, "n"]:
    """A wave for a log-mel, natural logarithm, not normalised."""
    return griffin_lim(log_mel, signature, g=torch.Generator().manual_seed(seed))


def write_sound(log_mel: Tensor, signature: MelSignature, path: Path) -> Path:
    """Writes `sound(log_mel)` as a wav file."""
    return write_audio(path, sound(log_mel, signature), signature.rate)


def picture(log_mels: Sequence[Tensor], path: Path) -> Path:
    """Writes mels side by side as a PNG, low frequencies at the bottom, one colour scale for all.

    Raises:
        UserError: no mel, NaN values, or the file cannot be written.
    """
    from matplotlib import colormaps
    from PIL import Image

    if not log_mels or not all(mel.isfinite().all() for mel in log_mels):
        raise UserError("cannot draw mels: there are none, or they hold NaN or infinite values")
    high, wide = log_mels[0].shape[0], max(mel.shape[1] for mel in log_mels)
    rows = -(-len(log_mels) // COLUMNS)
    page = np.full((rows * (high + GAP) - GAP, COLUMNS * (wide + GAP) - GAP, 3), 255, np.uint8)
    for index, mel in enumerate(log_mels):
        level = ((mel.cpu().numpy()[::-1] - DARKEST) / (BRIGHTEST - DARKEST)).clip(0, 1)
        top, left = (index // COLUMNS) * (high + GAP), (index % COLUMNS) * (wide + GAP)
        page[top : top + high, left : left + mel.shape[1]] = colormaps["magma"](level)[..., :3] * 255
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)).save(path, format="PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
