"""Every task's quick resamples are what measuring the drawn samples gives, or nearly so where a point is no pair with
itself: a task whose quick way measures something else would have the interval of something else."""

import importlib

import pytest
import torch

from omnidistill.evaluation.intervals import draw
from omnidistill.exact import BridgeTask, GaussianMixtureTask, MarkovTextTask, RigidCloudTask
from omnidistill.random import generator
from omnidistill.tasks import Task

TASKS = {
    "mixture": lambda: GaussianMixtureTask(),
    "labelled": lambda: GaussianMixtureTask(conditional=True),
    "bridge": lambda: BridgeTask(dim=2),
    "tokens": lambda: MarkovTextTask(vocab=6, length=12),
    "clouds": lambda: RigidCloudTask(points=6, shapes=2),
    "digits": lambda: importlib.import_module("omnidistill.modalities.image.task").Digits(),
}
COUNT = 60


@pytest.mark.parametrize("name", TASKS)
def test_each_sample_once_is_the_measure_and_others_are_near_to_measuring_again(name: str) -> None:
    task = TASKS[name]()
    batch = task.batch(COUNT, generator(1), "held_out")
    x0 = batch.x0.flip(0) if name == "labelled" else batch.x0
    counts = torch.ones(8, COUNT, dtype=torch.long)
    counts[1:] = draw(COUNT, 0, 7)
    quick = task.bootstrap(x0, batch.context, generator("held out"), counts)
    whole = task.measure(x0, batch.context, generator("held out"))[task.primary.name]
    assert float(quick[0]) == pytest.approx(whole, rel=1e-6, abs=1e-9)
    if (
        task.primary.name != "energy"
    ):  # whose reference is drawn anew for other conditions, and which has no bias
        slow = Task.bootstrap(task, x0, batch.context, generator("held out"), counts)
        assert quick.tolist() == pytest.approx(slow.tolist(), rel=1e-5, abs=1e-9)
    assert quick.std() > 0
