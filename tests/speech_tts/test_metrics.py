"""Metrics against closed forms, and what they say of a blur."""

from __future__ import annotations

import math

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts import metrics


def speech(seed: int, count: int = 12, frames: int = 90) -> list[torch.Tensor]:
    """Mels with structure: a moving ridge and texture that depends on it."""
    g = torch.Generator().manual_seed(seed)
    bins = torch.arange(80.0)[:, None]
    made = []
    for _ in range(count):
        centre = 40 + 5 * torch.randn(1, frames, generator=g).cumsum(1).div(5).clamp(-6, 6)
        ridge = 2 * torch.exp(-(((bins - centre) / 8) ** 2))
        made.append(ridge + (0.2 + 0.3 * ridge) * torch.randn(80, frames, generator=g))
    return made


def blurred(mels: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.nn.functional.avg_pool2d(mel[None], 5, 1, 2)[0] for mel in mels]


def test_mel_cepstral_distance_is_the_difference_of_the_spectra_in_decibel():
    """A ripple of amplitude a in the log spectrum: rms a / sqrt(2), times 20 / ln 10. Loudness is not heard."""
    flat = torch.zeros(80, 7)
    wave = torch.cos(math.pi * 5 * (torch.arange(80.0) + 0.5) / 80)[:, None].expand(80, 7)
    expected = 20 / math.log(10) * 0.3 / math.sqrt(2)
    assert metrics.mel_cepstral_distance(flat + 0.3 * wave, flat) == pytest.approx(expected, rel=1e-6)
    assert metrics.mel_cepstral_distance(flat + 4.0, flat) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(UserError, match="frame by frame"):
        metrics.mel_cepstral_distance(flat, flat[:, 1:])


def test_the_distance_does_not_see_ripples_beyond_its_cepstra():
    fine = torch.cos(math.pi * 40 * (torch.arange(80.0) + 0.5) / 80)[:, None].expand(80, 3)
    assert metrics.mel_cepstral_distance(fine, torch.zeros(80, 3)) < 1e-4


def test_frechet_prefers_speech_to_its_blur_and_the_cepstra_do_not():
    """The reason for the primary metric: other speech is nearer in distribution, the blur nearer frame by frame."""
    train, real, other = speech(0, 40), speech(1, 40), speech(2, 40)
    space = metrics.patch_space(train)
    features = space(real)
    far, near = (metrics.frechet(mels, features, space) for mels in (blurred(real), other))
    assert far > 5 * near
    pairs = [(metrics.mel_cepstral_distance(m, r)) for m, r in zip(blurred(real), real, strict=True)]
    others = [(metrics.mel_cepstral_distance(m, r)) for m, r in zip(other, real, strict=True)]
    assert sum(pairs) < sum(others)
    assert metrics.texture(blurred(real), real) < 0.6 < 0.95 < metrics.texture(other, real) < 1.05


def test_the_patch_space_is_white_on_its_own_patches():
    mels = speech(0, 30)
    features = metrics.patch_space(mels, 16)(mels)
    assert features.shape[1] == 16
    torch.testing.assert_close(torch.cov(features.T), torch.eye(16, dtype=torch.float64), atol=1e-2, rtol=0)
    torch.testing.assert_close(features.mean(0), torch.zeros(16, dtype=torch.float64), atol=1e-6, rtol=0)


def test_patches_are_windows_of_real_frames():
    mel = torch.arange(80.0 * 14).reshape(80, 14)
    found = metrics.patches([mel, mel[:, :5]])
    assert found.shape == (2, 80 * metrics.PATCH), "14 frames have two windows of 8, 4 apart; 5 have none"
    assert torch.equal(found[1].reshape(80, 8), mel[:, 4:12])
    with pytest.raises(UserError, match="NaN"):
        metrics.patches([mel / 0.0 * 0.0])
    with pytest.raises(UserError, match="no mel"):
        metrics.patches([mel[:, :5]])


def test_resamples_are_the_distance_of_the_drawn_mels():
    real, made = speech(0), speech(1, count=5)
    made[2] = made[2][:, :30]  # of another length, and so with fewer patches
    made.append(made[0][:, : metrics.PATCH - 1])  # too short for any
    space = metrics.patch_space(real)
    features = space(real)
    counts = torch.tensor([[1, 1, 1, 1, 1, 1], [2, 0, 3, 0, 1, 0]])
    drawn = [made[i] for i in torch.repeat_interleave(torch.arange(6), counts[1])]
    found = metrics.bootstrap(made, features, space, counts)
    for value, mels in zip(found.tolist(), (made, drawn), strict=True):
        assert value == pytest.approx(metrics.frechet(mels, features, space), rel=1e-6)
