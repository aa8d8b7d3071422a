"""Guidance distillation: the minimum is the guided belief, and a student there samples as guidance does at half the
calls. A learned solver: its numbers are those of the closed form."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser, Told
from omnidistill.errors import UserError
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.objectives import Guidance, SolverFit
from omnidistill.objectives.base import BankSpec, StudentSpec
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.runs.pairs import bank_of
from omnidistill.samplers import FewStep, Heun
from omnidistill.samplers.multistep import Multistep

F64 = torch.float64
MEAN, SPREAD, NULL = 0.7, 0.4, 9


def gain(path, t):
    """Float64[b 1]: how much of x_t a belief of N(m, c^2) takes, and alpha."""
    alpha, _, sigma = path.coefficients(torch.as_tensor(t, dtype=F64).reshape(-1, 1))
    return SPREAD**2 * alpha / (alpha**2 * SPREAD**2 + sigma**2), alpha


class Labelled(Denoiser):
    """x0 ~ N(m + k, c^2) of label k, N(m, c^2) of none: beliefs of one slope, the guided one that of N(m + s k)."""

    def belief(self, x_t, t, context, target_time):
        k = context.condition.to(F64)[:, None]
        mean = MEAN + torch.where(k == NULL, 0.0, k)
        slope, alpha = gain(self.path, t)
        return PointPosterior(mean + slope * (x_t - alpha * mean))


class Closed(nn.Module):
    """The guided belief itself, told its scale; `off` beside it."""

    wants_guidance = True

    def __init__(self, path, off=0.0, scale=None):
        super().__init__()
        self.path, self.scale = path, scale
        self.off = nn.Parameter(torch.tensor(off, dtype=F64))

    def forward(self, x, t, condition, *, guidance=None):
        s = guidance.to(F64)[:, None] if self.scale is None else self.scale
        mean = MEAN + s * condition.to(F64)[:, None] + self.off
        slope, alpha = gain(self.path, t)
        return mean + slope * (x - alpha * mean)


def batch(count=64):
    g = generator("batch")
    labels = torch.arange(count) % 3
    x0 = MEAN + labels[:, None] + SPREAD * torch.randn(count, 1, dtype=F64, generator=g)
    return Batch(x0, Context(labels))


def found(closed, objective, student, teacher, bank=None, **options):
    step = closed.step(
        "student", {"student": student, "teacher": teacher}, batch(), null=NULL, bank=bank, **options
    )
    return objective.losses("student", step)


@pytest.mark.parametrize("guidance", [3.0, [1.0, 4.0]])
def test_the_guided_belief_is_the_minimum(closed, guidance):
    path = paths.rectified_flow()
    teacher = Labelled(path)
    scale = guidance if isinstance(guidance, float) else None
    objective = Guidance(guidance, weighting="uniform")
    exact = NetworkDenoiser(Closed(path, scale=scale), path, "x0")
    losses = found(closed, objective, exact, teacher)
    assert float(losses.terms["guidance"].detach()) < 1e-20
    assert (exact.calls, teacher.calls) == (1, 2)
    assert objective.cost("student") == {"student": 1, "teacher": 2} and objective.cost("ema") == {}
    for off in (0.3, -0.3):
        beside = NetworkDenoiser(Closed(path, off, scale), path, "x0")
        losses = found(closed, objective, beside, teacher)
        (gradient,) = closed.gradient(losses, beside.network.off)
        assert float(gradient) * off > 0 and float(losses.terms["guidance"].detach()) > 1e-3


class AtOnce:
    """All times are one."""

    def __call__(self, count, path, g):
        return torch.full((count,), 0.6, dtype=F64)


class PerLabel(nn.Module):
    """`shift[label] + slope x`: at one time of a Gaussian it can say the guided belief, and knows nothing of it."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, dtype=F64))
        self.slope = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, t, condition):
        return self.shift[condition][:, None] + self.slope * x


def test_a_trained_network_ends_at_the_guided_belief(closed):
    path = paths.rectified_flow()
    teacher, student = Labelled(path), NetworkDenoiser(PerLabel(), path, "x0")
    objective = Guidance(2.5, times=AtOnce(), weighting="uniform")
    optimiser = torch.optim.LBFGS(
        student.parameters(), max_iter=100, tolerance_grad=1e-14, tolerance_change=1e-16
    )

    def loss():
        optimiser.zero_grad()
        total = found(closed, objective, student, teacher).terms["guidance"]
        total.backward()
        return total

    before = float(loss().detach())
    optimiser.step(loss)
    x, context = torch.linspace(-3, 3, 9, dtype=F64)[:, None], Context(torch.arange(9) % 3)
    guided = Guided(teacher, 2.5, NULL)(x, torch.tensor(0.6), context)
    torch.testing.assert_close(
        student(x, torch.tensor(0.6), context).mean.detach(), guided.mean, atol=1e-6, rtol=1e-6
    )
    assert before > 0.1


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.7])
def test_a_student_there_samples_as_guidance_does_at_half_the_calls(scale):
    path = paths.rectified_flow()
    x_1 = torch.randn(33, 1, dtype=F64, generator=generator("x"))
    context = Context(torch.arange(33) % 3)
    guided = FewStep("ode").sample(Guided(Labelled(path), scale, NULL), x_1, 6, context, x_1=x_1)
    student = Told(NetworkDenoiser(Closed(path), path, "x0"), scale)
    found = FewStep("ode").sample(student, x_1, 6, context, x_1=x_1)
    torch.testing.assert_close(found.x0, guided.x0, atol=1e-6, rtol=1e-6)  # the scale is told in float32
    assert (found.nfe, guided.nfe) == (6, 12)


def test_stored_states_are_the_guided_teachers_own_at_the_scale_of_each(closed):
    task = GaussianMixtureTask(conditional=True)
    teacher = task.exact_teacher()
    bank = bank_of(BankSpec(300, 4, states=True, guidance=(1.0, 3.0)), task, teacher, 0, "cpu")
    rows = bank.rows(torch.arange(5, 205))
    scale = rows["context"].guidance
    assert 1.0 <= float(scale.min()) < 1.2 and 2.8 < float(scale.max()) <= 3.0
    assert bool((scale[:, None] == scale).sum(1).eq(1).all()), "each has its own"
    for i in (0, 3):
        states, context = rows["states"], rows["context"]
        walked = Heun().step(
            Guided(teacher, None, task.null),
            states[:, i],
            rows["times"][i],
            rows["times"][i + 1],
            context,
            None,
        )
        torch.testing.assert_close(walked, states[:, i + 1])
    # Of them the loss is zero where the student is the guided teacher, told the scale of the trajectory.

    class Same(Guided):
        wants_guidance = True

        def __init__(self):
            super().__init__(task.exact_teacher(), None, task.null)
            self.off = nn.Parameter(torch.zeros(()))

        def belief(self, x_t, t, context, target_time):
            found = super().belief(x_t, t, context, target_time)
            return PointPosterior(found.mean + self.off)

    objective = Guidance([1.0, 3.0], states="stored", bank=300, steps=4)
    assert objective.bank.guidance == (1.0, 3.0) and objective.needs == {"condition", "deterministic"}
    x0 = torch.zeros(200, 2)
    step = closed.step(
        "student", {"student": Same(), "teacher": teacher}, Batch(x0, rows["context"]), null=task.null, bank=rows,
        guidance_range=(1.0, 3.0),
    )  # fmt: skip
    assert float(objective.losses("student", step).terms["guidance"].detach()) < 1e-12


def test_mistakes_are_one_line(closed):
    path = paths.rectified_flow()
    with pytest.raises(UserError, match="unknown source of states"):
        Guidance(states="noise")
    with pytest.raises(UserError, match=r"range \[low, high\]"):
        Guidance([1.0, 2.0, 3.0])
    with pytest.raises(UserError, match="bank >= 1"):
        Guidance(states="stored", bank=0)
    student = NetworkDenoiser(PerLabel(), path, "x0")
    with pytest.raises(UserError, match="the student is not told"):
        found(closed, Guidance([1.0, 2.0]), student, Labelled(path))
    with pytest.raises(UserError, match=r"step\.bank"):
        found(closed, Guidance(2.0, states="stored"), student, Labelled(path))


# --- solver_fit ---------------------------------------------------------------------------------------------


def solver(path, inner, **options):
    return Multistep([3], **options).around(inner)


def test_a_solver_learns_to_end_where_the_ode_does(closed):
    """Gaussian data: the exact end is a multiple of x_1, which a linear multistep rule of three steps can be: the loss
    falls to nothing, by numbers of which none is known beforehand."""
    path = paths.trigflow()
    inner = closed.gaussian(0.0, SPREAD**2, path)
    walker = solver(path, inner)
    assert {name.split(".")[0] for name, _ in walker.named_parameters()} == {
        "beliefs",
        "states",
        "times",
        "asked",
    }
    x_1 = torch.randn(64, 1, dtype=F64, generator=generator("x"))
    alpha, _, sigma = path.coefficients(1.0)
    exact = SPREAD * x_1 / (alpha**2 * SPREAD**2 + sigma**2).sqrt()
    bank = {"states": torch.stack((x_1, exact), 1), "times": torch.tensor([1.0, 0.0]), "context": Context()}
    spec, like = StudentSpec(3, FewStep("ode")), torch.empty(64, 1, dtype=F64)
    objective = SolverFit()

    def loss():
        step = closed.step(
            "student", {"student": walker}, Batch(None, Context(), 64), like, bank=bank, student=spec
        )
        return objective.losses("student", step).terms["solver_fit"]

    before, calls = float(loss().detach()), inner.calls
    assert calls == 3 * objective.cost("student")["student"]
    optimiser = torch.optim.Adam(walker.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        total = loss()
        total.backward()
        optimiser.step()
    assert before > 1e-4 and float(total.detach()) < 1e-4 * before
    with torch.no_grad():
        fresh = torch.randn(50, 1, dtype=F64, generator=generator("y"))
        made = FewStep("ode").sample(walker, fresh, 3, x_1=fresh).x0
    torch.testing.assert_close(
        made, SPREAD * fresh / float((alpha**2 * SPREAD**2 + sigma**2).sqrt()), atol=1e-3, rtol=1e-2
    )


def test_the_coefficient_of_one_step_is_the_exact_one(closed):
    """One step with a learned belief alone: D' = (1 + b) D must be the end of the ODE, which fixes b."""
    path = paths.vp_cosine()
    inner = closed.gaussian(0.0, SPREAD**2, path)
    walker = Multistep([1], learned=["beliefs"]).around(inner)
    x_1 = torch.randn(32, 1, dtype=F64, generator=generator("x"))
    t = torch.tensor(path.span[1], dtype=F64)
    alpha, _, sigma = path.coefficients(t)
    exact = SPREAD * x_1 / (alpha**2 * SPREAD**2 + sigma**2).sqrt()
    bank = {"states": torch.stack((x_1, exact), 1), "times": torch.tensor([1.0, 0.0]), "context": Context()}
    spec, like = StudentSpec(1, FewStep("ode")), torch.empty(32, 1, dtype=F64)
    wanted = float((exact / inner(x_1, t).mean)[0]) - 1.0
    for start in (wanted, wanted * 1.1, wanted * 0.9):
        with torch.no_grad():
            walker.beliefs["1"].fill_(start)
        step = closed.step(
            "student", {"student": walker}, Batch(None, Context(), 32), like, bank=bank, student=spec
        )
        (gradient,) = closed.gradient(SolverFit().losses("student", step), walker.beliefs["1"])
        # Half the squared error of (1 + b) D, whose gradient is (b - wanted) mean D^2.
        expected = (start - wanted) * float(inner(x_1, t).mean.square().mean())
        assert float(gradient) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_walk_that_does_not_keep_its_noise_is_refused(closed):
    path = paths.rectified_flow()
    inner = closed.gaussian(0.0, 1.0, path)
    like = torch.empty(4, 1, dtype=F64)
    bank = {
        "states": torch.zeros(4, 2, 1, dtype=F64),
        "times": torch.tensor([1.0, 0.0]),
        "context": Context(),
    }
    models = {"student": solver(path, inner)}
    with pytest.raises(UserError, match=r"student\.transition=ode"):
        SolverFit().losses(
            "student", closed.step("student", models, Batch(None, Context(), 4), like, bank=bank)
        )
    with pytest.raises(UserError, match="pairs >= 1"):
        SolverFit(pairs=0)
