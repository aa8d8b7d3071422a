"""Recordings as compressed complex spectrograms and back, the state of SGMSE+ (Richter et al. 2023, sec. III-B).

`z = scale |X|^power exp(j angle X)` with X the short-time Fourier transform, by default of 510 samples, hop 128,
periodic Hann window: 256 frequencies from 0 to 8 kHz, 8 ms a frame at 16 kHz, scale 0.15 and power 0.5. The root lifts
what is quiet, so that one noise level suits loud and quiet places; real and imaginary part are two channels.

Another teacher has other numbers (SGMSE+ at 48 kHz: 1534, 384, 0.065, 0.667). The task holds them, and data, pictures,
sounds, metrics and rewards all take them from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.errors import UserError, unknown


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """How waves become states.

    Attributes:
        rate: Hz of the recordings.
        n_fft, hop: samples of the transform and its window, and between frames.
        scale, power: of the compression of magnitudes.
    """

    rate: int = 16000
    n_fft: int = 510
    hop: int = 128
    scale: float = 0.15
    power: float = 0.5

    def __post_init__(self) -> None:
        if (
            self.rate < 1
            or not 1 <= self.hop <= self.n_fft // 2
            or self.scale <= 0
            or not 0 < self.power <= 1
        ):
            raise UserError(
                "a spectrogram needs rate >= 1, 1 <= hop <= n_fft / 2, scale > 0 and 0 < power <= 1, got "
                f"{self.rate}, {self.hop}, {self.n_fft}, {self.scale:g} and {self.power:g}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Spectrogram:
        """From plain values, those not given as SGMSE+ has them at 16 kHz."""
        names = {field.name: int if field.type == "int" else float for field in fields(cls)}
        given: dict[str, Any] = {}
        for name, value in (values or {}).items():
            if name not in names:
                raise unknown("key of a spectrogram", str(name), names)
            try:
                given[name] = names[name](value)
            except (TypeError, ValueError, OverflowError) as error:
                raise UserError(f"a spectrogram's {name} is a number, got {value!r}") from error
        return cls(**given)

    @property
    def bins(self) -> int:
        """Frequencies, from 0 to half the sampling rate."""
        return self.n_fft // 2 + 1

    @property
    def shortest(self) -> int:
        """Samples; the ends are padded by reflection, which needs more than half a window."""
        return self.n_fft

    def frames_of(self, samples: int) -> int:
        """Frames of a recording of `samples` samples, its end padded to a whole hop."""
        return 1 + -(-samples // self.hop)

    def samples_of(self, frames: int) -> int:
        """Samples of a spectrogram of `frames` frames."""
        return (frames - 1) * self.hop

    def encode(self, wave: Float[Tensor, "... n"]) -> Float[Tensor, "... 2 bins frames"]:
        """`frames_of(n)` frames of a wave of n >= shortest samples, zeros after its end."""
        wave = F.pad(wave, (0, -wave.shape[-1] % self.hop))
        flat = wave.reshape(-1, wave.shape[-1])
        hann = window(flat.device, self.n_fft)
        spectrum = torch.stft(flat, self.n_fft, self.hop, window=hann, return_complex=True)
        # |X|^(p - 1) X; the clamp matters in digital silence alone, where X is 0.
        squeezed = spectrum * (self.scale * spectrum.abs().clamp_min(1e-9) ** (self.power - 1.0))
        parts = torch.stack((squeezed.real, squeezed.imag), dim=1)
        return parts.reshape(*wave.shape[:-1], *parts.shape[1:])

    def decode(self, state: Tensor, mask: Bool[Tensor, "b 1 1 t"] | None = None) -> Float[Tensor, "b n"]:
        """The least-squares inverse of `encode` (Griffin and Lim 1984, eq. 6), differentiable.

        Args:
            state: [b 2 bins t].
            mask: True where a frame is real; the first frames are. Padding takes no part.

        Returns:
            (t - 1) hop samples, zero beyond `samples_of` of each recording's own frames.

        Raises:
            UserError: a state of another transform.
        """
        if state.ndim != 4 or state.shape[1:3] != (2, self.bins):
            raise UserError(
                f"a spectrogram of n_fft={self.n_fft} is (count, 2, {self.bins}, frames), got {tuple(state.shape)}; "
                "give the settings that the teacher was trained with (spectrogram={n_fft: ..., hop: ..., ...})"
            )
        b, _, _, t = state.shape
        state = state.float()
        magnitude = state.square().sum(1, keepdim=True)
        # z |z|^(1/p - 1), with the gradient of |z| kept finite at 0
        spread = (
            state
            * (magnitude + 1e-12) ** (0.5 * (1.0 / self.power - 1.0))
            * self.scale ** (-1.0 / self.power)
        )
        spectrum = torch.complex(spread[:, 0], spread[:, 1])
        hann = window(state.device, self.n_fft).unsqueeze(1)
        pieces = torch.fft.irfft(spectrum, n=self.n_fft, dim=1) * hann  # Float[b n_fft t]
        weights = hann.square().expand(b, self.n_fft, t)
        if mask is not None:
            real = mask.reshape(b, 1, t)
            pieces, weights = pieces * real, weights * real
        wave = self._overlap_add(pieces) / self._overlap_add(weights).clamp_min(1e-8)
        if mask is not None:
            length = (mask.reshape(b, t).sum(1) - 1) * self.hop
            wave = wave * (torch.arange(wave.shape[1], device=wave.device) < length.unsqueeze(1))
        return wave

    def _overlap_add(self, pieces: Float[Tensor, "b n_fft t"]) -> Float[Tensor, "b n"]:
        """(t - 1) hop samples, without the half windows beyond both ends."""
        frames, half = pieces.shape[-1], self.n_fft // 2
        total = self.n_fft + (frames - 1) * self.hop
        added = F.fold(pieces, (1, total), (1, self.n_fft), stride=(1, self.hop))[:, 0, 0]
        return added[:, half : half + self.samples_of(frames)]


SGMSE = Spectrogram()
"""Of SGMSE+ at 16 kHz."""


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too
def window(device: torch.device, n_fft: int) -> Float[Tensor, "{n_fft}"]:
    """The periodic Hann window."""
    return torch.hann_window(n_fft, device=device)
