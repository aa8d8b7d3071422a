"""Recordings as compressed complex spectrograms and back, the state of SGMSE+ (Richter et al. 2023, sec. III-B).

`z = 0.15 |X|^0.5 exp(j angle X)` with X the short-time Fourier transform of 510 samples, hop 128, periodic Hann
window: 256 frequencies from 0 to 8 kHz, 8 ms a frame at 16 kHz. The root lifts what is quiet, so that one noise level
suits loud and quiet places; real and imaginary part are two channels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

RATE = 16000  # Hz
N_FFT, HOP = 510, 128  # samples
BINS = N_FFT // 2 + 1
SCALE, POWER = 0.15, 0.5
SHORTEST = N_FFT  # samples; the ends are padded by reflection, which needs more than half a window


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def window(device: torch.device) -> Tensor:
    """Float[N_FFT]: the periodic Hann window."""
    return torch.hann_window(N_FFT, device=device)


def frames_of(samples: int) -> int:
    """Frames of a recording of `samples` samples, its end padded to a whole hop."""
    return 1 + -(-samples // HOP)


def samples_of(frames: int) -> int:
    """Samples of a spectrogram of `frames` frames."""
    return (frames - 1) * HOP


def encode(wave: Tensor) -> Tensor:
    """`wave: Float[... n]`, n >= SHORTEST, zeros after its end -> Float[... 2 256 frames_of(n)]."""
    wave = F.pad(wave, (0, -wave.shape[-1] % HOP))
    flat = wave.reshape(-1, wave.shape[-1])
    spectrum = torch.stft(flat, N_FFT, HOP, window=window(flat.device), return_complex=True)
    # |X|^(p - 1) X; the clamp matters in digital silence alone, where X is 0.
    squeezed = spectrum * (SCALE * spectrum.abs().clamp_min(1e-9) ** (POWER - 1.0))
    parts = torch.stack((squeezed.real, squeezed.imag), dim=1)
    return parts.reshape(*wave.shape[:-1], *parts.shape[1:])


def decode(state: Tensor, mask: Tensor | None = None) -> Tensor:
    """The least-squares inverse of `encode` (Griffin and Lim 1984, eq. 6), differentiable.

    Args:
        state: Float[b 2 256 t].
        mask: Bool[b 1 1 t], True where a frame is real; the first frames are. Padding takes no part.

    Returns:
        Float[b (t - 1) HOP], zero beyond `samples_of` of each recording's own frames.
    """
    b, _, _, t = state.shape
    state = state.float()
    magnitude = state.square().sum(1, keepdim=True)
    # z |z|^(1/p - 1), with the gradient of |z| kept finite at 0
    spread = state * (magnitude + 1e-12) ** (0.5 * (1.0 / POWER - 1.0)) * SCALE ** (-1.0 / POWER)
    spectrum = torch.complex(spread[:, 0], spread[:, 1])
    hann = window(state.device).unsqueeze(1)
    pieces = torch.fft.irfft(spectrum, n=N_FFT, dim=1) * hann  # Float[b N_FFT t]
    weights = hann.square().expand(b, N_FFT, t)
    if mask is not None:
        real = mask.reshape(b, 1, t)
        pieces, weights = pieces * real, weights * real
    wave = _overlap_add(pieces) / _overlap_add(weights).clamp_min(1e-8)
    if mask is not None:
        length = (mask.reshape(b, t).sum(1) - 1) * HOP
        wave = wave * (torch.arange(wave.shape[1], device=wave.device) < length.unsqueeze(1))
    return wave


def _overlap_add(pieces: Tensor) -> Tensor:
    """Float[b N_FFT t] -> Float[b (t - 1) HOP], without the half windows beyond both ends."""
    total = N_FFT + (pieces.shape[-1] - 1) * HOP
    added = F.fold(pieces, (1, total), (1, N_FFT), stride=(1, HOP))[:, 0, 0]
    return added[:, N_FFT // 2 : N_FFT // 2 + samples_of(pieces.shape[-1])]
