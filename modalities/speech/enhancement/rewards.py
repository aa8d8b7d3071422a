"""What ROSE-CD adds to consistency in the time domain: rewards `(x0_hat, x0, context)`, one a sample, higher is better.

ROSE-CD's own terms are SI-SDR and a differentiable PESQ (torch-pesq 0.1.2). The latter needs torchaudio's compiled
filters; `LogMel` stands in for it: like PESQ it compares loudness patterns and not waves, without its model of masking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.audio.signal import MelSignature, mel_filters
from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram

SMALLEST = 1e-8


class SiSdr:
    """Scale-invariant signal-to-distortion ratio in dB, `10 log10(|a s|^2 / |a s - x|^2)`, `a = <x, s> / |s|^2` of the
    waves without their means (Le Roux et al. 2019, eq. 4), cut off at `best`.

    Args:
        best: dB above which nothing is gained; keeps the gradient finite at a perfect answer.
        spectrogram: fields of `Spectrogram`, as the teacher has them; the recipes give the task's.
    """

    def __init__(self, best: float = 60.0, spectrogram: Mapping[str, Any] | None = None) -> None:
        self.floor = 10.0 ** (-best / 10.0)
        self.spectrogram = Spectrogram.of(spectrogram)

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        x, s, real = _waves(self.spectrogram, x0_hat, x0, context)
        x, s = (_centred(wave, real) for wave in (x, s))
        energy = s.square().sum(1, keepdim=True) + SMALLEST
        target = (x * s).sum(1, keepdim=True) / energy * s
        kept, lost = (part.square().sum(1) for part in (target, target - x))
        return 10.0 * torch.log10((kept + SMALLEST) / (lost + self.floor * kept + SMALLEST))


class LogMel:
    """`-mean |log mel(x) - log mel(s)|` over bands, frames and resolutions, of waves brought to mean square 1 (as the
    multi-resolution spectral losses of Yamamoto et al. 2020, eq. 6, on mel bands).

    Args:
        windows: samples of each resolution's window; the hop is a quarter of it.
        mels: bands.
        floor: of the mel magnitudes, which are about 10 for speech.
        spectrogram: fields of `Spectrogram`, as the teacher has them; the recipes give the task's.
    """

    def __init__(
        self,
        windows: Sequence[int] = (256, 512, 1024),
        mels: int = 40,
        floor: float = 0.1,
        spectrogram: Mapping[str, Any] | None = None,
    ) -> None:
        self.spectrogram = Spectrogram.of(spectrogram)
        rate = self.spectrogram.rate
        self.signatures = [
            MelSignature(
                rate=rate, n_fft=int(w), win=int(w), hop=int(w) // 4, mels=int(mels), fmax=rate / 2, norm="none",
                floor=float(floor),
            )
            for w in windows
        ]  # fmt: skip

    def __call__(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        x, s, real = _waves(self.spectrogram, x0_hat, x0, context)
        count = real.sum(1, keepdim=True)
        x, s = (w * (w.square().sum(1, keepdim=True) / count + SMALLEST).rsqrt() for w in (x, s))
        return -torch.stack([_difference(x, s, count, signature) for signature in self.signatures]).mean(0)


def _difference(
    x: Float[Tensor, "b n"], s: Float[Tensor, "b n"], count: Float[Tensor, "b 1"], signature: MelSignature
) -> Float[Tensor, "b"]:
    """Mean over the frames that lie within each recording's own `count` samples."""
    n, hop = signature.n_fft, signature.hop
    filters, hann = mel_filters(signature).to(x), torch.hann_window(n, device=x.device)

    def mel(wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, n, hop, window=hann, center=False, return_complex=True)
        # The root's gradient is infinite in digital silence, so it is taken a little above 0.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + SMALLEST).sqrt()
        return torch.log((filters @ magnitude).clamp_min(signature.floor))

    distance = (mel(x) - mel(s)).abs().mean(1)
    inside = torch.arange(distance.shape[1], device=x.device) * hop + n <= count
    return (distance * inside).sum(1) / inside.sum(1).clamp_min(1)


def _waves(
    spectrogram: Spectrogram,
    x0_hat: Float[Tensor, "b 2 bins t"],
    x0: Float[Tensor, "b 2 bins t"] | None,
    context: Context,
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """(estimate, clean, 1 where a sample is real). In float32: powers undo the compression."""
    if x0 is None:
        raise UserError("a reward of cleaned speech needs the clean recordings; this task has no data here")
    with torch.autocast(x0_hat.device.type, enabled=False):
        x, s = (spectrogram.decode(state.float(), context.mask) for state in (x0_hat, x0))
    if context.mask is None:
        return x, s, torch.ones_like(s)
    length = (context.mask.flatten(1).sum(1, keepdim=True) - 1) * spectrogram.hop
    return x, s, (torch.arange(s.shape[1], device=s.device) < length).to(s)


def _centred(wave: Tensor, real: Tensor) -> Tensor:
    return (wave - wave.sum(1, keepdim=True) / real.sum(1, keepdim=True)) * real
