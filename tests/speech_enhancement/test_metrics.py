"""Each metric against a formula, a package or a case with a known answer."""

import pytest
import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.speech.enhancement import metrics
from omnidistill.random import generator


def spoilt(wave: Tensor, share: float, seed: int = 0) -> Tensor:
    return wave + share * wave.std() * torch.randn(wave.shape, generator=generator(seed))


def test_si_sdr_is_torchmetrics(voices: list[Tensor]) -> None:
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as theirs

    for share in (0.03, 0.3, 3.0):
        x = spoilt(voices[0], share) + 0.01
        assert float(metrics.si_sdr(x, voices[0])) == pytest.approx(
            float(theirs(x, voices[0], zero_mean=True)), abs=1e-2
        )


def test_si_sdr_of_noise_at_right_angles_is_its_level_and_ignores_loudness() -> None:
    time = torch.arange(16000) / 16000
    clean, noise = torch.sin(2 * torch.pi * 100 * time), torch.cos(2 * torch.pi * 100 * time)
    for gain in (1.0, 0.1):
        assert float(metrics.si_sdr(gain * (clean + 0.1 * noise), clean)) == pytest.approx(20.0, abs=1e-2)


def test_everything_is_best_for_the_clean_recordings_and_falls_with_noise(voices: list[Tensor]) -> None:
    figures = [
        metrics.evaluate([spoilt(w, share, i) for i, w in enumerate(voices)], voices, opinion=False)
        for share in (0.0, 0.1, 0.5)
    ]
    judged = [("frechet", -1), ("si_sdr", 1), ("estoi", 1)] + [("pesq", 1)] * metrics.installed("pesq")
    for name, better in judged:
        values = [better * one[name] for one in figures]
        assert values[0] > values[1] > values[2], name
    assert figures[0]["frechet"] == pytest.approx(0.0, abs=1e-6) and figures[0]["si_sdr"] > 60


def test_the_frechet_distance_sees_smoothing_that_si_sdr_does_not_mind(voices: list[Tensor]) -> None:
    """A dull copy loses a little energy and much texture; noise of the same SI-SDR is worse to neither."""
    blurred = [torch.nn.functional.avg_pool1d(w[None], 5, 1, 2)[0] for w in voices]
    figures = metrics.evaluate(blurred, voices, opinion=False)
    assert figures["si_sdr"] > 5.0 and figures["frechet"] > 1.0


def test_loudness_does_not_matter(voices: list[Tensor]) -> None:
    noisy = [spoilt(w, 0.3, i) for i, w in enumerate(voices)]
    a, b = (metrics.evaluate([gain * w for w in noisy], voices, opinion=False) for gain in (1.0, 0.5))
    for name in ("frechet", "si_sdr", "estoi"):
        assert a[name] == pytest.approx(b[name], rel=1e-3), name


@pytest.mark.skipif(not metrics.installed("pesq"), reason="pesq is not installed")
def test_a_recording_without_speech_fails_alone(voices: list[Tensor]) -> None:
    silence, noise = torch.zeros(16000), spoilt(voices[0], 0.2)[:16000]
    estimates = [spoilt(w, 0.2) for w in voices]
    whole = metrics.evaluate(estimates, voices, opinion=False)
    for estimate, clean in ((noise, silence), (silence, voices[0][:16000]), (noise[:3000], voices[0][:3000])):
        figures = metrics.evaluate([*estimates, estimate], [*voices, clean], opinion=False)
        assert figures["pesq_failed"] == 1.0 and figures["pesq"] == pytest.approx(whole["pesq"])


def test_nan_is_refused(voices: list[Tensor]) -> None:
    with pytest.raises(UserError, match="1 of 6"):
        metrics.evaluate([voices[0] * float("nan"), *voices[1:]], voices, opinion=False)


@pytest.mark.slow  # librosa and numba take their time to load
@pytest.mark.skipif(not metrics.installed("speechmos"), reason="speechmos is not installed")
def test_dnsmos_hears_noise_and_takes_waves_beyond_1(voices: list[Tensor]) -> None:
    clean, noisy = (metrics.dnsmos(w) for w in (2.0 * voices[0], spoilt(voices[0], 2.0)))
    assert 1.0 <= noisy["dnsmos_bak"] < clean["dnsmos_bak"] <= 5.0


def test_resamples_are_the_distance_of_the_drawn_pairs(voices: list[Tensor]) -> None:
    noisy = [spoilt(w, 0.2, i) for i, w in enumerate(voices)]
    counts = torch.ones(2, len(voices), dtype=torch.long)
    counts[1, 0], counts[1, 1] = 2, 0
    rows = torch.repeat_interleave(torch.arange(len(voices)), counts[1]).tolist()
    found = metrics.bootstrap(noisy, voices, counts)
    for value, chosen in zip(found.tolist(), (range(len(voices)), rows), strict=True):
        pair = ([waves[i] for i in chosen] for waves in (noisy, voices))
        assert value == pytest.approx(metrics.evaluate(*pair, opinion=False)["frechet"], rel=1e-5, abs=1e-6)
