"""Distillation in a loop of your own: plain torch, and of this project only objects that know no trainer.

Here a mixture of eight Gaussians, whose exact denoiser is the teacher, becomes a student of one step. For your own
teacher write `NetworkDenoiser(network, path, parameterisation)`, for your own data `Batch(x0)`. An objective with a
critic (`Matching`) names its further models in `objective.roles`: put them into `models`, take turns with
`objective.losses("fake_score", step)`, and keep everybody frozen whose turn it is not.

    python docs/own_loop.py
"""

import torch

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Consistency, Nodes, Step
from omnidistill.random import generator
from omnidistill.samplers import FewStep


def distil(
    updates: int = 500, batch: int = 256, seed: int = 0
) -> tuple[NetworkDenoiser, GaussianMixtureTask]:
    torch.manual_seed(seed)  # initial weights
    task = GaussianMixtureTask(network={"width": 64, "depth": 3})
    student = NetworkDenoiser(task.network(), task.path, **task.reading())
    models = {"student": student, "teacher": task.exact_teacher()}
    # The student's answer at t must be its answer one teacher step nearer to the data (consistency distillation).
    objective = Consistency(pairs="teacher", target="self", second_order=True, jumps=Nodes(12))
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for update in range(updates):
        g = generator(seed, update)  # every draw of this update comes from here
        data = task.batch(batch, g)
        step = Step("student", data, models, g, like=torch.empty_like(data.x0), update=update, total=updates)
        losses = objective.losses("student", step)
        optimizer.zero_grad()
        sum(losses.terms.values()).backward()
        optimizer.step()
        rate.step()
    return student, task


def quality(student: NetworkDenoiser, task: GaussianMixtureTask, steps: int = 1) -> dict[str, float]:
    """Metrics of 4096 samples."""
    made = FewStep().sample(student, task.like(4096), steps, g=generator("samples"))
    return task.measure(made.x0, Context(), generator("reference"))


if __name__ == "__main__":
    for updates in (0, 500):
        print(updates, "updates:", quality(*distil(updates)))
