"""What recordings are spoilt with: music on hold, and coloured noise that is drawn rather than recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

MUSIC_SHARE = 0.6  # of the mixtures; the others get coloured noise
QUIETEST = 0.1  # of a track's level: a soft passage is not blown up beyond this


def _uniform(low: float, high: float, g: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=g, dtype=torch.float64))


def coloured(samples: int, g: torch.Generator, rate: int = 16000) -> Float[Tensor, "{samples}"]:
    """Of mean square about 1: Gaussian noise with power ~ 1/f^a, a in [0, 2], band-limited at random, and
    a loudness that swells at 0.2 to 4 Hz."""
    drawn = samples + -samples % 4096  # a prime number of samples would be transformed slowly
    spectrum = torch.fft.rfft(torch.randn(drawn, generator=g))
    f = torch.fft.rfftfreq(drawn, 1.0 / rate).clamp_min(40.0)
    low = 40.0 * 2.0 ** _uniform(0.0, 4.0, g)  # 40 to 640 Hz
    high = min(0.5 * rate, low * 2.0 ** _uniform(2.0, 7.0, g))
    gain = f ** (-0.5 * _uniform(0.0, 2.0, g))
    gain = gain / (1.0 + (low / f) ** 4).sqrt() / (1.0 + (f / high) ** 4).sqrt()  # second order at both ends
    wave = torch.fft.irfft(spectrum * gain, n=drawn)[:samples]
    depth, speed, phase = _uniform(0.0, 0.8, g), _uniform(0.2, 4.0, g), _uniform(0.0, 2 * math.pi, g)
    time = torch.arange(samples) / rate
    wave = wave * (1.0 + depth * torch.sin(2 * math.pi * speed * time + phase))
    return wave / level(wave)


def passage(tracks: Sequence[Tensor], samples: int, g: torch.Generator) -> Float[Tensor, "{samples}"]:
    """Of mean square about 1, from any place of any track, longer tracks more often; a track shorter than
    that begins again.

    Args:
        tracks: of mean square 1.
    """
    lengths = torch.tensor([len(track) for track in tracks], dtype=torch.float64)
    place = _uniform(0.0, float(lengths.sum()) - 1.0, g)
    which = int(torch.searchsorted(lengths.cumsum(0), torch.tensor(place, dtype=torch.float64), right=True))
    track = tracks[which]
    start = int(place - float(lengths[:which].sum()))
    start = min(start, max(0, len(track) - samples))
    cut = track[start : start + samples]
    if len(cut) < samples:
        cut = cut.repeat(-(-samples // len(cut)))[:samples]
    return cut / level(cut).clamp_min(QUIETEST)


def level(wave: Tensor) -> Tensor:
    """Root mean square, never 0."""
    return wave.square().mean().sqrt().clamp_min(1e-8)


def draw(tracks: Sequence[Tensor], samples: int, g: torch.Generator) -> Tensor:
    """Noise of one kind or the other; coloured alone where there are no tracks."""
    music = _uniform(0.0, 1.0, g) < MUSIC_SHARE
    return passage(tracks, samples, g) if music and tracks else coloured(samples, g)


def mix(clean: Tensor, noise: Tensor, snr: float) -> Tensor:
    """`clean + noise` with `snr` decibels between their mean squares over the whole recording."""
    return clean + noise * (level(clean) / level(noise) * 10.0 ** (-snr / 20.0))
