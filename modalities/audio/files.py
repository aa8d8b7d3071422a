"""Recordings from files as tensors in [-1, 1], and back: soundfile for wav, flac and ogg, PyAV for the rest.

A rate is never changed behind the caller's back: who states one gets an error for a file with another, and who wants
another one calls `resample`. A 48 kHz recording taken for one of 16 kHz is the classic silent mistake of the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnidistill.errors import UserError

BY_SOUNDFILE = {".wav", ".flac", ".ogg", ".aif", ".aiff"}
BY_AV = {".g722", ".mp3", ".mp4", ".m4a", ".aac", ".opus", ".webm", ".mkv"}
RAW = {".g722": "g722"}  # no header says what these are, so FFmpeg has to be told
SUFFIXES = BY_SOUNDFILE | BY_AV


def read_audio(
    path: str | Path, rate: int | None = None, mono: bool = True, shortest: float = 0.0
) -> tuple[Tensor, int]:
    """A recording and its rate: Float[n] in [-1, 1] (channels averaged), or Float[c n] with `mono=False`, and Hz.

    Args:
        rate: the rate the caller works at; a file with another one is refused. None takes what the file has.
        shortest: seconds; a shorter recording is refused.

    Raises:
        UserError: the file is missing, empty, damaged, without audio, too short, at another rate, or holds NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no audio file {path}")
    if not path.stat().st_size:
        raise UserError(f"the audio file {path} is empty")
    samples, found = _by_soundfile(path) if path.suffix.lower() in BY_SOUNDFILE else _by_av(path)
    if not samples.size:
        raise UserError(f"the audio file {path} holds no samples")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise UserError(f"{bad} of {samples.size} samples of {path} are NaN or infinite")
    if rate is not None and found != rate:
        raise UserError(f"{path} is at {found} Hz, expected {rate} Hz; resample it first")
    if samples.shape[1] < shortest * found:
        seconds = samples.shape[1] / found
        raise UserError(f"{path} lasts {seconds:.3g} s, at least {shortest:.3g} s are needed")
    wave = torch.from_numpy(np.ascontiguousarray(samples))
    return (wave.mean(0) if mono else wave), found


def write_audio(path: str | Path, wave: Tensor, rate: int) -> Path:
    """Writes `wave: Float[n]` or `Float[c n]` as 16-bit wav or flac, or as ogg, by the suffix; makes the folder.

    A wave that leaves [-1, 1] is scaled down as a whole rather than clipped, which would add a distortion of its own.

    Raises:
        UserError: the wave is empty or holds NaN, the suffix is unknown, or the file cannot be written.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in BY_SOUNDFILE:
        raise UserError(f"cannot write {path}: audio is written as {', '.join(sorted(BY_SOUNDFILE))}")
    if wave.ndim not in (1, 2) or not wave.numel():
        raise UserError(f"cannot write {path}: a wave is [n] or [c n] with n >= 1, got {tuple(wave.shape)}")
    samples = wave.detach().cpu().float()
    if not samples.isfinite().all():
        raise UserError(f"cannot write {path}: the wave holds NaN or infinite samples")
    samples = samples / samples.abs().max().clamp(min=1.0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples.numpy().T, int(rate))
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return path


def resample(wave: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """`wave: Float[n]` or `Float[c n]` at another rate, band-limited: Float[... ceil(n to/from)] (soxr, "HQ").

    Raises:
        UserError: a rate is not positive.
    """
    if from_rate <= 0 or to_rate <= 0:
        raise UserError(f"rates are positive, got {from_rate} Hz and {to_rate} Hz")
    if from_rate == to_rate:
        return wave
    import soxr

    samples = soxr.resample(wave.detach().cpu().numpy().T, from_rate, to_rate)
    return torch.from_numpy(np.ascontiguousarray(samples.T)).to(wave)


def audio_files(folder: str | Path) -> list[Path]:
    """All audio files below `folder`, by their suffix, sorted by their path.

    Raises:
        UserError: there is no such folder, or no audio file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    found = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not found:
        raise UserError(f"no audio file in {folder}; known: {', '.join(sorted(SUFFIXES))}")
    return found


def _by_soundfile(path: Path) -> tuple[np.ndarray[Any, Any], int]:
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _damaged(path, error) from error
    return samples.T, int(rate)


def _by_av(path: Path) -> tuple[np.ndarray[Any, Any], int]:
    import av

    try:
        with av.open(str(path), format=RAW.get(path.suffix.lower())) as container:
            if not container.streams.audio:
                raise UserError(f"{path} has no audio in it")
            frames = [_floats(frame) for frame in container.decode(audio=0)]
            rate = container.streams.audio[0].codec_context.sample_rate
    except (av.error.FFmpegError, OSError) as error:
        raise _damaged(path, error) from error
    if not frames:
        return np.empty((1, 0), np.float32), int(rate)
    return np.concatenate(frames, axis=1), int(rate)


def _floats(frame: Any) -> np.ndarray[Any, Any]:
    """An `av.AudioFrame` as float32 [c n] in [-1, 1]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:  # one row, channel after channel in each instant
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.integer):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return samples.astype(np.float32)


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"cannot read the audio file {path}, it is damaged or of another format: {reason}")
