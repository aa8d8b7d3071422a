"""Figures that need nobody's features, against what can be worked out by hand."""

import math

import pytest
import torch

from omnidistill.evaluation.plain import Plain, sliced, spectrum
from omnidistill.random import generator


def test_sliced_distance_of_a_shift_is_the_shift_along_the_directions():
    """W1 of points and the same points moved by v is |<v, direction>|; in one dimension it is |v|."""
    x = torch.randn(400, 1, generator=generator(0))
    assert sliced(x + 3.0, x) == pytest.approx(3.0, rel=1e-6)
    assert sliced(x, x) == 0.0
    flat = torch.randn(400, 50, generator=generator(1))
    moved = sliced(flat + 1.0, flat)  # E|<v, u>| of a unit u in d dimensions: |v| sqrt(2 / (pi d))
    assert moved == pytest.approx(math.sqrt(2 / math.pi), rel=0.15)


def test_spectrum_of_twice_the_amplitude_is_six_decibels():
    x = torch.randn(64, 3, 8, 8, generator=generator(0))
    assert spectrum(2.0 * x, x) == pytest.approx(20 * math.log10(2), rel=1e-6)
    assert spectrum(x + 5.0, x) == pytest.approx(0.0, abs=1e-4)  # a mean is no frequency


def test_variation_of_tokens():
    a, b = torch.tensor([[0, 1, 0, 1]]), torch.tensor([[2, 3, 2, 3]])
    assert Plain(a, a)(a) == {"bigram": 0.0, "unigram": 0.0}
    assert Plain(b, b)(a) == pytest.approx({"bigram": 1.0, "unigram": 1.0})
    turned = torch.tensor([[0, 0, 1, 1]])  # 00 01 11 against 01 10 01: they share a third
    found = Plain(a, a)(turned)
    assert found["unigram"] == 0.0 and found["bigram"] == pytest.approx(2 / 3)


def test_padding_counts_for_nothing():
    a = torch.tensor([[0, 1, 0, 1, 9, 9]])
    mask = torch.tensor([[True] * 4 + [False] * 2])
    assert Plain(a, a, mask)(a[:, :4]) == {"bigram": 0.0, "unigram": 0.0}
    x = torch.randn(20, 1, 4, 6, generator=generator(0))
    filled, known = x.clone(), torch.ones(20, 1, 1, 6, dtype=torch.bool)
    known[..., 4:] = False
    filled[..., 4:] = 100.0
    zeroed = x * known
    assert Plain(zeroed, zeroed)(filled, known) == Plain(zeroed, zeroed)(zeroed)


@pytest.mark.parametrize("tokens", [False, True])
def test_resamples_of_everything_once_are_the_figure_itself(tokens):
    g = generator(0)
    x, real = (torch.randn(30, 5, generator=g) for _ in range(2))
    if tokens:
        x, real = (v.abs().mul(2).long() for v in (x, real))
    plain = Plain(real, real)
    drawn = plain.resampled(x, torch.ones(1, 30, dtype=torch.long))
    assert float(drawn) == pytest.approx(plain(x)[plain.primary], abs=1e-9)


def test_what_is_wrong_shows():
    g = generator(0)
    real, good, bad = (
        torch.randn(200, 1, 8, 8, generator=g),
        torch.randn(200, 1, 8, 8, generator=g),
        torch.zeros(200, 1, 8, 8),
    )
    plain = Plain(real, real)
    near, far = plain(good), plain(bad)
    assert all(far[name] > 4 * abs(near[name]) for name in ("energy", "sliced", "spectrum"))
