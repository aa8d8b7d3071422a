"""Recordings from files as tensors, and back: as loud as they were made, with as many bits as they had.

A rate is never changed behind the caller's back: who states one gets an error for a file with another, and who wants
another one calls `resample`. A 48 kHz recording taken for one of 16 kHz is the classic silent mistake of the field.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.data.folder import Contents, regular, scan, shown
from omnidistill.errors import UserError
from omnidistill.modalities.audio.decode import BY_AV, BY_SOUNDFILE, damaged, decode

Wave = Float[Tensor, "n"] | Float[Tensor, "c n"]


SUFFIXES = BY_SOUNDFILE | BY_AV
CANCELLED = 0.05  # of the loudest channel's energy (-13 dB): a mean below it is no mix of the channels
DEAD = 1e-6  # of the loudest channel's energy: a channel below it (-60 dB) was not connected


def read_audio(
    path: str | Path, rate: int | None = None, mono: bool = True, shortest: float = 0.0
) -> tuple[Wave, int]:
    """A recording and its rate: [n], 1 being full scale (channels mixed, see `mixed`), or [c n] with
    `mono=False`, and Hz.

    Args:
        rate: the rate the caller works at; a file with another one is refused. None takes what the file has.
        shortest: seconds; a shorter recording is refused.

    Raises:
        UserError: the file is missing, empty, damaged, cut short, without audio, too short, at another rate, or holds
            NaN.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no audio file {shown(path)}")
    if not regular(path):
        raise UserError(f"the audio file {shown(path)} is empty")
    try:
        samples, found = decode(path)
    except OSError as error:
        raise damaged(path, error) from error
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
    return (mixed(wave) if mono else wave), found


def mixed(channels: Float[Tensor, "c n"]) -> Float[Tensor, "n"]:
    """The mean of the channels that were connected. Where they cancel one another (one of two
    was wired the wrong way round), those against the loudest are turned round first; where that does not help, the
    loudest is taken alone."""
    if len(channels) == 1:
        return channels[0]
    energy = channels.double().square().sum(1)
    channels = channels[energy > DEAD * energy.max()] if bool(energy.max() > 0) else channels
    loudest = channels[int(channels.double().square().sum(1).argmax())]
    for sign in (torch.ones(()), torch.where((channels @ loudest) < 0, -1.0, 1.0).unsqueeze(1)):
        mean = (channels * sign).mean(0)
        if bool(mean.double().square().sum() >= CANCELLED * energy.max()):
            return mean
    return loudest


def subtype_of(wave: Tensor) -> str:
    """The smallest of `PCM_16`, `PCM_24` and `FLOAT` that holds a wave exactly: how many bits a recording came with."""
    samples = wave.detach().cpu().double()
    for bits in (16, 24):
        scaled = samples * 2.0 ** (bits - 1)
        if bool((scaled == scaled.round()).all() and (scaled.abs() <= 2.0 ** (bits - 1)).all()):
            return f"PCM_{bits}"
    return "FLOAT"


def write_audio(path: str | Path, wave: Float[Tensor, "..."], rate: int, subtype: str | None = None) -> Path:
    """Writes a wave [n] or [c n] as wav or flac, or as ogg, by the suffix; makes the folder.

    Args:
        subtype: of wav, `PCM_16`, `PCM_24` or `FLOAT`; no sample's loudness is changed then: what leaves [-1, 1] is
            written as `FLOAT`. None: 16 bits, and a wave that leaves [-1, 1] is scaled down as a whole rather than
            clipped, which would add a distortion of its own.

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
    peak = float(samples.abs().max())
    if subtype is None:
        samples = samples / max(peak, 1.0)
    elif peak > 1.0:
        subtype = "FLOAT"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples.numpy().T, int(rate), subtype)
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return path


def resample(wave: Wave, from_rate: int, to_rate: int) -> Float[Tensor, "m"] | Float[Tensor, "c m"]:
    """A wave at another rate, band-limited, of ceil(n to/from) samples (soxr, "HQ").

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
    """All audio files below `folder`, by their suffix, in natural order of their paths (see `omnidistill.data.folder`).

    Raises:
        UserError: there is no such folder, no audio file in it, or something in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    found = scanned(folder)
    if found.wrong:
        raise UserError(found.wrong[0])
    if not found.files:
        raise UserError(f"no audio file in {folder}; known: {', '.join(sorted(SUFFIXES))}")
    return found.files


def scanned(source: Path) -> Contents:
    """The audio files of a folder, or a file, and what cannot be read there."""
    return scan(source, tuple(sorted(SUFFIXES)), what="recordings")
