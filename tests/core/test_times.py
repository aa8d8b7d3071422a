"""Distributions of training times: the law inside the span, and no mass piled at its ends."""

import pytest
import torch
from scipy import stats

from omnidistill import paths, times
from omnidistill.errors import UserError

COUNT = 20_000


def inside(t, path):
    assert t.dtype == torch.float64 and t.shape == (COUNT,)
    assert float(t.min()) > path.span[0] and float(t.max()) < path.span[1]  # a clamp would sit on an end


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.3, 0.9)])
def test_uniform(low, high, g):
    path = paths.vp_cosine()
    t = times.Uniform(low, high)(COUNT, path, g)
    inside(t, path)
    low, high = max(low, path.span[0]), min(high, path.span[1])
    assert stats.kstest(t.numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_shifted_times_are_uniform_before_the_shift(g):
    """And lie between the same ends as without it."""
    path, shift = paths.vp_cosine(), 5.0
    t = times.Uniform(0.1, 0.9, shift)(COUNT, path, g)
    assert 0.1 < float(t.min()) < 0.15 and 0.899 < float(t.max()) < 0.9
    before = t / (shift - (shift - 1.0) * t)
    low, high = (u / (shift - (shift - 1.0) * u) for u in (0.1, 0.9))
    assert stats.kstest(before.numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    with pytest.raises(UserError, match="shift=0"):
        times.Uniform(shift=0.0)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (3.0, 2.5), (-5.0, 2.0)])
def test_logit_normal_is_truncated(mean, std, g):
    path = paths.vp_cosine()
    t = times.LogitNormal(mean, std)(COUNT, path, g)
    inside(t, path)
    low, high = ((torch.logit(torch.tensor(path.span, dtype=torch.float64)) - mean) / std).tolist()
    assert stats.kstest(torch.logit(t).numpy(), stats.truncnorm(low, high, mean, std).cdf).pvalue > 1e-3


@pytest.mark.parametrize("mean, std", [(-1.2, 1.2), (3.0, 2.0), (-6.0, 2.0)])
def test_log_normal_noise_level_is_truncated(mean, std, g):
    path = paths.edm()
    t = times.LogNormalSigma(mean, std)(COUNT, path, g)
    inside(t, path)
    ends = torch.log(path.noise_level(torch.tensor(path.span, dtype=torch.float64)))
    low, high = ((ends - mean) / std).tolist()
    level = torch.log(path.noise_level(t)).numpy()
    assert stats.kstest(level, stats.truncnorm(low, high, mean, std).cdf).pvalue > 1e-3


def test_log_normal_noise_level_on_a_path_that_ends_in_pure_noise(g):
    path = paths.rectified_flow()  # its last noise level is infinite
    t = times.LogNormalSigma(0.0, 1.0)(COUNT, path, g)
    inside(t, path)
    low = float(torch.log(path.noise_level(path.span[0])))
    level = torch.log(path.noise_level(t)).numpy()
    assert stats.kstest(level, stats.truncnorm(low, float("inf"), 0.0, 1.0).cdf).pvalue > 1e-3


def test_mistakes_are_named():
    with pytest.raises(UserError, match="low < high"):
        times.Uniform(0.6, 0.4)
    with pytest.raises(UserError, match="needs a Gaussian path"):
        times.LogNormalSigma()(3, paths.MaskedPath(4), torch.Generator())


def test_times_that_miss_the_span_are_one_line():
    with pytest.raises(UserError, match=r"times from 0\.9995 to 1 lie outside the span"):
        times.Uniform(0.9995, 1.0)(4, paths.vp_cosine(), torch.Generator())


@pytest.mark.parametrize("make", [paths.edm, paths.vp_cosine, paths.rectified_flow])
def test_noise_levels_read_back_stay_in_the_span_to_the_last_bit(make):
    path = make()
    t = times.LogNormalSigma(-8.0, 6.0)(100_000, path, torch.Generator().manual_seed(0))
    assert float(t.min()) >= path.span[0] and float(t.max()) <= path.span[1]
