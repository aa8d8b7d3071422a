"""Spectra in plain torch: short-time Fourier transform, log-mel spectrograms with a signature, and Griffin-Lim.

A teacher, its student and a vocoder understand each other only if their mels were made alike; the many conventions of
the field differ silently. `MelSignature` is that agreement as plain values, to be stored beside weights and compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Float32
from torch import Tensor

from omnidistill.errors import UserError, unknown
from omnidistill.random import uniform

SCALES = ("slaney", "htk")
NORMS = ("slaney", "none")
LOGS = {"e": 1.0, "10": math.log(10.0)}


@dataclass(frozen=True, slots=True)
class MelSignature:
    """How a log-mel spectrogram was made.

    Attributes:
        rate: Hz of the recording.
        n_fft, win, hop: samples of the transform, of its periodic Hann window (centred in it), and between frames.
        mels: bands, from `fmin` to `fmax` Hz.
        scale: `slaney` (linear below 1 kHz; librosa, HiFi-GAN, BigVGAN) or `htk` (torchaudio, Vocos).
        norm: `slaney` (each band integrates to one) or `none` (each band peaks at one).
        power: of the magnitude before the filters, 1 or 2.
        log: base of the logarithm, `e` or `10`.
        floor: the smallest value before the logarithm; smaller ones are set to it.
        center: True pads n_fft/2 by reflection at both ends, giving 1 + n // hop frames (librosa, torchaudio); False
            pads (n_fft - hop)/2, giving n // hop frames (HiFi-GAN).
    """

    rate: int = 22050
    n_fft: int = 1024
    win: int = 1024
    hop: int = 256
    mels: int = 80
    fmin: float = 0.0
    fmax: float = 8000.0
    scale: str = "slaney"
    norm: str = "slaney"
    power: float = 1.0
    log: str = "e"
    floor: float = 1e-5
    center: bool = True

    def __post_init__(self) -> None:
        for value, known, name in ((self.scale, SCALES, "mel scale"), (self.norm, NORMS, "mel norm")):
            if value not in known:
                raise unknown(name, str(value), known)
        if self.log not in LOGS:
            raise unknown("base of the logarithm", str(self.log), LOGS)
        if not 0 < self.hop <= self.win <= self.n_fft:
            raise UserError(f"a mel needs 0 < hop <= win <= n_fft, got {self.hop}, {self.win}, {self.n_fft}")
        if not 0 <= self.fmin < self.fmax <= self.rate / 2:
            raise UserError(
                f"a mel needs 0 <= fmin < fmax <= rate / 2, got {self.fmin}, {self.fmax} at {self.rate} Hz"
            )
        if self.mels < 1 or self.floor <= 0 or self.power <= 0:
            raise UserError(
                f"mels, floor and power are positive, got {self.mels}, {self.floor}, {self.power}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> MelSignature:
        """The signature written as `as_dict()`; every field must be there, for a default may differ elsewhere."""
        names = [f.name for f in fields(cls)]
        wrong = sorted(set(names) ^ set(values))
        if wrong:
            raise UserError(
                f"a mel signature has the fields {', '.join(names)}; missing or unknown: {', '.join(wrong)}"
            )
        return cls(**values)

    def as_dict(self) -> dict[str, int | float | str | bool]:
        """Plain values for json or yaml."""
        return asdict(self)

    def require(self, other: MelSignature, mine: str = "the teacher", theirs: str = "the vocoder") -> None:
        """Raises a UserError that names every field in which `other` differs."""
        a, b = self.as_dict(), other.as_dict()
        differences = [f"{name} {a[name]} / {b[name]}" for name in a if a[name] != b[name]]
        if differences:
            raise UserError(f"the mels of {mine} and of {theirs} differ: {', '.join(differences)}")

    def frames(self, samples: int) -> int:
        """Frames of a recording of `samples` samples."""
        return samples // self.hop + int(self.center)

    def samples(self, frames: int) -> int:
        """Samples of the shortest recording with that many frames."""
        return (frames - int(self.center)) * self.hop

    @property
    def seconds(self) -> float:
        """Of one hop."""
        return self.hop / self.rate


def stft(
    wave: Float[Tensor, "... n"], n_fft: int, hop: int, win: int | None = None, center: bool = True
) -> Complex[Tensor, "... bins frames"]:
    """`n_fft/2 + 1` frequencies, periodic Hann window; `center` as in `MelSignature`.

    Raises:
        UserError: the wave is too short to be padded by reflection.
    """
    pad = _padding(n_fft, hop, center)
    if wave.shape[-1] <= pad:
        raise UserError(
            f"{wave.shape[-1]} samples are too few for n_fft={n_fft}; at least {pad + 1} are needed"
        )
    flat = F.pad(wave.reshape(1, -1, wave.shape[-1]), (pad, pad), mode="reflect")[0]
    window = _window(win or n_fft, wave)
    spectrum = torch.stft(flat, n_fft, hop, win or n_fft, window, center=False, return_complex=True)
    return spectrum.reshape(*wave.shape[:-1], *spectrum.shape[-2:])


def istft(
    spectrum: Complex[Tensor, "... bins frames"],
    n_fft: int,
    hop: int,
    win: int | None = None,
    center: bool = True,
    length: int | None = None,
) -> Float[Tensor, "... n"]:
    """The wave whose `stft` comes nearest in the least-squares sense (Griffin and Lim 1984, eq. 6).

    Args:
        length: n; None gives the shortest wave with that many frames. Samples that no window reaches are 0.
    """
    frames, pad = spectrum.shape[-1], _padding(n_fft, hop, center)
    pieces = torch.fft.irfft(spectrum, n_fft, dim=-2)
    window = _window(win or n_fft, pieces)
    left = (n_fft - len(window)) // 2
    window = F.pad(window, (left, n_fft - len(window) - left)).unsqueeze(-1)
    total = n_fft + (frames - 1) * hop

    def overlapped(x: Tensor) -> Tensor:  # [b n_fft frames] -> [b total]
        return F.fold(x, (1, total), (1, n_fft), stride=(1, hop)).reshape(len(x), total)

    summed = overlapped((pieces * window).reshape(-1, n_fft, frames))
    weight = overlapped(window.square().expand(1, n_fft, frames))
    wave = torch.where(weight > 1e-8, summed / weight.clamp(min=1e-8), 0.0)[:, pad:]
    length = (frames - int(center)) * hop if length is None else length
    wave = F.pad(wave, (0, max(0, length - wave.shape[-1])))[:, :length]
    return wave.reshape(*spectrum.shape[:-2], length)


def mel_filters(signature: MelSignature) -> Float32[Tensor, "mels bins"]:
    """Triangles between neighbouring points that are equally far apart in mel."""
    return _filters(signature).clone()


def log_mel(wave: Float[Tensor, "... n"], signature: MelSignature) -> Float[Tensor, "... mels frames"]:
    """Of a wave at `signature.rate`: log max(floor, filters |STFT|^power)."""
    s = signature
    magnitude = stft(wave, s.n_fft, s.hop, s.win, s.center).abs()
    energy = _filters(s).to(magnitude) @ magnitude**s.power
    return energy.clamp(min=s.floor).log() / LOGS[s.log]


def magnitudes(
    log_mel: Float[Tensor, "... mels frames"], signature: MelSignature, iterations: int = 50
) -> Float[Tensor, "... bins frames"]:
    """A non-negative |STFT| whose mel is `log_mel`, or nearly.

    Multiplicative least squares (Lee and Seung 2001): non-negative throughout, where a pseudo-inverse is not.
    """
    filters = _filters(signature).to(log_mel)
    energy = torch.exp(log_mel * LOGS[signature.log])
    found = towards = filters.T @ energy
    for _ in range(iterations):
        found = found * towards / (filters.T @ (filters @ found)).clamp(min=1e-12)
    return found.clamp(min=0) ** (1.0 / signature.power)


@torch.no_grad()
def griffin_lim(
    log_mel: Float[Tensor, "... mels frames"],
    signature: MelSignature,
    iterations: int = 60,
    *,
    g: torch.Generator,
    momentum: float = 0.99,
) -> Float[Tensor, "... n"]:
    """A wave for `log_mel`, of `signature.samples(frames)` samples.

    The fast Griffin-Lim algorithm (Perraudin, Balazs and Søndergaard 2013), from phases drawn with `g`. It needs no
    vocoder and sounds like it; as an ear's check of a mel it is enough.
    """
    s = signature
    target = magnitudes(log_mel.float(), s)
    spectrum = torch.polar(target, 2 * math.pi * uniform(target, g).to(target))
    before = torch.zeros_like(spectrum)
    for _ in range(iterations):
        wave = istft(spectrum, s.n_fft, s.hop, s.win, s.center)
        consistent = stft(wave, s.n_fft, s.hop, s.win, s.center)
        pushed = consistent + momentum * (consistent - before)
        spectrum, before = torch.polar(target, pushed.angle()), consistent
    return istft(spectrum, s.n_fft, s.hop, s.win, s.center)


def _padding(n_fft: int, hop: int, center: bool) -> int:
    return n_fft // 2 if center else (n_fft - hop) // 2


def _window(length: int, like: Tensor) -> Tensor:
    return torch.hann_window(length, dtype=like.real.dtype, device=like.device)


def _mel(hertz: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 2595.0 * torch.log10(1.0 + hertz / 700.0)
    # Slaney's Auditory Toolbox (1998): 3 mel for 200 Hz up to 1 kHz, then 27 mel for each factor of 6.4.
    return torch.where(
        hertz < 1000.0, hertz * 0.015, 15.0 + 27.0 * torch.log(hertz.clamp(min=1.0) / 1000.0) / math.log(6.4)
    )


def _hertz(mel: Tensor, scale: str) -> Tensor:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return torch.where(mel < 15.0, mel / 0.015, 1000.0 * torch.exp(math.log(6.4) * (mel - 15.0) / 27.0))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve training too
def _filters(s: MelSignature) -> Tensor:
    low, high = (float(_mel(torch.tensor(f, dtype=torch.float64), s.scale)) for f in (s.fmin, s.fmax))
    edges = _hertz(torch.linspace(low, high, s.mels + 2, dtype=torch.float64), s.scale)
    bins = torch.linspace(0, s.rate / 2, s.n_fft // 2 + 1, dtype=torch.float64)
    width = edges.diff().unsqueeze(-1)
    rising = (bins - edges[:-2].unsqueeze(-1)) / width[:-1]
    falling = (edges[2:].unsqueeze(-1) - bins) / width[1:]
    filters = torch.minimum(rising, falling).clamp(min=0)
    if s.norm == "slaney":
        filters = filters * (2.0 / (edges[2:] - edges[:-2])).unsqueeze(-1)
    return filters.float()
