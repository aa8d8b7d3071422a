"""Reflow on a coupling that is straight: no loss at the flow that it is, home from beside it, one Euler step exact."""

import math

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Reflow, Regression
from omnidistill.objectives.reflow import ANNEALINGS, annealed
from omnidistill.objectives.regression import Coupled, banked
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.testing import check_objective
from omnidistill.times import Uniform

SHIFT, SCALE = 0.4, 0.6


class Straight(nn.Module):
    """The answer of the flow along `x_t = (1 - t) (b + a eps) + t eps`: x0 = b + a eps, eps read off x_t."""

    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, x, t, condition=None, **keywords):
        t = t[:, None].to(x.dtype)
        eps = (x - (1 - t) * self.shift) / ((1 - t) * self.scale + t)
        return self.shift + self.scale * eps


def flow(shift=SHIFT, scale=SCALE) -> NetworkDenoiser:
    return NetworkDenoiser(Straight(shift, scale), paths.rectified_flow(), "x0")


def pairs(count=64, scale=SCALE, seed=0):
    x_1 = torch.randn(count, 1, generator=generator("straight", seed), dtype=torch.float64)
    states = torch.stack((x_1, SHIFT + scale * x_1), 1)
    return {"states": states, "times": torch.tensor([1.0, 0.0]), "context": Context()}


def step(closed, student, update=0, total=4, seed=0, **more):
    batch, like = closed.free(64)
    models = {"student": student, **more}
    return closed.step("student", models, batch, like, seed, bank=pairs(), update=update, total=total)


@pytest.mark.parametrize("objective", [Reflow(), Regression(times=Uniform(), weighting="velocity")])
def test_no_loss_on_a_straight_coupling_and_home_from_beside(closed, objective):
    total = objective.losses("student", step(closed, flow())).terms
    assert float(next(iter(total.values())).detach()) < 1e-20
    for away in (0.1, -0.1):
        student = flow(SHIFT + away, SCALE * (1 + away))
        found = objective.losses("student", step(closed, student))
        for gradient in closed.gradient(found, student.network.shift, student.network.scale):
            assert float(gradient) * away > 0


def test_one_step_of_euler_is_then_exact():
    x_1 = pairs()["states"][:, 0]
    made = FewStep("ode").sample(flow(), x_1, 1, x_1=x_1).x0
    torch.testing.assert_close(made, SHIFT + SCALE * x_1, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["rectified_flow", "trigflow", "edm"])
def test_velocity_weighs_an_error_of_x0_as_that_of_the_velocity(name, g=None):
    from omnidistill.weights import weight

    path = getattr(paths, name)()
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x, a, b = torch.randn(3, 3, 4, generator=generator("velocity"), dtype=torch.float64)
    apart = path.velocity(x, a, t) - path.velocity(x, b, t)
    torch.testing.assert_close(weight("velocity", path, t)[:, None] * (a - b) ** 2, apart**2)


def test_rounds_ask_the_mentor_and_the_last_one_is_at_the_noise(closed):
    """Two rounds of reflow and one of a single step; the mentor, who is the exact flow, makes the same coupling."""
    objective = Reflow(rounds=2, own_steps=3)
    assert objective.roles["mentor"].refresh == 2
    asked = []
    for update, calls in ((0, 0), (1, 0), (2, 5), (3, 5), (4, 5), (5, 5)):
        seen = []
        student, mentor = flow(), flow()
        student.network.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[1]))
        found = objective.losses("student", step(closed, student, update, 6, mentor=mentor))
        assert (mentor.calls, student.calls) == (calls, 1)
        assert float(found.terms["reflow"].detach()) < 1e-20
        assert bool((seen[0] == 1.0).all()) is (update >= 4)
        asked.append((student.calls, mentor.calls))
    made = {name: sum(n) / 6 for name, n in zip(("student", "mentor"), zip(*asked, strict=True), strict=True)}
    assert objective.cost("student") == pytest.approx(made)


@pytest.mark.parametrize(
    "options",
    [{}, {"one_step": False}, {"rounds": 3, "own_steps": 2}, {"two_step": 0.5}, {"anneal": "cosine"}],
    ids=str,
)
def test_cost_is_the_mean_over_the_rounds(options):
    task = GaussianMixtureTask(network={"width": 8, "depth": 1})
    assert check_objective(Reflow(pairs=4, steps=3, **options), task)


def test_annealing_goes_from_random_pairs_to_the_teachers(closed):
    """The noise of the first update is another draw of the prior, that of the last the pair's own."""
    pair = banked(step(closed, flow()))
    for share in (1.0, 0.6, 0.0):
        there = annealed(step(closed, flow(), seed=5), pair, share)
        other = paths.rectified_flow().prior(pair.x_1, g=generator("step", 5))
        torch.testing.assert_close(there.x_1, math.sqrt(1 - share**2) * pair.x_1 + share * other)
        assert torch.equal(there.x0, pair.x0)
    for schedule in ANNEALINGS.values():
        values = [schedule(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert values[0] == 1.0 and abs(values[-1]) < 1e-12 and values == sorted(values, reverse=True)
    objective = Reflow(anneal="linear", one_step=False)
    late, early = (
        float(objective.losses("student", step(closed, flow(), update, 1000)).terms["reflow"].detach())
        for update in (999, 0)
    )
    # The straight flow is not the answer to random pairs, whose x0 is no function of x_1.
    assert late < 1e-2 * early


def test_the_two_step_target_is_the_exact_one_and_leads_there(closed):
    objective = Reflow(two_step=1.0)

    def found(student):
        return objective.losses("student", step(closed, student, 3, 4, mentor=flow()))

    assert float(found(flow()).terms["two_step"].detach()) < 1e-20
    for away in (0.1, -0.1):
        student = flow(SHIFT + away)
        gradient = torch.autograd.grad(found(student).terms["two_step"], student.network.shift)[0]
        assert float(gradient) * away > 0
    student, mentor = flow(), flow()
    objective.losses("student", step(closed, student, 3, 4, mentor=mentor))
    assert (student.calls, mentor.calls) == (2, 2 * objective.own_steps - 1 + 1)


def test_online_pairs_are_the_teachers_and_counted(closed):
    """Of Gaussian data, whose flow maps noise to `m + c eps`; fresh in every update."""
    teacher = closed.gaussian(SHIFT, SCALE**2, paths.rectified_flow())
    objective = Regression(pairs=None, steps=32)
    assert objective.bank is None
    batch, like = closed.free(128)
    student = closed.student(SHIFT, SCALE, paths.rectified_flow())
    values = []
    for seed in (0, 1):
        models = {"student": student, "teacher": teacher}
        values.append(objective.losses("student", closed.step("student", models, batch, like, seed)))
    first, second = (float(v.terms["regression"].detach()) for v in values)
    assert first < 2e-5 and second < 2e-5 and first != second
    assert {"student": student.calls / 2, "teacher": teacher.calls / 2} == objective.cost("student")


def test_padding_changes_neither_loss_nor_gradient(closed):
    def bank(more):
        data, _ = closed.ragged("points", more, seed=5)
        noise, _ = closed.ragged("points", more, seed=6)
        return {
            "states": torch.stack((noise.x0, data.x0), 1),
            "times": torch.tensor([1.0, 0.0]),
            "context": data.context,
        }

    closed.check_padding(Reflow(one_step=False), "points", bank=bank)


def test_mistakes_are_one_line(closed):
    with pytest.raises(UserError, match="rounds, pairs, steps and own_steps >= 1"):
        Reflow(rounds=0)
    with pytest.raises(UserError, match="unknown annealing of reflow 'slow'"):
        Reflow(anneal="slow")
    with pytest.raises(UserError, match="set one_step: true"):
        Reflow(two_step=1.0, one_step=False)
    with pytest.raises(UserError, match=r"tau is a range inside \(0, 1\)"):
        Reflow(tau=(0.5, 0.2))


def test_annealed_noise_of_an_anchored_path_stays_around_its_anchor(closed):
    """Grad-TTS' prior is N(y, 1): mean and spread are those of the prior at every share."""
    path, count = paths.grad_tts(), 4096
    anchor = torch.full((count, 1), 3.0, dtype=torch.float64)
    context = Context(anchor=anchor)
    x_1 = path.prior(anchor, context, g=generator("prior"))
    pair = Coupled(x_1, x_1, torch.tensor(1.0), context)
    made = closed.step("student", {"student": closed.student(0, 1, path)}, closed.free(count)[0], anchor)
    for share in (0.0, 0.6, 1.0):
        there = annealed(made, pair, share).x_1
        assert abs(float(there.mean()) - 3.0) < 0.06 and abs(float(there.std()) - 1.0) < 0.05
