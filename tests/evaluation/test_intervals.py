"""Intervals by the bootstrap over samples, against closed forms."""

import math

import pytest
import torch

from omnidistill.context import Context
from omnidistill.evaluation.intervals import draw, interval, mean, width
from omnidistill.random import generator
from omnidistill.tasks import REMEASURED, Metric, Task


def test_resamples_have_as_many_samples_and_repeat() -> None:
    counts = draw(30, 4)
    assert counts.shape == (200, 30) and (counts.sum(1) == 30).all()
    assert torch.equal(counts, draw(30, 4)) and not torch.equal(counts, draw(30, 5))
    assert counts.double().var() == pytest.approx(1 - 1 / 30, rel=0.1), "multinomial"


def test_the_interval_of_a_mean_is_two_standard_errors() -> None:
    values = torch.randn(400, generator=generator(1), dtype=torch.float64)
    ends = interval(float(values.mean()), mean(values, draw(400, 0, 2000)))
    assert ends is not None
    assert width(ends) == pytest.approx(1.96 * float(values.std()) / 20, rel=0.06)
    assert ends[0] < float(values.mean()) < ends[1]


def test_weights_make_a_ratio_of_sums() -> None:
    values, weights = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0])
    assert mean(values, torch.tensor([[1, 1], [2, 0]]), weights).tolist() == pytest.approx([13 / 5, 1.0])


def test_a_bias_that_resampling_repeats_does_not_move_the_interval() -> None:
    drawn = torch.randn(200, generator=generator(2), dtype=torch.float64)
    ends, moved = interval(0.0, drawn - drawn.mean()), interval(0.0, drawn + 50.0)
    assert moved == pytest.approx(ends, abs=1e-9)


def test_few_resamples_give_students_t_and_too_few_nothing() -> None:
    few = torch.tensor([1.0, 2.0, 3.0])
    assert interval(2.0, few) == pytest.approx((2 - 4.3027, 2 + 4.3027), abs=1e-3)
    assert interval(2.0, few[:1]) is None and interval(2.0, None) is None
    assert interval(2.0, torch.tensor([1.0, math.nan, 3.0])) is None, (
        "of two samples a third of the resamples is lost"
    )


class Middle(Task):
    """A metric that nobody wrote a quick way for."""

    primary = Metric("median")

    def measure(self, x0, context, g):
        noise = torch.randn((), generator=g)
        return {"median": float(x0.median() + context.condition.sum() * 0 + noise * 1e-3)}


def test_any_metric_has_an_interval_by_measuring_again() -> None:
    x0, g = torch.randn(50, generator=generator(3)), generator("held out")
    counts = draw(50, 0)
    found = Middle().bootstrap(x0, Context(condition=torch.ones(50)), g, counts)
    assert len(found) == REMEASURED
    shared = float(torch.randn((), generator=generator("held out"))) * 1e-3
    for row, value in zip(counts, found, strict=False):
        assert value == pytest.approx(float(x0.repeat_interleave(row).median()) + shared, abs=1e-6)
