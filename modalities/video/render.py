"""Clips as a sheet of frames (png), one row a clip, and as a film of all of them side by side (mp4)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.image.render import render as write_grid

ROWS = 12  # clips on the sheet
ZOOM = 3  # a pixel of a clip is 3x3 pixels of the film
RATE = 12  # frames a second of the film, about the pace of the recordings


def sheet(clips: Float[Tensor, "n 3 f h w"], path: Path) -> Path:
    """A png with the first `ROWS` clips as rows of their frames; returns its path."""
    frames = clips[:ROWS].transpose(1, 2).flatten(0, 1)
    return write_grid(frames, path, columns=clips.shape[2])


def film(
    clips: Float[Tensor, "n 3 f h w"], path: Path, rate: int = RATE, zoom: int = ZOOM, gap: int = 2
) -> Path:
    """An H.264 file in which all clips, in [-1, 1], play at once, forwards and then backwards.

    Raises:
        UserError: PyAV is missing or the file cannot be written.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise UserError(
            "writing video needs PyAV; install it with `pip install omnidistill[video]`"
        ) from error
    pixels = ((clips.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    count, _, frames, height, width = pixels.shape
    pixels = pixels.repeat_interleave(zoom, 3).repeat_interleave(zoom, 4)
    columns = math.ceil(math.sqrt(count))
    rows, tall, wide = math.ceil(count / columns), zoom * height + gap, zoom * width + gap
    # H.264 with halved colour wants even sides.
    page = torch.full((frames, rows * tall + rows * tall % 2, columns * wide + columns * wide % 2, 3), 255)
    page = page.to(torch.uint8)
    for index, clip in enumerate(pixels):
        top, left = index // columns * tall, index % columns * wide
        page[:, top : top + tall - gap, left : left + wide - gap] = clip.permute(1, 2, 3, 0)
    order = [*range(frames), *range(frames - 2, 0, -1)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=rate, options={"crf": "14", "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = page.shape[2], page.shape[1], "yuv420p"
            for index in order * 2:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(page[index].numpy(), format="rgb24")))
            file.mux(stream.encode())
    except (OSError, FFmpegError) as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
