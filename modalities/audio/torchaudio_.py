"""The only door to torchaudio, which is optional: its builds must match torch's, and some import only with a GPU.

Nothing here is needed by the project's own tasks. It serves those who bring a teacher trained on torchaudio's
features: `signature_of` reads the convention off their transform, and `mel_transform` gives a module with torchaudio
where it works and in plain torch where it does not, with the same answers.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.modalities.audio.signal import LOGS, MelSignature, log_mel


def torchaudio() -> ModuleType | None:
    """The package, or None where it is absent or does not fit this torch."""
    try:
        import torchaudio as module
        import torchaudio.transforms
    except (ImportError, OSError):  # OSError: its libraries want another torch, or CUDA's
        return None
    return module


def signature_of(transform: Any, log: str = "e", floor: float = 1e-5) -> MelSignature:
    """The signature of a `torchaudio.transforms.MelSpectrogram`; logarithm and floor are applied outside of it.

    Raises:
        UserError: the transform does what no signature says (padding, another window, frames not centred).
    """
    spectrogram = transform.spectrogram
    periodic_hann = torch.hann_window(transform.win_length)
    window = spectrogram.window.detach().cpu()
    if transform.pad or not spectrogram.center or not torch.allclose(window, periodic_hann, atol=1e-6):
        raise UserError("a mel signature needs a MelSpectrogram with pad=0, center=True and the Hann window")
    if spectrogram.normalized or spectrogram.power is None:
        raise UserError("a mel signature needs a MelSpectrogram with normalized=False and a power")
    return MelSignature(
        rate=transform.sample_rate,
        n_fft=transform.n_fft,
        win=transform.win_length,
        hop=transform.hop_length,
        mels=transform.n_mels,
        fmin=float(transform.f_min),
        fmax=float(transform.f_max or transform.sample_rate / 2),
        scale=transform.mel_scale.mel_scale,
        norm=transform.mel_scale.norm or "none",
        power=float(spectrogram.power),
        log=log,
        floor=floor,
    )


def mel_transform(signature: MelSignature) -> nn.Module:
    """A module from waves [... n] to log-mels [... mels frames], by torchaudio where it can be used."""
    module = torchaudio()
    return (
        PlainLogMel(signature)
        if module is None or not signature.center
        else TorchaudioLogMel(signature, module)
    )


class PlainLogMel(nn.Module):
    """`log_mel` as a module."""

    def __init__(self, signature: MelSignature) -> None:
        super().__init__()
        self.signature = signature

    def forward(self, wave: Tensor) -> Tensor:
        return log_mel(wave, self.signature)


class TorchaudioLogMel(nn.Module):
    """torchaudio's `MelSpectrogram`, then the signature's floor and logarithm."""

    def __init__(self, signature: MelSignature, module: ModuleType) -> None:
        super().__init__()
        s = self.signature = signature
        self.mel = module.transforms.MelSpectrogram(
            sample_rate=s.rate, n_fft=s.n_fft, win_length=s.win, hop_length=s.hop, f_min=s.fmin, f_max=s.fmax,
            n_mels=s.mels, power=s.power, norm=None if s.norm == "none" else s.norm, mel_scale=s.scale,
        )  # fmt: skip

    def forward(self, wave: Tensor) -> Tensor:
        return self.mel(wave).clamp(min=self.signature.floor).log() / LOGS[self.signature.log]
