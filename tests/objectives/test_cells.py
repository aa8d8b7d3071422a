"""Heads matched to the teacher, against the exact means over the cells of a Gaussian's trajectories."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.heads import edges
from omnidistill.errors import UserError
from omnidistill.objectives.cells import Cells
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator

MEAN, STD = 0.7, 0.4


class Exact(NetworkDenoiser):
    """Every head right, and all of them times `1 + error`."""

    def __init__(self, path, cells: int, error: float = 0.0) -> None:
        super().__init__(nn.Identity(), path, "x0", cells=cells)
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64))

    def _spread(self, t):
        alpha, _, sigma = self.path.coefficients(t)
        return (alpha**2 * STD**2 + sigma**2).sqrt(), alpha

    def _mean(self, x, t, r, s):
        """The mean belief over t_r ... t_s of the trajectory through x at t."""
        (at, a_t), (ar, a_r), (as_, a_s) = (self._spread(u) for u in (t, r, s))
        scaled = (x - per_sample(a_t, x) * MEAN) / per_sample(at, x)
        x_r, x_s = (per_sample(a, x) * MEAN + per_sample(b, x) * scaled for a, b in ((a_r, ar), (a_s, as_)))
        n_r, n_s = (self.path.coefficients(u).sigma for u in (r, s))
        ratio = per_sample(n_s / n_r, x)
        return (x_s - ratio * x_r) / (per_sample(a_s, x) - ratio * per_sample(a_r, x))

    def belief(self, x_t, t, context, target_time):
        t, r = (as_time(u, x_t).expand(len(x_t)) for u in (t, target_time))
        none = per_sample(t == r, x_t) > 0
        mean = self._mean(x_t, t, t, torch.where(t == r, 0.5 * t, r))
        return PointPosterior((1.0 + self.error) * torch.where(none, x_t, mean))

    def cell(self, x_t, t, head, context=Context()):
        self.count()
        times = edges(self.path, self.cells)
        return PointPosterior((1.0 + self.error) * self._mean(x_t, t, times[head], times[head + 1]))


def found(closed, student, states: str = "own", seed: int = 0, **options):
    path = student.path
    x0 = MEAN + STD * torch.randn(256, 2, generator=generator("data"), dtype=torch.float64)
    models = {"teacher": closed.gaussian(MEAN, STD**2, path, 2), "student": student}
    step = closed.step("student", models, Batch(x0), seed=seed)
    losses = Cells(states, **options).losses("student", step)
    return losses, {name: model.calls for name, model in models.items()}


@pytest.mark.parametrize("states", ["own", "data"])
@pytest.mark.parametrize("name", ["rectified_flow", "trigflow", "vp_cosine"])
def test_exact_heads_are_at_rest_up_to_the_teachers_step(closed, name: str, states: str) -> None:
    """Its error is of second order in the cell, the loss a square of that; of first order with one belief."""
    path = getattr(paths, name)()
    loss = {
        (count, order): float(
            found(closed, Exact(path, count), states, second_order=order)[0].terms["cells"].detach()
        )
        for count in (16, 64)
        for order in (True, False)
    }
    assert loss[64, True] < 3e-7 and loss[16, True] > 30 * loss[64, True]
    assert 8 < loss[16, False] / loss[64, False] < 40 and loss[64, True] < 0.1 * loss[64, False]
    wrong = float(found(closed, Exact(path, 64, 0.05), states)[0].terms["cells"].detach())
    assert wrong > 1e-4


def test_from_wrong_heads_the_gradient_points_home(closed) -> None:
    for error in (-0.1, 0.1):
        student = Exact(paths.rectified_flow(), 32, error)
        (gradient,) = closed.gradient(found(closed, student)[0], student.error)
        assert float(gradient) * error > 0


@pytest.mark.parametrize(
    "options", [{}, {"states": "data"}, {"second_order": False}, {"span": 2, "start": 4}]
)
def test_calls_are_those_that_are_declared(closed, options) -> None:
    _, calls = found(closed, Exact(paths.rectified_flow(), 8), **options)
    assert calls == Cells(**options).cost("student")


def test_states_lie_at_every_start_th_node_and_cells_at_most_span_below(closed) -> None:
    step = closed.step("student", {"student": Exact(closed.flow(), 16)}, Batch(torch.zeros(4000, 1)))
    n, k = Cells(start=4, span=6)._drawn(step, 16)
    assert sorted(n.unique().tolist()) == [0, 4, 8, 12]
    assert bool(((k >= n) & (k < n + 6) & (k < 16)).all())
    assert sorted((k - n)[n == 0].unique().tolist()) == list(range(6))
    assert sorted((k - n)[n == 12].unique().tolist()) == list(range(4))
    n, k = Cells()._drawn(step, 16)
    assert sorted(n.unique().tolist()) == list(range(16)) and int(k.max()) == 15


def test_what_it_lacks_is_said_in_a_line(closed) -> None:
    with pytest.raises(UserError, match=r"student\.cells"):
        plain = closed.student(0.1, 0.5, closed.flow())
        models = {"teacher": closed.gaussian(MEAN, STD**2, closed.flow()), "student": plain}
        Cells().losses("student", closed.step("student", models, Batch(torch.zeros(2, 1).double())))
    for options, words in (({"states": "x"}, "source of states"), ({"start": 0}, "start >= 1")):
        with pytest.raises(UserError, match=words):
            Cells(**options)
