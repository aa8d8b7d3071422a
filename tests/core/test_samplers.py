"""Samplers on a Gaussian whose ODE is solved: orders, counts, and the student's rollout."""

import itertools

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.posteriors import CategoricalPosterior, PointPosterior
from omnidistill.samplers import Ancestral, Euler, FewStep, Heun

F64 = torch.float64
MEAN, SPREAD = 0.7, 0.4


class GaussianData(Denoiser):
    """x0 ~ N(m, c^2): E[x0 | x_t] = m + c^2 alpha (x - alpha m) / S^2 with S^2 = alpha^2 c^2 + sigma^2."""

    def scale(self, t):
        alpha, _, sigma = self.path.coefficients(t)
        return alpha, (alpha**2 * SPREAD**2 + sigma**2).sqrt()

    def belief(self, x_t, t, context, target_time):
        alpha, scale = self.scale(t)
        return PointPosterior(MEAN + SPREAD**2 * alpha * (x_t - alpha * MEAN) / scale**2)

    def jump(self, x_t, t, s):
        """The exact solution of the probability-flow ODE from t to s."""
        (alpha_t, scale_t), (alpha_s, scale_s) = self.scale(t), self.scale(s)
        return alpha_s * MEAN + scale_s / scale_t * (x_t - alpha_t * MEAN)


PATHS = {"rectified_flow": paths.rectified_flow, "vp_cosine": paths.vp_cosine, "trigflow": paths.trigflow}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("sampler, lowest, highest", [(Euler(), 0.9, 1.1), (Heun(), 1.65, 2.1)])
def test_convergence_order(name, sampler, lowest, highest, g):
    """Euler: error ~ h. Heun: error ~ h^2 log(1/h), for near t = 0 consecutive noise levels differ by a factor."""
    teacher = GaussianData(PATHS[name]())
    x_1 = torch.randn(64, 1, dtype=F64, generator=g)
    exact = teacher.jump(x_1, teacher.path.span[1], 0.0)
    error = [
        float((sampler.sample(teacher, x_1, steps, x_1=x_1).x0 - exact).abs().max())
        for steps in (64, 128, 256)
    ]
    for coarse, fine in itertools.pairwise(error):
        assert lowest < torch.tensor(coarse / fine).log2().item() < highest, error


def test_the_samplers_of_many_steps_reach_the_data(g):
    teacher = GaussianData(paths.edm())
    like = torch.zeros(20_000, 1, dtype=F64)
    for sampler in (Euler(), Euler(0.5), Heun(), Ancestral(), FewStep("renoise"), FewStep("ode")):
        x0 = sampler.sample(teacher, like, 200, g=g).x0
        assert float(x0.mean()) == pytest.approx(MEAN, abs=0.02), sampler
        if not isinstance(sampler, FewStep) or sampler.transition == "ode":
            assert float(x0.std()) == pytest.approx(SPREAD, rel=0.05), sampler


def test_a_re_noising_walk_of_an_exact_student_keeps_the_data_law(g):
    """A student that answers with the end of the ODE stays exact under re-noising at any number of steps."""

    class Student(GaussianData):
        def belief(self, x_t, t, context, target_time):
            return PointPosterior(self.jump(x_t, t, 0.0))

    student = Student(paths.rectified_flow())
    for steps in (1, 2, 4):
        # The prior of a rectified flow is the exact law at t = 1.
        x0 = FewStep("renoise").sample(student, torch.zeros(40_000, 1, dtype=F64), steps, g=g).x0
        assert float(x0.mean()) == pytest.approx(MEAN, abs=4 * SPREAD / 200)
        assert float(x0.std()) == pytest.approx(SPREAD, rel=0.02)


@pytest.mark.parametrize("steps", [1, 3])
def test_calls_are_counted(steps, g):
    class Labelled(torch.nn.Module):
        def forward(self, x, t, condition):
            return x

    denoiser = NetworkDenoiser(Labelled(), paths.rectified_flow(), "flow")
    like, context = torch.zeros(4, 2), Context(torch.zeros(4, dtype=torch.long))
    for sampler, calls in [
        (Euler(), steps),
        (Ancestral(), steps),
        (Heun(), 2 * steps - 1),
        (FewStep(), steps),
    ]:
        before = denoiser.calls
        assert sampler.sample(denoiser, like, steps, context, g=g).nfe == calls
        assert denoiser.calls - before == calls
        assert sampler.sample(Guided(denoiser, 2.0, 1), like, steps, context, g=g).nfe == 2 * calls


def test_kept_states_and_progress(g):
    teacher, seen = GaussianData(paths.rectified_flow()), []
    sample = Euler().sample(teacher, torch.zeros(3, 2, dtype=F64), 4, g=g, keep=True, progress=seen.append)
    assert seen == [1, 2, 3, 4] and len(sample.states) == len(sample.times) == 5
    assert sample.times[0] == 1.0 and sample.times[-1] == 0.0 and torch.equal(sample.states[-1], sample.x0)
    times = torch.tensor(sample.times, dtype=F64)
    for (x_t, t), (x_s, s) in zip(
        zip(sample.states, times, strict=True),
        list(zip(sample.states, times, strict=True))[1:],
        strict=False,
    ):
        torch.testing.assert_close(Euler().step(teacher, x_t, t, s, Context(), g), x_s)


def test_zero_steps_are_refused(g):
    with pytest.raises(UserError, match="at least one step, got steps=0"):
        Euler().sample(GaussianData(paths.rectified_flow()), torch.zeros(2, 2), 0, g=g)
    with pytest.raises(UserError, match="unknown transition"):
        FewStep("teleport")


# --- the student's own sampler --------------------------------------------------------------------


class Recorder(Denoiser):
    """A linear student that notes every question."""

    def __init__(self, path, wants_target=False):
        super().__init__(path)
        self.weight, self.asked = torch.nn.Parameter(torch.tensor(0.8, dtype=F64)), []
        self.wants_target = wants_target

    def belief(self, x_t, t, context, target_time):
        self.asked.append((x_t, float(torch.as_tensor(t).flatten()[0]), target_time, torch.is_grad_enabled()))
        return PointPosterior(self.weight * x_t)


@pytest.mark.parametrize("transition", ["renoise", "ode", "ancestral"])
def test_rollout_has_a_graph_through_its_last_call_only(transition, g):
    student, drawn = Recorder(paths.rectified_flow()), []
    times = FewStep().times(student, 4)
    for _ in range(400):
        student.asked.clear()
        rollout = FewStep(transition).rollout(student, torch.zeros(2, 3, dtype=F64), 4, g=g)
        k = len(student.asked) - 1
        drawn.append(k)
        assert [asked[3] for asked in student.asked] == [False] * k + [True]
        assert [asked[1] for asked in student.asked] == times[: k + 1].tolist() and torch.equal(
            rollout.t, times[k].expand(2)
        )
        assert not rollout.x_t.requires_grad and torch.equal(rollout.x0, rollout.belief.mean)
        gradient = torch.autograd.grad(rollout.x0.sum(), student.weight)[0]
        torch.testing.assert_close(gradient, rollout.x_t.sum())  # d(w x)/dw; earlier calls would add terms
    counts = torch.bincount(torch.tensor(drawn), minlength=4)
    assert bool(((counts - 100).abs() < 4 * (100 * 0.75) ** 0.5).all()), counts


@pytest.mark.parametrize("transition", ["renoise", "ode", "ancestral"])
def test_simulated_inputs_are_those_of_inference(transition):
    """Same seed, same numbers: at step k training sees what sampling sees there."""
    student, sampler = Recorder(paths.rectified_flow()), FewStep(transition)
    like, seen = torch.zeros(5, 3, dtype=F64), set()
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        rollout = sampler.rollout(student, like, 4, g=g)
        g = torch.Generator().manual_seed(seed)
        k = int(torch.randint(4, (), generator=g))
        states = sampler.sample(student, like, 4, g=g, keep=True).states
        assert torch.equal(rollout.x_t, states[k])
        seen.add(k)
    assert seen == {0, 1, 2, 3}


def test_inputs_from_data_have_the_forward_law(g):
    student, data = Recorder(paths.rectified_flow()), torch.full((20_000, 1), 2.0, dtype=F64)
    for _ in range(6):
        rollout = FewStep().rollout(student, data, 4, g=g, data=data)
        t = float(rollout.t[0])
        assert float(rollout.x_t.mean()) == pytest.approx(2.0 * (1 - t), abs=4 * t / 20_000**0.5)
        assert float(rollout.x_t.std()) == pytest.approx(t, rel=0.03)


@pytest.mark.parametrize("wants", [False, True])
def test_target_times_are_passed_to_those_that_want_them(wants, g):
    like = torch.zeros(2, 3, dtype=F64)
    for sampler in (Euler(), FewStep("ode"), FewStep("ancestral")):
        student = Recorder(paths.rectified_flow(), wants)
        sampler.sample(student, like, 3, g=g)
        expected = sampler.times(student, 3)[1:].tolist()
        targets = [asked[2] for asked in student.asked]
        assert ([float(target) for target in targets] == expected) if wants else (targets == [None] * 3)
    student = Recorder(paths.rectified_flow(), wants)
    FewStep("renoise").sample(student, like, 3, g=g)  # predicts x0 itself, the default target of 0
    assert [asked[2] for asked in student.asked] == [None] * 3


class TokenStudent(Denoiser):
    def belief(self, x_t, t, context, target_time):
        logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(*x_t.shape, 3)
        shown = torch.nn.functional.one_hot(x_t.clamp(max=2), 3) * 1e4 - 1e4
        return CategoricalPosterior(
            torch.where(self.path.unresolved(x_t, t)[..., None], logits, shown.float())
        )


@pytest.mark.parametrize("sampler", [Euler(), Ancestral(), FewStep("ancestral"), FewStep("renoise")])
def test_tokens_end_resolved_and_with_the_law_of_the_belief(sampler, g):
    student = TokenStudent(paths.MaskedPath(3, "cosine"))
    x0 = sampler.sample(student, torch.zeros(200, 300, dtype=torch.long), 5, g=g).x0
    found = torch.bincount(x0.flatten(), minlength=4).double() / x0.numel()
    expected = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=F64)
    assert bool(((found - expected).abs() <= 4 * (expected * (1 - expected) / x0.numel()).sqrt()).all()), (
        found
    )
