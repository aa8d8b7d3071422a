"""Distances between samples against scipy, closed forms and their own definition."""

import math

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.evaluation.distances import frechet_distance, resampled_frechet, sliced_wasserstein
from omnidistill.evaluation.energy import energy_distance
from omnidistill.evaluation.gap import gap_closed
from omnidistill.random import generator


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


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


# --- the Fréchet distance and its resamples ---------------------------------------------------------------------


def test_resampled_moments_are_those_of_the_rows_that_were_drawn() -> None:
    a, b = draw(12, 3, seed=1), draw(20, 3, seed=2)
    counts = torch.stack((torch.ones(6), torch.tensor([0, 3, 1, 0, 2, 0.0]))).long()
    owner = torch.arange(6).repeat_interleave(2)  # two rows a sample
    rows = [torch.repeat_interleave(a.reshape(6, 2, 3), row, 0).flatten(0, 1) for row in counts]
    expected = [frechet_distance(part, b) for part in rows]
    assert resampled_frechet(a, b, counts, owner).tolist() == pytest.approx(expected, rel=1e-9)
    assert resampled_frechet(a, b[:12], counts, owner, owner).tolist() == pytest.approx(
        [
            frechet_distance(part, torch.repeat_interleave(b[:12].reshape(6, 2, 3), row, 0).flatten(0, 1))
            for part, row in zip(rows, counts, strict=True)
        ],
        rel=1e-9,
    )


def test_the_bias_of_the_frechet_distance_cancels_in_the_gap_closed() -> None:
    """Teacher at few steps N(3 1, I), student N(0.5 1, I), full teacher N(0, I), real N(0, I) in d = 48: true distances
    9 d, 0.25 d and 0, so that 97.2 % are closed. At n = 300 each distance alone reads too high by about d^2 / 2n."""
    d, n = 48, 300
    gaps, full = [], []
    for seed in range(12):
        real = draw(n, d, seed=1000 + seed)
        few, learned, best = (draw(n, d, seed=10 * seed + k) + s for k, s in enumerate((3.0, 0.5, 0.0)))
        figures = [frechet_distance(x, real) for x in (few, learned, best)]
        gaps.append(gap_closed("lower", *figures))
        full.append(figures[2])
    assert sum(full) / len(full) > 3.0, "the bias is there"
    assert sum(gaps) / len(gaps) == pytest.approx(100 * (1 - 0.25 / 9), abs=0.3)
