"""The compressed complex spectrogram: what it is, and that it can be undone, whatever the padding."""

import pytest
import torch

from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram

DEFAULT = Spectrogram()
N_FFT, HOP = DEFAULT.n_fft, DEFAULT.hop
encode, decode = DEFAULT.encode, DEFAULT.decode
frames_of, samples_of = DEFAULT.frames_of, DEFAULT.samples_of


def wave(n: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, n, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("n", [N_FFT, 4000, 4096, 8001])
def test_the_inverse_gives_the_wave_back(n: int) -> None:
    x = wave(n)
    z = encode(x)
    assert z.shape == (1, 2, 256, frames_of(n))
    back = decode(z)
    assert back.shape[1] == samples_of(frames_of(n)) >= n
    torch.testing.assert_close(back[:, :n], x, atol=1e-5, rtol=0)
    torch.testing.assert_close(back[:, n:], torch.zeros_like(back[:, n:]), atol=1e-5, rtol=0)


def test_magnitudes_are_square_roots_and_phases_are_kept() -> None:
    x = wave(4096)
    spectrum = torch.stft(x, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True)
    z = torch.complex(*encode(x).unbind(1))
    torch.testing.assert_close(z.abs(), 0.15 * spectrum.abs().sqrt())
    torch.testing.assert_close(z / z.abs(), spectrum / spectrum.abs(), atol=1e-4, rtol=0)


def test_a_louder_wave_has_the_root_of_it() -> None:
    torch.testing.assert_close(encode(4.0 * wave(4096)), 2.0 * encode(wave(4096)))


def test_silence_is_zero_and_has_a_gradient() -> None:
    z = encode(torch.zeros(1, 4096)).requires_grad_()
    assert not z.any()
    decode(z).square().sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_padding_changes_nothing() -> None:
    short, long = wave(3 * 1280, 1), wave(5 * 1280, 2)
    a, b = encode(short)[0], encode(long)[0]
    t = b.shape[-1]
    mask = torch.stack([torch.arange(t) < a.shape[-1], torch.ones(t, dtype=torch.bool)]).reshape(2, 1, 1, t)
    rubbish = torch.full((2, 256, t - a.shape[-1]), 7.0)
    both = decode(torch.stack((torch.cat((a, rubbish), -1), b)), mask)
    torch.testing.assert_close(both[0, : short.shape[1]], short[0], atol=1e-5, rtol=0)
    assert not both[0, short.shape[1] :].any()
    torch.testing.assert_close(both[1], decode(b[None])[0], atol=1e-6, rtol=0)
