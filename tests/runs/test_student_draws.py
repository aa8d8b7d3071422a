"""A student's first sample is the same however many are asked for, conditions that the task draws included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.exact import BridgeTask, GaussianMixtureTask
from omnidistill.random import generator, in_order, normal
from omnidistill.samplers import FewStep
from omnidistill.student import Student
from omnidistill.tasks import Task
from omnidistill.testing import ConformanceError, check_task

TASKS = {
    "anchors of noise": lambda: BridgeTask(dim=3, network={"width": 8, "depth": 1}),
    "labels": lambda: GaussianMixtureTask(conditional=True, network={"width": 8, "depth": 1}),
}


def student(task: Task) -> Student:
    torch.manual_seed(0)
    network = task.network()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    denoiser = NetworkDenoiser(network, task.path, **task.reading()).eval()
    return Student(denoiser, FewStep("renoise"), 2, task, task.shape, task.dtype)


@pytest.mark.parametrize("name", TASKS)
def test_the_first_of_six_is_the_only_one(name: str) -> None:
    made = student(TASKS[name]())
    six = made.sample(6, seed=3)
    assert len({tuple(row) for row in six.tolist()}) == 6
    for count, batch in ((1, 256), (2, 256), (6, 2), (40, 7)):
        some = made.sample(count, seed=3, batch=batch)[:6]
        torch.testing.assert_close(some, six[: len(some)], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(made.sample(6, seed=4), six)


def test_generators_in_order_draw_what_the_only_one_would() -> None:
    few, many = (normal(torch.empty(n, 5), in_order(n, generator("order"))) for n in (3, 40))
    assert torch.equal(many[:3], few) and many.unique().numel() == 200
    assert abs(float(normal(torch.empty(4000, 3), in_order(4000, generator(0))).std()) - 1.0) < 0.05


def test_contexts_out_of_order_do_not_conform() -> None:
    class Loose(BridgeTask):
        def contexts(self, count: int, g: torch.Generator) -> Context:
            batch: Batch = self.batch(count, g)
            return batch.context

    with pytest.raises(ConformanceError, match="the first of many contexts are those of few"):
        check_task(Loose(dim=3, network={"width": 8, "depth": 1}), count=16)
