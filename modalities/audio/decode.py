"""What stands in a file of sound, whole or not at all: soundfile for wav, flac and ogg, PyAV for the rest.

Decoders are glad to give what there is of a file that was cut short, and believe a header that promises more than any
memory holds. Here a header's promise is looked at before anything is decoded, and held against what came.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omnidistill.data.folder import shown
from omnidistill.errors import UserError

BY_SOUNDFILE = {".wav", ".flac", ".ogg", ".aif", ".aiff"}
BY_AV = {".g722", ".mp3", ".mp4", ".m4a", ".aac", ".opus", ".webm", ".mkv"}
RAW = {".g722": "g722"}  # no header says what these are, so FFmpeg has to be told
ESTIMATED = ("aac", "g722", "mp3")  # FFmpeg's formats whose duration may be a guess from the size of the file
RATES = (1000, 768_000)  # Hz
CHANNELS = 64
MOST = 1 << 29  # samples of all channels: 2 GiB as they are kept; over nine hours of one channel at 16 kHz
BLOCK = 1 << 18  # samples read at once
UNKNOWN = 1 << 62  # frames: a stream's header does not know its length

Samples = np.ndarray[Any, Any]


def decode(path: Path) -> tuple[Samples, int]:
    """The samples of a file, float32 [channels n], and its rate in Hz.

    Raises:
        UserError: damaged, cut short, without sound, or with a rate, channels or a length beyond all reason.
    """
    suffix = path.suffix.lower()
    _whole(path, suffix)
    return _by_soundfile(path) if suffix in BY_SOUNDFILE else _by_av(path)


def _by_soundfile(path: Path) -> tuple[Samples, int]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = int(file.samplerate), int(file.channels)
            promised = file.frames if 0 <= file.frames < UNKNOWN else None
            _reasonable(path, rate, channels, promised or 0)
            blocks = _limited(path, _blocks(file, BLOCK // channels))
    except (soundfile.LibsndfileError, OSError, MemoryError) as error:
        raise damaged(path, error) from error
    samples = np.concatenate(blocks, axis=1) if blocks else np.empty((channels, 0), np.float32)
    if promised is not None and samples.shape[1] < promised:
        raise cut_short(path, f"{samples.shape[1]} of {promised} samples are there")
    return samples, rate


def _blocks(file: Any, frames: int) -> Iterator[Samples]:
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield block.T


def _by_av(path: Path) -> tuple[Samples, int]:
    import av

    try:
        with av.open(str(path), format=RAW.get(path.suffix.lower())) as container:
            if not container.streams.audio:
                raise UserError(f"{shown(path)} has no audio in it")
            stream = container.streams.audio[0]
            rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
            seconds = float(container.duration or 0) / 1e6
            if stream.duration and stream.time_base:
                seconds = float(stream.duration * stream.time_base)
            certain = container.format.name not in ESTIMATED or _counted(path)
            _reasonable(path, rate, channels, round(seconds * rate) if certain else 0)
            blocks = _limited(path, _frames(path, container, stream))
            slack = stream.codec_context.frame_size or 1024  # a frame that encoders add or drop
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise damaged(path, error) from error
    samples = np.concatenate(blocks, axis=1) if blocks else np.empty((1, 0), np.float32)
    if certain and samples.shape[1] + slack < seconds * rate:
        raise cut_short(path, f"{samples.shape[1] / rate:.4g} of {seconds:.4g} s are there")
    return samples, int(rate)


def _frames(path: Path, container: Any, stream: Any) -> Iterator[Samples]:
    layout = None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise cut_short(path, "its last packet is not whole")
        for frame in packet.decode():
            samples = _floats(frame)
            if layout is None:
                layout = (frame.sample_rate, len(samples))
            elif layout != (frame.sample_rate, len(samples)):
                raise UserError(f"{shown(path)} changes its rate or its channels within; split it there")
            yield samples


def _limited(path: Path, blocks: Iterator[Samples]) -> list[Samples]:
    found, total = [], 0
    for block in blocks:
        total += block.size
        if total > MOST:
            raise _too_long(path)
        found.append(block)
    return found


def _floats(frame: Any) -> Samples:
    """An `av.AudioFrame` as float32 [c n] in [-1, 1]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:  # one row, channel after channel in each instant
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.integer):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return np.asarray(samples, np.float32)


# --- promises ------------------------------------------------------------------------------------------------------


def _reasonable(path: Path, rate: int, channels: int, frames: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"{shown(path)} claims {rate} Hz; a rate is {RATES[0]} to {RATES[1]} Hz")
    if not 1 <= channels <= CHANNELS:
        raise UserError(f"{shown(path)} claims {channels} channels; there are 1 to {CHANNELS}")
    if frames * channels > MOST:
        raise _too_long(path)


def _whole(path: Path, suffix: str) -> None:
    """Refuses a file whose own marks say that its end is missing."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
            _chunks(path, file, b"data", "<" if head[:4] != b"RIFX" else ">")
        elif head[:4] == b"FORM":
            _chunks(path, file, b"SSND", ">")
        elif head[:4] == b"OggS":
            _pages(path, file)
        elif suffix == ".aac" and len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
            _adts(path, file)


def _chunks(path: Path, file: BinaryIO, wanted: bytes, order: str) -> None:
    """The chunk of samples of a RIFF or AIFF file is as long as its header says."""
    size, long = path.stat().st_size, None
    place = 12
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == b"ds64" and place + 24 <= size:
            long = struct.unpack("<QQ", file.read(16))[1]
        if name == wanted:
            if length == 0xFFFFFFFF:  # a stream whose length was not known, or one of 64 bits
                length = 0 if long is None else long
            if place + 8 + length > size:
                raise cut_short(path, f"{size - place - 8} of {length} bytes of sound are there")
            return
        place += 8 + length + length % 2


def _pages(path: Path, file: BinaryIO) -> None:
    """Every stream of an Ogg file has its last page, and that page is whole."""
    size, place = path.stat().st_size, 0
    ended: dict[int, bool] = {}
    while place < size:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            break
        table = file.read(head[26])
        serial = struct.unpack("<I", head[14:18])[0]
        ended[serial] = bool(head[5] & 4)
        place += 27 + len(table) + sum(table)
        if len(table) < head[26] or place > size:
            raise cut_short(path, "its last page is not whole")
    if place < size and ended and all(ended.values()):
        return  # something else after the last page: the sound is whole
    if place != size or not all(ended.values()):
        raise cut_short(path, "it has no last page")


def _adts(path: Path, file: BinaryIO) -> None:
    size, place = path.stat().st_size, 0
    while place + 7 <= size:
        file.seek(place)
        head = file.read(7)
        if head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
            return
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if place + length > size:
            raise cut_short(path, "its last frame is not whole")
        place += max(length, 7)


def _counted(path: Path) -> bool:
    """Whether an MP3 file says how many frames it has (Xing, Info or VBRI, in its first frame)."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            file.seek(
                10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            )
        else:
            file.seek(0)
        first = file.read(512)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


def damaged(path: Path, error: Exception) -> UserError:
    """The refusal of a file that its decoder gives up on, with the decoder's reason in one line."""
    reason = shown(" ".join(str(error).split()))
    return UserError(
        f"cannot read the audio file {shown(path)}, it is damaged or of another format: {reason}"
    )


def cut_short(path: Path, what: str) -> UserError:
    """The refusal of a file that ends before its own header says; `what` tells where."""
    return UserError(f"the audio file {shown(path)} is cut short: {what}")


def _too_long(path: Path) -> UserError:
    return UserError(
        f"{shown(path)} is longer than {MOST} samples, which is all that is read of one file; cut it"
    )
