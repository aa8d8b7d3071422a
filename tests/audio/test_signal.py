"""Spectra against librosa and torchaudio, exact inversion, and signatures that refuse to be mixed up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.audio.signal import (
    MelSignature,
    griffin_lim,
    istft,
    log_mel,
    magnitudes,
    mel_filters,
    stft,
)
from omnidistill.modalities.audio.torchaudio_ import PlainLogMel, mel_transform, signature_of, torchaudio

SPEECH = MelSignature()
MUSIC = MelSignature(
    rate=16000, n_fft=512, win=400, hop=160, mels=64, fmin=20.0, fmax=8000.0, scale="htk", norm="none"
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chord(seconds: float, rate: int) -> torch.Tensor:
    time = torch.arange(int(seconds * rate)) / rate
    return sum(0.1 * torch.sin(2 * torch.pi * f * time) for f in (262.0, 330.0, 392.0, 1047.0))


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", "none"])
@pytest.mark.parametrize("signature", [SPEECH, MUSIC], ids=["speech", "music"])
def test_filters_are_librosas(signature, scale, norm):
    librosa = pytest.importorskip("librosa")
    s = replace(signature, scale=scale, norm=norm)
    expected = librosa.filters.mel(
        sr=s.rate, n_fft=s.n_fft, n_mels=s.mels, fmin=s.fmin, fmax=s.fmax, htk=scale == "htk",
        norm=None if norm == "none" else norm, dtype=np.float64,
    )  # fmt: skip
    torch.testing.assert_close(mel_filters(s).double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "signature", [SPEECH, MUSIC, replace(MUSIC, power=2.0)], ids=["speech", "music", "power"]
)
def test_log_mel_is_librosas(signature):
    librosa = pytest.importorskip("librosa")
    s, wave = signature, noise(9000)
    expected = librosa.feature.melspectrogram(
        y=wave.numpy(), sr=s.rate, n_fft=s.n_fft, win_length=s.win, hop_length=s.hop, n_mels=s.mels, fmin=s.fmin,
        fmax=s.fmax, htk=s.scale == "htk", norm=None if s.norm == "none" else s.norm, power=s.power,
        center=True, pad_mode="reflect",
    )  # fmt: skip
    expected = np.log(np.maximum(expected, s.floor))
    found = log_mel(wave, s)
    assert found.shape == expected.shape == (s.mels, s.frames(9000))
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_log_mel_is_torchaudios(scale):
    module = torchaudio()
    if module is None:
        pytest.skip("torchaudio does not import here")
    s, wave = replace(MUSIC, scale=scale), noise(2, 9000)
    torch.testing.assert_close(mel_transform(s)(wave), log_mel(wave, s), atol=2e-4, rtol=1e-4)
    assert signature_of(mel_transform(s).mel, floor=s.floor) == s


def test_without_torchaudio_the_plain_transform_serves(monkeypatch):
    import builtins

    real = builtins.__import__

    def broken(name, *rest, **more):
        if name.startswith("torchaudio"):
            raise OSError("libtorch_cuda.so: cannot open shared object file")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", broken)
    transform, wave = mel_transform(MUSIC), noise(4000)
    assert isinstance(transform, PlainLogMel)
    assert torch.equal(transform(wave), log_mel(wave, MUSIC))


def test_hifigans_framing_pads_less_and_gives_one_frame_less():
    """Kong et al. 2020: reflect (n_fft - hop)/2, then an uncentred transform."""
    s, wave = replace(SPEECH, center=False), noise(4096)
    by_hand = torch.stft(
        torch.nn.functional.pad(wave[None], (384, 384), mode="reflect")[0], 1024, 256, 1024,
        torch.hann_window(1024), center=False, return_complex=True,
    ).abs()  # fmt: skip
    torch.testing.assert_close(log_mel(wave, s), (mel_filters(s) @ by_hand).clamp(min=1e-5).log())
    assert by_hand.shape[-1] == s.frames(4096) == 16
    assert SPEECH.frames(4096) == 17
    assert s.samples(16) == SPEECH.samples(17) == 4096


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("n_fft", "hop", "win"), [(510, 128, None), (1024, 256, 1024), (512, 160, 400)])
def test_istft_inverts_stft(n_fft, hop, win, center):
    wave = noise(2, 3, 5 * n_fft + 37).double()
    spectrum = stft(wave, n_fft, hop, win, center)
    assert spectrum.shape[:3] == (2, 3, n_fft // 2 + 1)
    back = istft(spectrum, n_fft, hop, win, center, length=wave.shape[-1])
    # Past the last frame's centre there is no window left that reaches.
    reached = istft(spectrum, n_fft, hop, win, center).shape[-1]
    assert reached > wave.shape[-1] - hop
    torch.testing.assert_close(back[..., :reached], wave[..., :reached], atol=1e-12, rtol=0)
    assert back.shape == wave.shape


def test_transforms_treat_recordings_of_a_batch_alike_and_pass_gradients():
    waves = noise(4, 6000).requires_grad_()
    together, alone = log_mel(waves, MUSIC), log_mel(waves[2], MUSIC)
    torch.testing.assert_close(together[2], alone, atol=1e-5, rtol=1e-5)
    alone.sum().backward()
    assert waves.grad[2].abs().sum() > 0 and waves.grad[:2].abs().sum() == 0
    assert log_mel(torch.zeros(6000), MUSIC).unique().tolist() == pytest.approx([np.log(1e-5)])


def test_too_short_a_wave_is_refused():
    with pytest.raises(UserError, match="512 samples are too few for n_fft=1024; at least 513"):
        log_mel(noise(512), SPEECH)


def test_magnitudes_have_the_mel_they_came_from():
    mel = log_mel(chord(0.5, 16000) + noise(8000), MUSIC)
    found = magnitudes(mel, MUSIC)
    assert (found >= 0).all()
    error = (mel_filters(MUSIC) @ found).clamp(min=MUSIC.floor).log() - mel
    assert error.abs().mean() < 0.02


def test_griffin_lim_gives_a_wave_with_that_mel_and_needs_its_iterations():
    wave = chord(1.0, 16000) + noise(16000)
    mel = log_mel(wave, MUSIC)

    def distance(iterations: int) -> float:
        found = griffin_lim(mel, MUSIC, iterations, g=torch.Generator().manual_seed(1))
        assert found.shape == (MUSIC.samples(mel.shape[-1]),)
        return float((log_mel(found, MUSIC) - mel).abs().mean())

    good, bad = distance(60), distance(0)
    assert good < 0.15 < 0.5 < bad
    one, two = (griffin_lim(mel, MUSIC, 3, g=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)


def test_signatures_travel_and_name_what_differs():
    assert MelSignature.of(MUSIC.as_dict()) == MUSIC
    MUSIC.require(MelSignature.of(MUSIC.as_dict()))
    # The pair of F5-TTS: the same rate, bands and hop, yet no vocoder of one speaks the other's mels.
    vocos = MelSignature(rate=24000, mels=100, fmax=12000.0, scale="htk", norm="none")
    bigvgan = MelSignature(rate=24000, mels=100, fmax=12000.0, center=False)
    with pytest.raises(UserError) as error:
        vocos.require(bigvgan, "the student", "BigVGAN")
    message = str(error.value)
    assert "student" in message and "BigVGAN" in message and "\n" not in message
    for difference in ("scale htk / slaney", "norm none / slaney", "center True / False"):
        assert difference in message
    assert "hop" not in message
    with pytest.raises(UserError, match="missing or unknown: floor"):
        MelSignature.of({k: v for k, v in MUSIC.as_dict().items() if k != "floor"})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"scale": "mel"}, "mel scale"),
        ({"norm": "l2"}, "mel norm"),
        ({"log": "2"}, "logarithm"),
        ({"hop": 2048}, "hop <= win"),
        ({"fmax": 12000.0}, "rate / 2"),
        ({"floor": 0.0}, "positive"),
    ],
)
def test_impossible_signatures_are_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        replace(SPEECH, **wrong)
