"""The example teacher of the SGMSE kind: its convention of complex noise, read rightly."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.random import generator

EXAMPLE = Path(__file__).parents[2] / "docs" / "teachers" / "sgmse.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sgmse_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Exact(nn.Module):
    """`-score` of `N(mean, std^2)` for x0 = y / 2 from SGMSE's own equations (Richter et al. 2023, 8 and 9), with
    complex noise of variance std^2 in both parts together."""

    def forward(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        theta, low, high = 1.5, 0.05, 0.5
        log_k, t = math.log(high / low), t.double().reshape(-1, 1, 1, 1)
        decay = torch.exp(-theta * t)
        variance = low**2 * ((high / low) ** (2 * t) - decay**2) * log_k / (theta + log_k)
        mean = decay * 0.5 * y + (1 - decay) * y
        return ((x - mean) / variance).to(x.dtype)


def complex_state(seed: int) -> Tensor:
    parts = 0.1 * torch.randn(3, 2, 16, 8, generator=generator(seed))
    return parts


def test_the_belief_of_an_exact_network_is_the_clean_spectrogram(example: ModuleType) -> None:
    y = complex_state(0)
    denoiser, context = example.teacher(Exact()), Context(anchor=y)
    for t in (0.05, 0.5, 1.0):
        x = denoiser.path.corrupt(0.5 * y, t, context, g=generator(1))
        times = torch.full((3,), t, dtype=torch.float64)
        # The score of one sample, -z / sigma, is what the network answers; so x0 comes out exactly.
        torch.testing.assert_close(denoiser(x, times, context).parameters, 0.5 * y, atol=2e-4, rtol=0)


def test_the_noise_is_that_of_the_process(example: ModuleType) -> None:
    """Both parts together have SGMSE's variance; std(1) is 0.389 by its equation 9."""
    path, like = example.path(), torch.zeros(4, 2, 64, 64)
    x = path.corrupt(like, 1.0, Context(anchor=like), g=generator(0))
    assert float(x.square().sum(1).mean().sqrt()) == pytest.approx(0.389, rel=0.02)


def test_without_the_two_scales_the_belief_is_wrong(example: ModuleType) -> None:
    """What the example's docstring warns of: read with the numbers as they are, the same network answers noise."""
    from omnidistill.denoisers import NetworkDenoiser
    from omnidistill.paths import ouve

    y = complex_state(0)
    context = Context(anchor=y)
    naive = NetworkDenoiser(example.Sgmse(Exact()), ouve(), "score")
    x = naive.path.corrupt(0.5 * y, 0.5, context, g=generator(1))
    half = torch.full((3,), 0.5, dtype=torch.float64)
    assert not torch.allclose(naive(x, half, context).parameters, 0.5 * y, atol=0.05)
