"""Small runs of the engine: a mixture in the plane, networks with dropout, every kind of role."""

import copy
import csv

import pytest
import torch
from torch import Tensor, nn

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Adversarial, Consistency, Matching, Nodes, Regression, Weighted
from omnidistill.random import generator
from omnidistill.runs.pairs import bank_of
from omnidistill.training.loop import run
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast
from omnidistill.training.settings import Optim, Settings

TASK = GaussianMixtureTask([[-1.0, 0.0], [0.8, 0.6], [0.2, -0.9]], 0.2)


class Net(nn.Module):
    """Float[b 2] with dropout, a buffer and named features."""

    feature_module, feature_axis, feature_channels = "inner", 1, 12

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(3, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None, **keywords: Tensor) -> Tensor:
        h = torch.tanh(self.first(torch.cat((x, t[:, None]), 1)))
        return self.last(self.dropout(torch.tanh(self.inner(h))))


class Engine:
    """Builds modules and runs them."""

    task, Net = TASK, Net

    @staticmethod
    def everything() -> Weighted:
        """Critic with two updates and a head, average, mentor that is refreshed, stored pairs."""
        parts = {
            "matching": Matching(critic_updates=2, critic_lr=0.5),
            "adversarial": Adversarial(),
            "consistency": Consistency(decay=0.9, jumps=Nodes(4)),
            "progressive": Consistency(target="jump", jumps=Nodes(4), rounds=3),
            "regression": Regression(pairs=64, steps=2),
        }
        return Weighted(parts, {"matching": 1.0, "adversarial": 0.1, "consistency": 0.5, "progressive": 0.5,
                                "regression": 0.3})  # fmt: skip

    @staticmethod
    def denoiser(seed: int = 0, dropout: float = 0.0, network: nn.Module | None = None) -> NetworkDenoiser:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return NetworkDenoiser(network or Net(dropout), TASK.path, "edm", unit_input=True)

    def module(
        self, objective=None, *, dropout: float = 0.0, optim=None, student=None, origin=None, **settings
    ):
        objective = objective or Weighted({"matching": Matching()}, {"matching": 1.0})
        options = {"updates": 7, "batch": 16, "log_every": 2, "checkpoint_every": 2, "ema": 0.8, **settings}
        teacher = TASK.exact_teacher()
        bank = bank_of(objective.bank, TASK, teacher, 0, "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(5)
            crew = cast(
                student or self.denoiser(0, dropout), origin or self.denoiser(1), objective, options["ema"]
            )
        optim = optim or Optim(lr=1e-2, warmup=3, weight_decay=0.01)
        return Distillation(crew, teacher, objective, Settings(optim=optim, **options), TASK.like, bank=bank)

    @staticmethod
    def run(module, folder, task=None, **options):
        run(module, task or TASK, folder, **options)
        return module

    @staticmethod
    def state(module) -> dict[str, Tensor]:
        return copy.deepcopy(module.trained.state_dict())

    @staticmethod
    def watch(module, before=None, after=None):
        """Calls `before(role, module)` and `after(role, module)` around every turn."""
        turn = module._turn

        def watched(role, *rest, **keywords):
            if before:
                before(role, module)
            shown = turn(role, *rest, **keywords)
            if after:
                after(role, module)
            return shown

        module._turn = watched
        return module

    @staticmethod
    def scalars(folder) -> list[dict[str, str]]:
        """Rows of metrics.csv without the column of wall-clock seconds."""
        with (folder / "logs" / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            del row["seconds"]
        return rows

    generator = staticmethod(generator)


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine()
