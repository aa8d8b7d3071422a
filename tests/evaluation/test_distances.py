"""Distances between samples against scipy, closed forms and their own definition."""

import math

import pytest
import torch
from scipy import stats

from omnidistill.errors import UserError
from omnidistill.evaluation import distances
from omnidistill.evaluation.distances import energy_distance, sliced_wasserstein
from omnidistill.random import generator


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("n, m", [(50, 50), (30, 71)])
def test_energy_distance_in_one_dimension_is_scipys(n: int, m: int) -> None:
    x, y = draw(n, 1, seed=1), 0.3 + 1.4 * draw(m, 1, seed=2)
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(x[:, 0], y[:, 0]), abs=1e-7)


def test_energy_distance_of_two_points_is_sqrt_of_twice_their_distance() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
    assert energy_distance(x, y) == pytest.approx(math.sqrt(10.0), abs=1e-9)


def test_energy_distance_between_shifted_normals() -> None:
    """For N(0, 1) and N(a, 1), X - Y ~ N(a, 2): E|X - Y| = 2/sqrt(pi) exp(-a^2/4) + a erf(a/2)."""
    n, a = 20000, 0.7
    # Quantiles instead of draws: the sum over pairs becomes a quadrature.
    q = torch.special.ndtri((torch.arange(n // 10, dtype=torch.float64) + 0.5) / (n // 10)).unsqueeze(1)
    cross = 2 / math.sqrt(math.pi) * math.exp(-a * a / 4) + a * math.erf(a / 2)
    expected = math.sqrt(2 * cross - 4 / math.sqrt(math.pi))
    assert energy_distance(q, q + a) == pytest.approx(expected, rel=1e-3)


def test_energy_distance_by_its_definition_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(40, 3, seed=3), draw(25, 3, seed=4) + 100.0
    whole = energy_distance(x - 100.0, y - 100.0)
    monkeypatch.setattr(distances, "CHUNK", 64)  # parts of two or three rows, and a last one that is shorter

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float((p - q).norm()) for p in a for q in b) / (len(a) * len(b))

    expected = math.sqrt(2 * mean(x, y) - mean(x, x) - mean(y, y))
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert energy_distance(x, y) == pytest.approx(whole, rel=1e-9)


def test_energy_distance_is_zero_for_the_same_points_and_sees_spread() -> None:
    x = draw(300, 2)
    assert energy_distance(x, x[torch.randperm(300, generator=generator(5))]) < 1e-6
    assert energy_distance(x, 0.2 * x) > 0.3, "same mean, other spread"


@pytest.mark.parametrize("n, m", [(60, 60), (24, 60), (7, 5)])
def test_sliced_wasserstein_in_one_dimension_is_quadratic_optimal_transport(n: int, m: int) -> None:
    x, y = draw(n, 1, seed=6), 2.0 + 0.5 * draw(m, 1, seed=7)
    # With every point copied to n m points, optimal transport pairs sorted points.
    first, second = (v.repeat_interleave(k, 0).sort(0).values for v, k in ((x, m), (y, n)))
    expected = float((first - second).square().mean().sqrt())
    assert sliced_wasserstein(x, y, generator(0)) == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_of_a_shift_is_the_shift_over_root_d() -> None:
    x = draw(50, 6)
    shift = torch.tensor([3.0, 0, 4.0, 0, 0, 0], dtype=torch.float64)
    assert sliced_wasserstein(x, x + shift, generator(0), 20000) == pytest.approx(5 / math.sqrt(6), rel=0.03)


def test_sliced_wasserstein_repeats_with_its_generator() -> None:
    x, y = draw(50, 3, seed=1), draw(50, 3, seed=2)
    assert sliced_wasserstein(x, y, generator(1)) == sliced_wasserstein(x, y, generator(1))
    assert sliced_wasserstein(x, y, generator(1)) != sliced_wasserstein(x, y, generator(2))


@pytest.mark.parametrize(
    "x, y",
    [
        (torch.zeros(3, 2), torch.zeros(3, 4)),
        (torch.zeros(0, 2), torch.zeros(3, 2)),
        (torch.full((3, 2), torch.nan), torch.zeros(3, 2)),
    ],
)
def test_bad_samples_are_refused_in_one_line(x: torch.Tensor, y: torch.Tensor) -> None:
    for distance in (energy_distance, lambda a, b: sliced_wasserstein(a, b, generator(0))):
        with pytest.raises(UserError, match=r"^cannot compare samples[^\n]*$"):
            distance(x, y)
