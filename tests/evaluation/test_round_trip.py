"""Data to noise and back: what is lost, for an exact map, a teacher and a student."""

import pytest
import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.evaluation.curve import quality
from omnidistill.evaluation.round_trip import round_trip
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.exact.markov_text import MarkovTextTask
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import PointPosterior
from omnidistill.samplers import Euler, FewStep
from omnidistill.student import Student

MEAN, STD = 0.5, 0.3


class Map(Denoiser):
    """The exact jumps of N(MEAN, STD^2) on a rectified flow, up and down; `error` is added to each state upwards."""

    wants_target = True

    def __init__(self, path, error: float = 0.0) -> None:
        super().__init__(path)
        self.error = nn.Parameter(torch.tensor(error))

    def belief(self, x_t: Tensor, t, context: Context, target_time: Tensor | None) -> PointPosterior:
        t, s = (as_time(u, x_t).expand(len(x_t)) for u in (t, target_time))
        wide, narrow = ((((1 - u) * STD) ** 2 + u**2).sqrt() for u in (t, s))
        t, s, ratio = (per_sample(u, x_t) for u in (t, s, narrow / wide))
        there = (1 - s) * MEAN + ratio * (x_t - (1 - t) * MEAN) + self.error * (s > t)
        return PointPosterior((there - s / t * x_t) / (1 - s - (1 - t) * s / t))


def task_of(**options) -> GaussianMixtureTask:
    return GaussianMixtureTask([[MEAN, MEAN]], STD, **options)


@pytest.mark.parametrize("steps", [1, 4])
def test_an_exact_map_loses_nothing_and_errors_what_they_are(steps: int) -> None:
    task = task_of()
    assert round_trip(Map(task.path), FewStep("ode"), task, steps, 512, 0) < 1e-2
    # Of one jump, an error e in the noise comes down as STD e, and data are STD wide.
    off = round_trip(Map(task.path, 0.2), FewStep("ode"), task, 1, 512, 0)
    assert off == pytest.approx(0.2, abs=0.01)


def test_a_teacher_loses_less_with_more_steps() -> None:
    task = task_of()
    lost = [round_trip(task.exact_teacher(), Euler(), task, steps, 512, 0) for steps in (2, 8, 32)]
    assert lost[0] > 0.2 and lost[0] > lost[1] > lost[2]


def test_it_stands_among_the_metrics_where_it_is_asked_for() -> None:
    task = task_of()
    for asked in (False, True):
        (point,) = quality(Map(task.path), FewStep("ode"), task, [2], 64, 0, round_trips=asked)
        assert ("round_trip" in point.metrics) is asked and point.nfe == 2


def test_a_student_inverts_and_generates_again() -> None:
    task = task_of()
    student = Student(Map(task.path), FewStep("ode"), 4, task, task.shape)
    x0 = MEAN + STD * torch.randn(32, 2)
    x_1 = student.invert(x0)
    torch.testing.assert_close(student.regenerate(x_1, 2), x0, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(student.invert(x0, 1), x_1, rtol=1e-3, atol=1e-3)


def test_without_data_or_a_way_back_it_says_so() -> None:
    task = task_of()
    task.batch = lambda count, g, split="train": Batch(None, count=count)
    with pytest.raises(UserError, match="needs real data"):
        round_trip(Map(task.path), FewStep("ode"), task, 1, 8, 0)
    tokens = MarkovTextTask(vocab=3, length=4)
    with pytest.raises(UserError, match="inversion needs a Gaussian path"):
        round_trip(tokens.exact_teacher(), tokens.sampler(), tokens, 1, 8, 0)
