"""The example teacher of the Matcha kind: another clock, another layout, read rightly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.random import generator
from omnidistill.samplers import Euler

EXAMPLE = Path(__file__).parents[2] / "docs" / "teachers" / "matcha.py"
STD = 0.5


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("matcha_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Exact(nn.Module):
    """Matcha's own optimal velocity where data are N(mu, STD^2): E[x1 - (1 - s) z | x] at its time tau."""

    def forward(self, x: Tensor, mask: Tensor, mu: Tensor, tau: Tensor) -> Tensor:
        assert x.ndim == mu.ndim == 3 and mask.shape == (x.shape[0], 1, x.shape[2])
        tau = tau.reshape(-1, 1, 1)
        noise = 1 - (1 - 1e-4) * tau
        surprise = (x - tau * mu) / ((tau * STD) ** 2 + noise**2)
        data, z = mu + tau * STD**2 * surprise, noise * surprise
        return (data - (1 - 1e-4) * z) * mask


def state() -> tuple[Tensor, Context]:
    mu = torch.randn(4, 1, 80, 30, generator=generator(0))
    return mu + STD * torch.randn(mu.shape, generator=generator(1)), Context(anchor=mu)


def test_the_belief_is_the_posterior_mean(example: ModuleType) -> None:
    """Against Bayes' rule for two normals, at every time; near t = 0 the state itself."""
    x0, context = state()
    teacher = example.teacher(Exact())
    for t in (0.01, 0.3, 0.7, 1.0):
        x = teacher.path.corrupt(x0, t, context, g=generator(2))
        alpha, _, sigma = (float(c) for c in teacher.path.coefficients(t))
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        expected = context.anchor + gain * (x - alpha * context.anchor)
        times = torch.full((4,), t, dtype=torch.float64)
        torch.testing.assert_close(teacher(x, times, context).mean, expected, atol=2e-5, rtol=1e-4)


def test_sampling_arrives_at_the_data(example: ModuleType) -> None:
    """With the clock turned; without the turn of sign or time it does not."""
    _, context = state()
    mu = context.anchor

    def error(denoiser) -> float:
        made = Euler().sample(denoiser, mu, 64, context, g=generator(3)).x0
        return abs(float((made - mu).std()) - STD) + abs(float((made - mu).mean()))

    right = error(example.teacher(Exact()))
    assert right < 0.02

    class Unturned(example.Matcha):
        def forward(self, x, t, *, anchor, mask=None):
            real = torch.ones_like(x[:, 0, :1])
            return -self.decoder(x.squeeze(1), real, anchor.squeeze(1), t).unsqueeze(1)

    wrong = example.teacher(Exact())
    wrong.network = Unturned(Exact())
    assert error(wrong) > 3 * right


def test_the_mask_reaches_the_decoder(example: ModuleType) -> None:
    x0, context = state()
    mask = torch.ones(4, 1, 1, 30, dtype=torch.bool)
    mask[..., 20:] = False
    torch.manual_seed(0)
    teacher = example.teacher(example.Tiny())
    half = torch.full((4,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        ragged = Context(anchor=context.anchor, mask=mask)
        a = teacher(x0 * mask, half, ragged).mean
        cut = Context(anchor=context.anchor[..., :20], mask=mask[..., :20])
        b = teacher(x0[..., :20], half, cut).mean
    torch.testing.assert_close(a[..., :20], b)
    assert not a[..., 20:].any()
