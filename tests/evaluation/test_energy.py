"""The energy distance without bias: scipy and closed forms, what it costs a gap to be biased, and its resamples."""

import math

import pytest
import torch
from scipy import stats

from omnidistill.evaluation import energy
from omnidistill.evaluation.energy import Energy, energy_distance
from omnidistill.evaluation.gap import gap_closed
from omnidistill.evaluation.intervals import draw, interval
from omnidistill.exact import GaussianMixtureTask
from omnidistill.random import generator


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def mean(a: torch.Tensor, b: torch.Tensor) -> float:
    return sum(float((p - q).norm()) for p in a for q in b) / (len(a) * len(b))


@pytest.mark.parametrize("n, m", [(50, 50), (30, 71)])
def test_in_one_dimension_it_is_scipys_without_the_pairs_of_a_point_and_itself(n: int, m: int) -> None:
    x, y = normal(n, 1, seed=1), 0.3 + 1.4 * normal(m, 1, seed=2)
    whole = stats.energy_distance(x[:, 0], y[:, 0]) ** 2  # the V-statistic
    square = whole - mean(x, x) / (n - 1) - mean(y, y) / (m - 1)
    assert energy_distance(x, y) == pytest.approx(math.copysign(abs(square) ** 0.5, square), abs=1e-7)


def test_of_two_points_it_is_sqrt_of_twice_their_distance() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
    assert energy_distance(x, y) == pytest.approx(math.sqrt(10.0), abs=1e-9)


def test_between_shifted_normals() -> None:
    """For N(0, 1) and N(a, 1), X - Y ~ N(a, 2): E|X - Y| = 2/sqrt(pi) exp(-a^2/4) + a erf(a/2)."""
    n, a = 4000, 0.7
    # Quantiles instead of draws: the sum over pairs becomes a quadrature.
    q = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1)
    cross = 2 / math.sqrt(math.pi) * math.exp(-a * a / 4) + a * math.erf(a / 2)
    expected = math.sqrt(2 * cross - 4 / math.sqrt(math.pi))
    assert energy_distance(q, q + a) == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("paired", [False, True])
def test_by_its_definition_in_chunks(monkeypatch: pytest.MonkeyPatch, paired: bool) -> None:
    n = 30
    x, y = normal(n, 3, seed=3), normal(n, 3, seed=4) + 100.0
    whole = energy_distance(x - 100.0, y - 100.0, paired=paired)
    monkeypatch.setattr(energy, "CHUNK", 64)  # parts of two rows
    own = (mean(x, x) + mean(y, y)) * n / (n - 1)
    cross = mean(x, y)
    if paired:
        cross = (n * n * cross - float((x - y).norm(dim=1).sum())) / (n * (n - 1))
    expected = math.sqrt(2 * cross - own)
    assert energy_distance(x, y, paired=paired) == pytest.approx(expected, rel=1e-9)
    assert energy_distance(x, y, paired=paired) == pytest.approx(whole, rel=1e-9)


def test_it_sees_spread_and_scatters_about_zero_for_one_law() -> None:
    x = normal(300, 2)
    assert energy_distance(x, 0.2 * x) > 0.3, "same mean, other spread"
    same = torch.tensor(
        [energy_distance(normal(60, 2, seed=i), normal(60, 2, seed=1000 + i)) for i in range(80)]
    )
    assert 0.3 < (same < 0).double().mean() < 0.7
    square = same.sign() * same.square()
    assert square.mean().abs() < 3 * square.std() / math.sqrt(len(same))


def test_pairs_that_share_a_label_or_an_anchor_bring_no_bias() -> None:
    """x_i and y_i lie close together about one anchor: as independent points they would read as too near."""
    found = []
    for seed in range(60):
        anchor = normal(40, 1, seed=seed)
        x, y = (torch.cat((anchor, 0.1 * normal(40, 1, seed=1000 + 2 * seed + k)), 1) for k in (0, 1))
        found.append([energy_distance(x, y, paired=paired) for paired in (True, False)])
    square = torch.tensor(found).square() * torch.tensor(found).sign()
    centre, error = square.mean(0), square.std(0) / math.sqrt(len(square))
    assert centre[0].abs() < 3 * error[0]
    assert centre[1] < -5 * error[1], "what the option is for"


@pytest.mark.parametrize(("samples", "repeats", "within"), [(256, 60, 5.0), (1000, 16, 3.0), (4096, 2, 6.0)])
def test_a_student_of_90_percent_reads_90_percent_at_any_number_of_samples(
    samples: int, repeats: int, within: float
) -> None:
    """Shifts of 1.2, 0.1 and 0 for the teacher at few steps, the student and the full teacher: population distances
    0.895, 0.088 and 0 (20,000 samples), so that 90.2 % are closed."""
    task = GaussianMixtureTask()

    def shifted(key: str, shift: float) -> torch.Tensor:
        x0 = task.batch(samples, generator(key)).x0
        x0[:, 0] += shift
        return x0

    def biased(x: torch.Tensor, y: torch.Tensor) -> float:
        inside = sum(float(torch.cdist(p, p).mean()) for p in (x, y))
        return math.sqrt(2 * float(torch.cdist(x, y).mean()) - inside)

    gaps, former = [], []
    for repeat in range(repeats):
        to = Energy(shifted(f"real {repeat}", 0.0))
        models = [shifted(f"model {repeat} {shift}", shift) for shift in (1.2, 0.1, 0.0)]
        gaps.append(gap_closed("lower", *(to(x) for x in models)))
        former.append(gap_closed("lower", *(biased(x, to.given) for x in models)))
    assert sum(gaps) / repeats == pytest.approx(90.2, abs=within)
    if samples == 256:
        assert sum(former) / repeats > 90.2 + within, "the biased statistic does not see what is lacking"


def test_resamples_are_the_distance_of_the_drawn_points_without_a_point_and_itself() -> None:
    x, y = normal(9, 2, seed=1), normal(7, 2, seed=2) + 0.5
    counts = torch.stack((torch.ones(9), torch.tensor([0, 3, 1, 0, 2, 0, 1, 1, 1.0]))).long()
    found = Energy(y).resampled(x, counts)
    assert found[0] == pytest.approx(energy_distance(x, y), rel=1e-12)
    rows = torch.repeat_interleave(torch.arange(9), counts[1])
    pairs = [(i, j) for i in rows.tolist() for j in rows.tolist() if i != j]
    own = sum(float((x[i] - x[j]).norm()) for i, j in pairs) / len(pairs)
    square = 2 * mean(x[rows], y) - own - mean(y, y) * 7 / 6
    assert found[1] == pytest.approx(math.copysign(abs(square) ** 0.5, square), rel=1e-9)


def test_real_against_real_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = GaussianMixtureTask(), []
    inner = energy._total

    def counted(x, y, *rest, **options):
        asked.append(x is y and len(x))
        return inner(x, y, *rest, **options)

    monkeypatch.setattr(energy, "_total", counted)
    for key in ("a", "b", "c"):
        batch = task.batch(50, generator(key))
        task.measure(batch.x0, batch.context, generator("held out"))
    assert len(asked) == 3 * 2 + 1, "cross and within samples for each, within the real points once"


def test_the_interval_of_a_gap_holds_the_truth_as_often_as_it_says() -> None:
    found = []
    for repeat in range(40):
        real = Energy(normal(150, 2, seed=5 * repeat))
        models = [normal(150, 2, seed=5 * repeat + k) + s for k, s in ((1, 2.0), (2, 0.5), (3, 0.0))]
        few, learned, best = (real(x) for x in models)
        counts = draw(150, repeat, 100)
        of_few, of_learned, of_best = (real.resampled(x, counts) for x in models)
        ends = interval(
            gap_closed("lower", few, learned, best), 100 * (of_few - of_learned) / (of_few - of_best)
        )
        assert ends is not None
        found.append(ends)
    truth = 100 * (1 - TRUE[0.5] / TRUE[2.0])
    held = sum(low <= truth <= high for low, high in found)
    assert held >= 36
    assert sum(high - low for low, high in found) / len(found) < 60, "and says something"


TRUE = {
    shift: energy_distance(normal(3000, 2, seed=1), normal(3000, 2, seed=2) + torch.tensor([shift, shift]))
    for shift in (0.5, 2.0)
}
