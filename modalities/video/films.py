"""A film read as people see it: frames by the time at which they are shown, turned as players turn them.

Films need not have a steady rate: telephones slow down in the dark, recorders of screens write a frame when something
moves. Frames are therefore put on an even grid of times, each place holding the frame that is on the screen then; of a
steady film that is every frame once. Turns and mirrors of the display matrix are applied, and pixels that are not
square are made so.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnidistill.data.folder import regular, shown
from omnidistill.errors import UserError

SUFFIXES = (".mp4", ".avi", ".gif", ".mov", ".mkv", ".webm")
FORMATS = "mov,mp4,avi,gif,matroska,webm"
"""All that a file may be taken for: some of FFmpeg's readers open other files, or addresses."""
PIXELS = 1 << 25  # of a frame: 8192 x 4096
KEPT = 1 << 32  # bytes of a recording's frames, scaled down
SHORT = 0.02  # share of a film that may be missing at its end before it counts as cut short


class Refused(UserError):
    """The film cannot be used, and the message says why."""


@dataclass(slots=True)
class Decoded:
    """Frames as they came, uint8 [h w 3] each, the seconds at which they are shown, and the rate the file states."""

    pictures: list[NDArray[np.uint8]] = field(default_factory=list)
    times: list[float | None] = field(default_factory=list)
    rate: float = 0.0


def read_video(path: str | Path, side: int, size: int, *, square: bool = True) -> tuple[Tensor, float]:
    """The frames of a video or gif on an even grid of times, RGB uint8 [n 3 h w] with min(h, w) = min(side, the file's
    own), and their rate, frames a second.

    Args:
        square: whether pixels that are not square are made so.

    Raises:
        UserError: missing, not a video, without a video stream, damaged, cut short, empty, larger than can be kept, or
            smaller than `size` pixels.
    """
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise UserError(
            "reading video needs PyAV; install it with `pip install omnidistill[video]`"
        ) from error

    path = Path(path)
    name, decoded = shown(path), Decoded()
    try:
        regular(path)
        _decode(path, side, decoded, square)
    except Refused:
        raise
    except Exception as error:  # decoders, and what they hand on of damaged files, raise what they please
        after = f" after {len(decoded.pictures)} frames" if decoded.pictures else ""
        reason = error.strerror if isinstance(error, FFmpegError) else None
        reason = " ".join(str(reason or error).removeprefix("cannot read ").split()) or type(error).__name__
        raise UserError(f"cannot read the video {name}{after}: {reason}") from error
    pictures = decoded.pictures
    if not pictures:
        raise UserError(f"cannot read the video {name}: it holds no frame")
    if len(shapes := {picture.shape for picture in pictures}) > 1:
        raise UserError(f"the frames of {name} change their size: {sorted(shape[:2] for shape in shapes)}")
    height, width = pictures[0].shape[:2]
    if min(height, width) < size:
        raise UserError(f"{name} is too small: {width}x{height} pixels, clips need at least {size}x{size}")
    rows, rate = evenly(decoded.times, decoded.rate, name)
    if len(rows) * pictures[0].nbytes > KEPT:
        raise UserError(f"{name} is too long: {len(rows)} frames at {rate:.4g} a second; cut it in parts")
    frames = np.stack(pictures)[rows]
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), rate


def _decode(path: Path, side: int, decoded: Decoded, square: bool) -> None:
    """Fills `decoded` from a file."""
    import av

    name = shown(path)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    with av.open(str(path.absolute()), options=options) as file:
        if not file.streams.video:
            raise Refused(
                f"cannot read the video {name}: it has no video stream, only {_streams(file.streams)}"
            )
        stream = file.streams.video[0]
        if stream.codec_context is None:
            raise Refused(f"cannot read the video {name}: its codec is unknown or its head damaged")
        _check_size(name, stream.codec_context.width, stream.codec_context.height)
        stated, packets, end = stream.frames, 0, 0.0
        for packet in file.demux(stream):
            packets += packet.dts is not None or packet.size > 0
            if packet.is_corrupt:
                count = len(decoded.pictures)
                raise Refused(
                    f"cannot read the video {name} after {count} frames: it is cut short or damaged"
                )
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            for frame in packet.decode():
                _keep(frame, stream.sample_aspect_ratio if square else None, side, name, decoded)
        decoded.rate = float(stream.average_rate or stream.guessed_rate or 0)
        if missing := _missing(file, stream, stated, packets, end, path):
            count = len(decoded.pictures)
            raise Refused(f"cannot read the video {name} after {count} frames: it is cut short, {missing}")


def _keep(frame: Any, aspect: Any, side: int, name: str, decoded: Decoded) -> None:
    if frame.is_corrupt:
        raise Refused(f"cannot read the video {name}: frame {len(decoded.pictures) + 1} is damaged")
    _check_size(name, frame.width, frame.height)
    decoded.pictures.append(_seen(frame, aspect, side, name))
    decoded.times.append(None if frame.pts is None else float(frame.pts * frame.time_base))
    if len(decoded.pictures) * decoded.pictures[0].nbytes > KEPT:
        raise Refused(f"{name} is too long: more than {KEPT >> 30} GiB of frames; cut it in parts")


def evenly(times: list[float | None], rate: float, name: str = "the video") -> tuple[list[int], float]:
    """Which frame is on the screen at each time of an even grid, and the grid's rate.

    Args:
        times: seconds at which each frame is first shown.
        rate: as the file states it, frames a second; it counts where the times bear it out or are unknown. Else the
            grid is as fine as the frames' median distance.
    """
    if any(time is None for time in times) or len(times) == 1:
        if rate <= 0:
            raise UserError(f"{name} does not say when its frames are shown, nor how many a second there are")
        return list(range(len(times))), rate
    at = np.asarray(times, dtype=np.float64)
    order = np.argsort(
        at, kind="stable"
    )  # a decoder that is told of too few reordered frames hands them on too early
    at = at[order] - at[order[0]]
    gaps = np.diff(at)
    if not (gaps > 0).any():
        raise UserError(f"{name} is damaged: all {len(at)} frames are shown at one time")
    if rate <= 0 or np.abs(at - np.arange(len(at)) / rate).max() > 0.25 / rate:
        rate = 1.0 / float(np.median(gaps[gaps > 0]))
    count = math.floor(at[-1] * rate + 0.25) + 1
    if count > 100 * len(at):
        raise UserError(
            f"{name} shows {len(at)} frames in {at[-1]:.4g} s, most of them {1 / rate:.2g} s apart"
        )
    # A quarter of the distance is the rounding of time stamps.
    grid = (np.arange(count) + 0.25) / rate
    return (np.searchsorted(at, grid, side="right") - 1).tolist(), rate


def turned(picture: NDArray[np.uint8], matrix: bytes, name: str) -> NDArray[np.uint8]:
    """uint8 [h w 3] as a display matrix wants it shown: 9 numbers of which `x' = a x + c y`, `y' = b x + d y`, with a,
    b, c, d at places 0, 1, 3, 4 (ISO/IEC 14496-12, 6.2.2, as FFmpeg hands it on). Its scale is left out."""
    values = struct.unpack("=9i", matrix[:36])
    a, b, c, d = (values[place] / 65536.0 for place in (0, 1, 3, 4))
    large = max(abs(a), abs(b), abs(c), abs(d))
    small = 0.02 * large
    if large > 0 and max(abs(b), abs(c)) < small and min(abs(a), abs(d)) > small:
        return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    if large > 0 and max(abs(a), abs(d)) < small and min(abs(b), abs(c)) > small:
        return picture.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
    raise Refused(f"{name} is to be shown at an angle that is no quarter turn; turn it first")


def _seen(frame: Any, aspect: Any, side: int, name: str) -> NDArray[np.uint8]:
    """uint8 [h w 3]: a frame scaled down, with square pixels, turned as its display matrix says."""
    wide = float(aspect) if aspect else 1.0
    if not 0.1 <= wide <= 10.0:
        raise Refused(f"{name} is damaged: its pixels are {wide:g} times as wide as high")
    shape = (frame.width * max(wide, 1.0), frame.height / min(wide, 1.0))
    scale = min(1.0, side / min(shape))
    width, height = (max(1, round(scale * n)) for n in shape)
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    return np.ascontiguousarray(small if matrix is None else turned(small, matrix, name))


def _missing(file: Any, stream: Any, stated: int, packets: int, end: float, path: Path) -> str:
    """What the head of the file promises and the file does not hold, or "" where it keeps its word."""
    if "gif" in file.format.name:
        with path.open("rb") as raw:
            raw.seek(-min(64, path.stat().st_size), 2)
            return "" if raw.read().rstrip(b"\0\r\n ").endswith(b";") else "its end is not there"
    if stated:
        return f"its head states {stated} frames and {packets} are there" if stated > packets else ""
    length = _length(file, stream)
    if length is None or packets < 2:
        return ""
    held = end - float((stream.start_time or 0) * stream.time_base)
    short = held < length - max(SHORT * length, 3.0 * length / packets)
    return f"its head states {length:.4g} s and {held:.4g} s are there" if short else ""


def _length(file: Any, stream: Any) -> float | None:
    """Seconds of the video stream as the head of the file states them."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if tag := stream.metadata.get("DURATION"):  # as Matroska files have it: 00:01:02.500000000
        try:
            hours, minutes, seconds = (float(part) for part in tag.split(":"))
            return 3600.0 * hours + 60.0 * minutes + seconds
        except ValueError:
            return None
    alone = len(list(file.streams)) == 1 and file.duration
    return file.duration / 1e6 if alone else None


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > PIXELS:
        raise UserError(
            f"{name} is {width}x{height} pixels, more than the {PIXELS} a frame that are read; shrink it"
        )


def _streams(streams: Iterable[Any]) -> str:
    return ", ".join(sorted({stream.type for stream in streams})) or "nothing"
