"""Jumps between stored states: no loss at the exact flow map, asked where the method says, each jump taught alone."""

import itertools

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import StudentSpec, Trajectories
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.testing import check_objective

MEAN, SPREAD = 0.4, 0.6
PATH = paths.rectified_flow()


def state(x_1, t):
    """The exact flow of N(m, c^2): `x_t = alpha m + S_t / S_1 (x_1 - alpha_1 m)`, `S^2 = alpha^2 c^2 + sigma^2`."""
    alpha, _, sigma = PATH.coefficients(t)
    return alpha * MEAN + (alpha**2 * SPREAD**2 + sigma**2).sqrt() * x_1


def trajectories(steps, count=64):
    x_1 = torch.randn(count, 1, generator=generator("walk"), dtype=torch.float64)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    states = torch.stack([state(x_1, t) for t in times], 1)
    return {"states": states, "times": times, "context": Context()}


class Jumps(nn.Module):
    """For the jump from each of K nodes the belief `shift + scale x`, exact for N(m, c^2) before it is moved."""

    def __init__(self, keys: int) -> None:
        super().__init__()
        times = torch.linspace(1, 0, keys + 1, dtype=torch.float64)
        shift, scale = [], []
        for t, s in itertools.pairwise(times):
            (a, _, n), (b, _, m) = PATH.coefficients(t), PATH.coefficients(s)
            k = m / n
            r = ((b**2 * SPREAD**2 + m**2) / (a**2 * SPREAD**2 + n**2)).sqrt()
            scale.append((r - k) / (b - k * a))
            shift.append((b - r * a) * MEAN / (b - k * a))
        self.times = times[:-1]
        self.shift, self.scale = nn.Parameter(torch.stack(shift)), nn.Parameter(torch.stack(scale))
        self.seen = []

    def forward(self, x, t, condition=None, **keywords):
        self.seen.append(x.detach())
        node = int((self.times - t[0]).abs().argmin())
        return self.shift[node] + self.scale[node] * x


def found(closed, objective, network, count=2, **more):
    batch, like = closed.free(64)
    student = NetworkDenoiser(network, PATH, "x0", **more)
    bank = trajectories(objective.bank.steps)
    spec = StudentSpec(count, FewStep("ode"))
    return objective.losses(
        "student", closed.step("student", {"student": student}, batch, like, bank=bank, student=spec)
    )


@pytest.mark.parametrize("states", ["student", "teacher"])
@pytest.mark.parametrize("divergence", ["l1", "l2"])
def test_no_loss_at_the_exact_map_and_home_from_beside(closed, states, divergence):
    objective = Trajectories(2, between=1, states=states, divergence=divergence)
    assert objective.bank.steps == 4 and objective.bank.states
    loss = found(closed, objective, Jumps(2)).terms["trajectories"]
    assert float(loss.detach()) < 1e-12
    for node in (0, 1):
        for away in (0.1, -0.1):
            network = Jumps(2)
            network.shift.data[node] += away
            loss = found(closed, objective, network).terms["trajectories"]
            assert float(torch.autograd.grad(loss, network.shift)[0][node]) * away > 0


def test_the_student_is_asked_about_its_own_states_or_the_teachers(closed):
    """After a first jump that misses, the next question is about where it led, or about where it should have."""
    seen = {}
    for states in ("student", "teacher"):
        network = Jumps(2)
        network.shift.data[0] += 0.5
        found(closed, Trajectories(2, between=0, states=states), network)
        seen[states] = network.seen[1]
    right = trajectories(2)["states"][:, 1]
    torch.testing.assert_close(seen["teacher"], right)
    torch.testing.assert_close(seen["student"], right + 0.25)  # half of the error of x0 at t = 1/2


def test_no_gradient_runs_from_one_jump_into_the_one_before(closed):
    """With the second jump alone in error, the first one's parameters get none of it."""
    network = Jumps(2)
    network.shift.data[1] += 0.3
    loss = found(closed, Trajectories(2, between=0, divergence="l2"), network).terms["trajectories"]
    gradient = torch.autograd.grad(loss, network.shift)[0]
    assert abs(float(gradient[0])) < 1e-12 and float(gradient[1]) > 1e-3


def test_several_numbers_of_steps_are_learned_at_once_by_a_student_that_is_told(closed):
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets, self.asked = nn.ModuleList([Jumps(1), Jumps(2)]), []

        def forward(self, x, t, condition=None, *, target_time):
            self.asked.append((float(t[0]), float(target_time[0])))
            return self.nets[int(not (t[0] == 1.0 and target_time[0] < 0.01))](x, t)

    network, objective = Told(), Trajectories([1, 2], between=1)
    loss = found(closed, objective, network, target_time=True).terms["trajectories"]
    assert float(loss.detach()) < 1e-12 and objective.cost("student") == {"student": 3}
    low = PATH.span[0]
    asked = [(t, 0.0 if s <= low else s) for t, s in network.asked]
    assert asked == [(1.0, 0.0), (1.0, 0.5), (0.5, 0.0)]
    with pytest.raises(UserError, match=r"keys=\[1, 2\].*student\.target_time=true"):
        found(closed, objective, Jumps(2))


def test_states_elsewhere_than_the_students_steps_are_refused(closed):
    batch, like = closed.free(64)
    student = NetworkDenoiser(Jumps(2), PATH, "x0")
    step = closed.step("student", {"student": student}, batch, like, bank=trajectories(2),
                       student=StudentSpec(2, FewStep("ode", shift=3.0)))  # fmt: skip
    with pytest.raises(UserError, match=r"lie at \[1,0.75,0\], the teacher's .* set student.times=\[1,0.5\]"):
        Trajectories(2, between=0).losses("student", step)


@pytest.mark.parametrize("states", ["student", "teacher"])
def test_conformance_and_padding(closed, states):
    task = GaussianMixtureTask(network={"width": 8, "depth": 1})
    objective = Trajectories(2, between=1, states=states, bank=8)
    check_objective(objective, task, student=StudentSpec(2, FewStep("ode")))

    def bank(more):
        batches = [closed.ragged("points", more, seed=s)[0] for s in (5, 6, 7)]
        times = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
        return {
            "states": torch.stack([b.x0 for b in batches], 1),
            "times": times,
            "context": batches[0].context,
        }

    closed.check_padding(Trajectories(2, between=0, states=states), "points", bank=bank)


def test_trajectories_of_an_update_are_the_teachers_and_counted(closed):
    """Of Gaussian data: the exact map has the loss of the teacher's own steps alone, which fall as they are refined."""
    values = []
    for between in (3, 15):
        batch, like = closed.free(64)
        student, teacher = NetworkDenoiser(Jumps(2), PATH, "x0"), closed.gaussian(MEAN, SPREAD**2, PATH)
        objective = Trajectories(2, between=between, divergence="l2", bank=None)
        step = closed.step("student", {"student": student, "teacher": teacher}, batch, like,
                           student=StudentSpec(2, FewStep("ode")))  # fmt: skip
        values.append(float(objective.losses("student", step).terms["trajectories"].detach()))
        assert {"student": student.calls, "teacher": teacher.calls} == objective.cost("student")
    assert values[0] < 1e-3 and values[1] < values[0] / 50


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="keys >= 1"):
        Trajectories(0)
    with pytest.raises(UserError, match="unknown states of trajectories 'data'"):
        Trajectories(states="data")
