"""Held-out data translated by known maps: what they become, and what is lost on the way there and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.evaluation.curve import quality
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.samplers import FewStep
from omnidistill.student import Student

MEANS, STD = [[-3.0, 0.0], [2.0, 1.0]], 0.3


class Shift(nn.Module):
    """From the nearest mean to that of the condition, and the rest of a sample so many times as large."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.times = nn.Parameter(torch.tensor(times))

    def forward(self, x, t, condition):
        means = torch.tensor(MEANS)
        near = means[torch.cdist(x, means).argmin(1)]
        return means[condition] + self.times * (x - near)


def task_of() -> GaussianMixtureTask:
    return GaussianMixtureTask(MEANS, STD, conditional=True)


def student_of(times: float, task: GaussianMixtureTask) -> NetworkDenoiser:
    return NetworkDenoiser(Shift(times), task.path, "x0")


@pytest.mark.parametrize("times", [1.0, 0.8])
def test_figures_are_those_of_the_map(times: float) -> None:
    task = task_of()
    (point,) = quality(
        student_of(times, task), FewStep(), task, [1], 2000, 0, 300, keep=2000, translates=True
    )
    assert point.metrics["label_accuracy"] > 0.98 and point.nfe == 1
    # Both ways shrink by 0.8, and what is far from the mean of all data is the label: var = STD^2 + |m_1 - m_0|^2 / 4.
    spread = 2 * STD**2 + (5.0**2 + 1.0**2) / 4
    expected = (1 - times**2) * (2 * STD**2 / spread) ** 0.5
    assert point.metrics["cycle"] == pytest.approx(expected, rel=0.05, abs=1e-6)
    labels = point.context.condition
    deviation = (point.x0 - torch.tensor(MEANS)[labels]).std()
    assert float(deviation) == pytest.approx(times * STD, rel=0.05)


def test_who_makes_samples_of_noise_has_no_such_figure() -> None:
    task = task_of()
    (point,) = quality(student_of(1.0, task), FewStep(), task, [1], 64, 0)
    assert "cycle" not in point.metrics


def test_samples_are_given_to_a_student_that_translates() -> None:
    task = task_of()
    student = Student(student_of(1.0, task), FewStep(), 1, task, task.shape, translates=True)
    x0 = torch.tensor([[-3.1, 0.2], [2.3, 1.0], [-2.9, -0.2]])
    there = torch.tensor([[1.9, 1.2], [2.3, 1.0], [2.1, 0.8]])
    torch.testing.assert_close(student.translate(x0, 1), there)
    torch.testing.assert_close(student.translate(x0, torch.tensor([1, 1, 1]), batch=2), there)
    torch.testing.assert_close(student.translate(there, torch.tensor([0, 1, 0])), x0)
    with pytest.raises(UserError, match=r"student\.translate"):
        student.sample(3)
    with pytest.raises(UserError, match="label from 0 to 1, got 2"):
        student.translate(x0, 2)
    student.translates = False
    with pytest.raises(UserError, match=r"student\.inputs=translated"):
        student.translate(x0, 1)
