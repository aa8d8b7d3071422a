"""Paths made of a table of levels: at its places, between them, at its end, and what is no table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.testing import check_path

F64 = torch.float64
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=F64)


def zero_terminal(levels: torch.Tensor) -> torch.Tensor:
    """Lin et al. 2023, alg. 1."""
    root = levels.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


LINEAR = (1.0 - BETAS).cumprod(0)
TABLES = {
    "linear": LINEAR,
    "zero": zero_terminal(LINEAR),
    "short": torch.tensor([0.9, 0.5, 0.45, 0.1, 0.0]),
    "steep": torch.cos(torch.linspace(0.02, 1.5, 50, dtype=F64)) ** 6,
}


@pytest.fixture(params=TABLES)
def table(request) -> torch.Tensor:
    return TABLES[request.param].double()


def test_it_is_the_table_at_its_places_and_falls_between_them(table) -> None:
    path = paths.discrete(table)
    k = torch.arange(len(table), dtype=F64)
    torch.testing.assert_close(path.index(path.time(k)), k)
    alpha, _, sigma = path.coefficients(path.time(k))
    torch.testing.assert_close(alpha**2, table, rtol=0, atol=1e-12)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert float(path.coefficients(1.0).alpha) == float(table[-1].sqrt())
    assert [float(c) for c in path.coefficients(0.0)] == [1.0, 0.0, 0.0]
    t = torch.linspace(0.0, 1.0, 20 * len(table) + 1, dtype=F64)
    alpha = path.coefficients(t).alpha
    assert (alpha[1:] <= alpha[:-1]).all() and alpha.min() >= 0.0


def test_rates_are_those_of_the_curve(table) -> None:
    path, h = paths.discrete(table), 1e-7
    t = torch.rand(200, generator=generator("table"), dtype=F64) * 0.98 + 0.01
    for i in (0, 2):
        slope = (path.coefficients(t + h)[i] - path.coefficients(t - h)[i]) / (2 * h)
        torch.testing.assert_close(path.rates(t)[i], slope, rtol=1e-4, atol=1e-5)
    joints = path.time(torch.arange(len(table) - 1, dtype=F64))
    either = path.rates(joints + 1e-12), path.rates(joints - 1e-12)
    torch.testing.assert_close(either[0].alpha, either[1].alpha, rtol=1e-6, atol=1e-6)
    level = path.noise_level(t)
    torch.testing.assert_close(path.noise_level(path.time_from_noise_level(level)), level, rtol=1e-6, atol=0)


def test_a_smooth_schedule_comes_back_from_its_table() -> None:
    whole = paths.vp_linear()
    t = torch.linspace(0.0, 1.0, 1001, dtype=F64)[1:]
    path = paths.discrete(whole.coefficients(t).alpha ** 2)
    between = torch.linspace(0.0123, 0.9987, 777, dtype=F64)
    for found, wanted in zip(path.coefficients(between), whole.coefficients(between), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)
    for found, wanted in zip(path.rates(between), whole.rates(between), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["linear", "zero", "steep"])
def test_it_conforms(name: str) -> None:
    check_path(paths.discrete(TABLES[name]), torch.randn(3, 6, 2, generator=generator("conforms")))


def test_where_no_signal_is_left_v_is_asked_and_eps_is_not() -> None:
    class Net(nn.Module):
        def forward(self, x, t):
            self.seen = t
            return 0.5 * x

    path, x = paths.discrete(TABLES["zero"]), torch.randn(4, 3, generator=generator("end"))
    denoiser = NetworkDenoiser(Net(), path, "v", time_input="index")
    torch.testing.assert_close(denoiser(x, 1.0).mean, -0.5 * x)  # v = alpha eps - sigma x0 = -x0
    assert float(denoiser.network.seen[0]) == 999.0
    with pytest.raises(UserError, match="singular"):
        NetworkDenoiser(Net(), path, "eps")(x, 1.0)
    assert torch.equal(path.prior(x, g=generator(0)), torch.randn(4, 3, generator=generator(0)))
    with pytest.raises(UserError, match=r"needs a path made of a table, paths.discrete"):
        NetworkDenoiser(Net(), paths.vp_linear(), "v", time_input="index")


@pytest.mark.parametrize(
    "wrong",
    [[0.5], [[0.9, 0.5]], [0.5, 0.9], [1.0, 0.5], [0.9, 0.9, 0.1], [0.9, -0.1], [0.9, float("nan"), 0.1]],
)
def test_what_is_no_table_is_refused_in_one_line(wrong: list) -> None:
    with pytest.raises(UserError, match="alphas_cumprod") as error:
        paths.discrete(wrong)
    assert "\n" not in str(error.value)
