"""Matching's options on Gaussians: student N(m, v), teacher N(mu, V), in closed form or by quadrature."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.exact.gaussian_mixture import MixtureDenoiser
from omnidistill.exact.mixture import Mixture
from omnidistill.objectives import Adversarial, Matching, Weighted
from omnidistill.objectives.base import StudentSpec
from omnidistill.objectives.copies import onwards
from omnidistill.objectives.divergences import DIVERGENCES, divergence, effective
from omnidistill.objectives.gaps import grouped
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.times import Onwards, Uniform

M, V, MU, BIG = 0.7, 0.5, -0.4, 1.3
PATH = paths.rectified_flow()


@dataclass(frozen=True)
class At:
    t: float

    def __call__(self, count, path, g):
        return torch.full((count,), self.t, dtype=torch.float64)


class WithRatio(Denoiser):
    """An exact critic whose feature is the true log-ratio of teacher to student at x_t."""

    def __init__(self, fake, real):
        super().__init__(fake.path)
        self.fake, self.real = fake, real

    def belief(self, x_t, t, context, target_time):
        return self.fake.belief(x_t, t, context, target_time)

    def examine(self, x_t, t, context=Context(), layers=None, *, answered=None, target_time=None):
        self.count()
        found = self.real.log_density(x_t, t) - self.fake.log_density(x_t, t)
        return self.belief(x_t, t, context, None), {"ratio": found.unsqueeze(-1)}

    def pool(self, found, context=Context()):
        return found

    def feature_widths(self, layers):
        return {"ratio": 1}


def cast(closed, student=(M, V), fake=None, real=(MU, BIG), dim=1):
    critic = closed.gaussian(*(fake or student), PATH, dim)
    teacher = closed.gaussian(*real, PATH, dim)
    return {
        "teacher": teacher,
        "student": closed.student(student[0], student[1] ** 0.5, PATH),
        "fake_score": WithRatio(critic, teacher),
        "discriminator": nn.Flatten(0),
    }


def gradients(closed, objective, models, count=100_000, **options):
    batch, like = closed.free(count)
    step = closed.step("student", models, batch, like, **options)
    losses = objective.losses("student", step)
    network = models["student"].network
    return losses, closed.gradient(losses, network.shift, network.scale)


def belief(x, mean, variance, alpha, sigma):
    return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)


def log_normal(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + torch.log(2 * math.pi * variance))


def leaf(value):
    return torch.tensor(float(value), dtype=torch.float64, requires_grad=True)


# --- score identity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_score_identity_is_half_the_fisher_gradient_through_the_score_and_the_rest_of_that_through_samples(
    closed, alpha
):
    """Value (1 - a) E delta^2; gradient 1/2 of E delta^2 in the score's parameters and 1 - a in the samples'."""
    t = 0.45
    losses, found = gradients(
        closed, Matching(gradient="identity", alpha=alpha, normaliser="none", times=At(t)), cast(closed)
    )
    a, _, s = PATH.coefficients(t)
    mean, deviation, its_mean, its_deviation = (leaf(x) for x in (M, V**0.5, M, V**0.5))
    x, weights = _grid(a * mean, (a * deviation) ** 2 + s**2)
    delta = belief(x, MU, BIG, a, s) - belief(x, its_mean, its_deviation**2, a, s)
    fisher = (weights * delta**2).sum()
    samples = torch.autograd.grad(fisher, (mean, deviation), retain_graph=True)
    score = torch.autograd.grad(fisher, (its_mean, its_deviation))
    torch.testing.assert_close(
        losses.terms["matching"].detach(), (1 - alpha) * fisher.detach(), rtol=0.02, atol=5e-3
    )
    for gradient, through_score, through_samples in zip(found, score, samples, strict=True):
        expected = 0.5 * through_score + (1 - alpha) * through_samples
        torch.testing.assert_close(gradient, expected, rtol=0.03, atol=4e-3)


def _grid(mean, variance):
    """Nodes that move with the law, and its weights: an expectation under N(mean, variance) with its graph."""
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.softmax(-0.5 * nodes**2, 0)
    return mean + variance.sqrt() * nodes, weights


def test_score_identity_rests_at_the_teachers_law(closed):
    losses, found = gradients(
        closed, Matching(gradient="identity", alpha=1.2), cast(closed, student=(MU, BIG)), count=64
    )
    assert losses.terms["matching"] == 0.0 and all(g == 0.0 for g in found)


@pytest.mark.parametrize("away", [0.4, -0.4])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_score_identity_points_home(closed, away, alpha):
    for index in (0, 1):
        student = [MU, BIG**0.5]
        student[index] += away
        models = cast(closed, student=(student[0], student[1] ** 2))
        _, found = gradients(closed, Matching(gradient="identity", alpha=alpha), models, count=40_000)
        assert float(found[index]) * away > 0.0


def test_score_identity_sends_no_gradient_to_other_roles(closed):
    models = {name: closed.student(0.3 * i, 1.0 + 0.1 * i, PATH) for i, name in enumerate(
        ("teacher", "student", "fake_score"))}  # fmt: skip
    batch, like = closed.free(16)
    losses = Matching(gradient="identity").losses("student", closed.step("student", models, batch, like))
    losses.terms["matching"].backward()
    assert all(p.grad is None for n in ("teacher", "fake_score") for p in models[n].parameters())
    assert all(p.grad is not None and p.grad != 0 for p in models["student"].parameters())


# --- density ratio and divergences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in DIVERGENCES if n != "reverse_kl"])
def test_the_weighted_gap_is_the_gradient_of_its_divergence(closed, name):
    """-E h(r) (s_p - s_q) dx/dtheta = d D_f(p_t || q_t) / dtheta, by quadrature (f-distill, theorem 1)."""
    t, real, student = 0.5, (MU, 0.9), (0.1, 0.7)
    models = cast(closed, student=student, real=real)
    objective = Matching(
        divergence=name, normaliser="none", weighting="snr", times=At(t), ratio_limits=(1e-6, 1e6)
    )
    losses, found = gradients(closed, objective, models)
    a, _, s = PATH.coefficients(t)
    mean, deviation = leaf(student[0]), leaf(student[1] ** 0.5)
    x = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    log_q = log_normal(x, a * mean, (a * deviation) ** 2 + s**2)
    log_p = log_normal(x, a * real[0], a**2 * real[1] + s**2)
    value = (log_q.exp() * divergence(name).f((log_p - log_q).exp())).sum() * (24 / 40_000)
    expected = torch.autograd.grad(value, (mean, deviation))
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=6e-3)
    assert 0.0 < float(losses.diagnostics["matching/ratio_ess"]) <= 1.0


@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl", "jensen_shannon", "hellinger"])
def test_the_weighted_identity_is_the_gradient_of_the_expanded_divergence(closed, name):
    """Half the gradient of E_q k(u) delta^2 with every field depending on the student (Uni-Instruct), by quadrature."""
    t, real, student = 0.5, (MU, 0.9), (0.1, 0.7)
    models = cast(closed, student=student, real=real)
    objective = Matching(
        gradient="identity", alpha=0.5, divergence=name, normaliser="none", times=At(t),
        ratio_limits=(1e-6, 1e6),
    )  # fmt: skip
    _, found = gradients(closed, objective, models)
    a, _, s = PATH.coefficients(t)
    mean, deviation = leaf(student[0]), leaf(student[1] ** 0.5)
    variance = (a * deviation) ** 2 + s**2
    x, weights = _grid(a * mean, variance)
    u = log_normal(x, a * real[0], a**2 * real[1] + s**2) - log_normal(x, a * mean, variance)
    delta = belief(x, real[0], real[1], a, s) - belief(x, mean, deviation**2, a, s)
    value = 0.5 * (weights * divergence(name).k(u) * delta**2).sum()
    expected = torch.autograd.grad(value, (mean, deviation))
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0.06, atol=2e-3)


def test_weights_are_r_squared_times_the_second_derivative():
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for law in DIVERGENCES.values():
        r = u.exp().requires_grad_()
        first = torch.autograd.grad(law.f(r).sum(), r, create_graph=True)[0]
        (second,) = torch.autograd.grad(first.sum(), r)
        torch.testing.assert_close(r.detach() ** 2 * second, law.k(u), rtol=1e-12, atol=1e-12)
        v = u.clone().requires_grad_()
        k = law.k(v)
        slope = torch.autograd.grad(k.sum(), v)[0] if k.requires_grad else torch.zeros_like(u)
        torch.testing.assert_close(slope, law.slope(u), rtol=1e-12, atol=1e-12)


def test_effective_sample_size():
    assert float(effective(torch.ones(7))) == pytest.approx(1.0)
    assert float(effective(torch.tensor([1.0, 0.0, 0.0, 0.0]))) == pytest.approx(0.25)


def test_a_divergence_without_discriminator_says_what_it_needs(closed):
    models = cast(closed)
    del models["discriminator"]
    with pytest.raises(UserError, match="add objective"):
        gradients(closed, Matching(divergence="forward_kl"), models, count=4)


def test_a_discriminator_of_other_times_has_no_ratio_to_give(closed):
    models = cast(closed)
    batch, like = closed.free(4)
    parts = {"m": Matching(divergence="softened"), "a": Adversarial(times=Uniform(0.0, 0.2))}
    step = closed.step("student", models, batch, like)
    with pytest.raises(UserError, match="trained elsewhere"):
        Weighted(parts, {"m": 1.0, "a": 1.0}).losses("student", step)


# --- a teacher asked about data ---------------------------------------------------------------------------------------


def forced(closed, share, form, student, count=200_000):
    models = cast(closed, student=student)
    g = generator("data")
    x0 = MU + BIG**0.5 * torch.randn(count, 1, generator=g, dtype=torch.float64)
    objective = Matching(normaliser="none", times=At(0.5), data_share=share, data_form=form)
    step = closed.step("student", models, Batch(x0), torch.empty_like(x0))
    losses = objective.losses("student", step)
    network = models["student"].network
    return closed.gradient(losses, network.shift, network.scale)


def test_scores_at_data_spread_and_beliefs_at_data_contract(closed):
    """Data tell nothing about the sample, so of E g z only the sample's own part is left: -sqrt(v) sigma^2 / V_q in the
    form of scores, alpha^2 v sqrt(v) / V_q in that of beliefs."""
    a, _, s = PATH.coefficients(0.5)
    v_q = a**2 * V + s**2
    _, spread = forced(closed, 1.0, "score", (M, V))
    _, shrink = forced(closed, 1.0, "x0", (M, V))
    torch.testing.assert_close(spread, -(V**0.5) * s**2 / v_q, rtol=0.02, atol=3e-3)
    torch.testing.assert_close(shrink, a**2 * V * V**0.5 / v_q, rtol=0.02, atol=3e-3)


def test_scores_at_data_rest_at_a_tempered_teacher(closed):
    """V / (1 - w) + k^2 w / (1 - w), k = sigma / alpha: both gradients vanish there, and not at the teacher's law."""
    share = 0.4
    tempered = BIG / (1 - share) + share / (1 - share)
    shift, scale = forced(closed, share, "score", (MU, tempered))
    assert abs(float(shift)) < 6e-3 and abs(float(scale)) < 6e-3
    assert float(forced(closed, share, "score", (MU, BIG))[1]) < -0.05
    assert float(forced(closed, share, "x0", (MU, BIG))[1]) > 0.05


# --- states instead of samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rectified_flow", "vp_linear", "edm"])
@pytest.mark.parametrize("s, t", [(0.3, 0.4), (0.3, 0.8), (0.6, 0.65)])
def test_the_target_from_a_state_is_the_belief_of_its_law(name, s, t):
    """x_s of two lumps, nothing like the path's own marginal: target - D(x_t) is orthogonal to functions of x_t, where
    D has the score of the law of x_t. The sample's x0 in its place is not."""
    path = getattr(paths, name)()
    g, count = generator("lumps"), 200_000
    (alpha_t, _, sigma_t), (alpha_s, _, sigma_s) = path.coefficients(t), path.coefficients(s)
    lump = torch.randint(2, (count, 1), generator=g).double() * 2 - 1
    unit = float(alpha_s)
    x_s = unit * (lump + 0.3 * torch.randn(count, 1, generator=g, dtype=torch.float64))
    x_t, target, weight = path.onwards(x_s, s, t, g=g)
    a = alpha_t / alpha_s
    variance = a**2 * (0.3 * unit) ** 2 + sigma_t**2 - (a * sigma_s) ** 2
    torch.testing.assert_close(x_t.var(), (a * unit) ** 2 + variance, rtol=0.02, atol=0)
    centre = torch.tanh(a * unit * x_t / variance) * a * unit  # E of the lump's centre given x_t
    right = (x_t + sigma_t**2 * (centre - x_t) / variance) / alpha_t
    spread = float((target - right).std()) / count**0.5
    for test in (torch.ones_like(x_t), torch.sin(2 * x_t / x_t.std()), (x_t / x_t.std()) ** 2 - 1):
        assert abs(float(((target - right) * test).mean())) < 5 * spread
    if name != "edm":  # where so little noise at s hardly matters
        assert float(((x_s / alpha_s - right) * x_t / x_t.std()).mean().abs()) > 10 * spread
    assert 0 < float(weight) < 1


def test_from_clean_data_the_target_is_the_data():
    x0 = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    _, target, weight = PATH.onwards(x0, 0.0, torch.rand(5, dtype=torch.float64), g=generator(2))
    torch.testing.assert_close(target, x0)
    torch.testing.assert_close(weight, torch.ones(5, dtype=torch.float64))


def test_no_state_tells_the_drift_of_a_residual_shift():
    with pytest.raises(UserError, match="Uniform times"):
        paths.residual_shift().onwards(torch.zeros(2, 1), 0.2, 0.5, Context(anchor=torch.zeros(2, 1)))


@pytest.mark.parametrize("upto", ["prior", "step"])
def test_a_state_is_noised_to_times_above_it(closed, upto):
    """The copy is noised from the state, not from the sample, to times above it."""
    path, times = PATH, Onwards(upto=upto)
    models = {name: closed.gaussian(MU, BIG, path) for name in ("teacher", "student", "fake_score")}
    batch, like = closed.free(50_000)
    spec = StudentSpec(4, FewStep("ode"))
    for seed in range(5):
        step = closed.step("fake_score", models, batch, like, seed=seed, student=spec)
        copy = step.copy(times)
        rollout = step.rollout
        top = min(0.98, float(rollout.t[0])) if upto == "step" else 0.98
        assert float(copy.t.min()) > rollout.s and float(copy.t.max()) <= top + 1e-12
        if rollout.s:
            x_s = path.bridge(rollout.x_t, rollout.x0, rollout.t, rollout.s)
            back = onwards(step, x_s, copy.t).x_t
            torch.testing.assert_close(back.std(), copy.x_t.std(), rtol=0.02, atol=0)


# --- who stands for whom --------------------------------------------------------------------------------------------


def test_a_step_aware_critic_is_told_where_the_sample_comes_from(closed):
    seen = []

    class Listens(Denoiser):
        wants_target = True

        def belief(self, x_t, t, context, target_time):
            seen.append(target_time)
            return PointPosterior(x_t)

    models = cast(closed) | {"fake_score": Listens(PATH)}
    batch, like = closed.free(6)
    spec = StudentSpec(4, FewStep("ode"))
    for times, end in ((Uniform(0.1, 0.9), "t"), (Onwards(), "s")):
        step = closed.step("student", models, batch, like, seed=3, student=spec)
        Matching(step_aware=True, times=times).losses("student", step)
        told = step.rollout.t if end == "t" else torch.full((6,), step.rollout.s, dtype=torch.float64)
        torch.testing.assert_close(seen.pop(), told)
    with pytest.raises(UserError, match="target_time=true"):
        options = {"student": StudentSpec(4, FewStep("ode"))}
        gradients(closed, Matching(step_aware=True, times=Onwards()), cast(closed), count=4, **options)
    assert Matching(step_aware=True).roles["fake_score"].start == "student"


def test_errors_of_two_steps_cancel_for_a_critic_that_is_not_told(closed):
    """Half of the samples at mu - d, half at mu + d: the mean gap of each is d's, that from the mixture nothing."""
    t, d = 0.5, 0.4
    a, _, s = PATH.coefficients(t)
    total = {}
    for told in (True, False):
        means = torch.tensor([[MU - d], [MU + d]], dtype=torch.float64)
        mixture = MixtureDenoiser(PATH, Mixture(means, BIG**0.5, torch.full((2,), 0.5).double()))
        for side in (-1, 1):
            fake = closed.gaussian(MU + side * d, BIG, PATH) if told else mixture
            models = cast(closed, student=(MU + side * d, BIG)) | {"fake_score": fake}
            _, found = gradients(closed, Matching(normaliser="none", times=At(t)), models)
            total[told, side] = float(found[0])
    v_p = float(a**2 * BIG + s**2)
    for side in (-1, 1):
        assert total[True, side] == pytest.approx(side * d * float(s**2) / v_p, abs=5e-3)
        assert abs(total[False, side]) < 0.15 * abs(total[True, side])


def test_only_states_need_a_critic_that_is_told(closed):
    """A student of one step has one kind of sample: there is nothing to tell."""
    losses, _ = gradients(closed, Matching(step_aware=True), cast(closed), count=4)
    assert losses.terms["matching"].isfinite()


def test_two_equal_teachers_pull_twice_as_hard(closed):
    models = cast(closed)
    models["adapted"] = copy.deepcopy(models["teacher"])
    one, two = Matching(), Matching(real="adapted", critic="shared")
    _, single = gradients(closed, one, models, count=64)
    both = Weighted({"a": one, "b": two}, {"a": 1.0, "b": 1.0})
    _, double = gradients(closed, both, models, count=64)
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(2 * a, b)
    assert both.cost("student") == {"student": 1, "teacher": 1, "adapted": 1, "fake_score": 1}
    assert both.roles["adapted"].start == "teacher" and both.cost("adapted") == {"adapted": 1}


def test_a_second_teacher_learns_the_data(closed):
    """Its gradient vanishes at the data's denoiser and points there from beside."""
    g, t = generator("target"), 0.5
    a, _, s = PATH.coefficients(t)
    x0 = MU + BIG**0.5 * torch.randn(100_000, 1, generator=g, dtype=torch.float64)
    slope = float(a * BIG / (a**2 * BIG + s**2))
    for off in (0.0, 0.2):
        models = cast(closed) | {"adapted": closed.student(float(MU - slope * a * MU) + off, slope, PATH)}
        step = closed.step("adapted", models, Batch(x0))
        losses = Matching(real="adapted", critic_weighting="uniform", times=At(t)).losses("adapted", step)
        (shift,) = closed.gradient(losses, models["adapted"].network.shift)
        assert float(shift) == pytest.approx(off, abs=0.01)


def test_a_replaced_label_is_what_the_teacher_is_asked_about(closed):
    """The student's samples of class 0 are moved as the teacher of class 1 says, those of class 1 as ever."""
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    models = {
        "teacher": task.exact_teacher(),
        "fake_score": task.exact_teacher(),
        "student": closed.student(0, 1, PATH),
    }
    labels = torch.tensor([0, 0, 1, 1])
    like = torch.empty(4, 1, dtype=torch.float64)
    objective = Matching(normaliser="none", replaced={0: 1})
    step = closed.step("student", models, Batch(None, Context(labels), 4), like, null=task.null)
    losses = objective.losses("student", step)
    (gradient,) = torch.autograd.grad(losses.terms["matching"], step.rollout.x0)
    x_t, t = step.noised(objective.times)
    at = [task.exact_teacher()(x_t, t, Context(c)).mean for c in (labels, torch.ones_like(labels))]
    torch.testing.assert_close(4 * gradient, at[0] - at[1])
    assert bool((gradient[:2] != 0).all()) and bool((gradient[2:] == 0).all())
    assert "condition" in objective.needs


def test_zero_and_anti_guidance_have_their_fixed_gaps(closed):
    """With both exact for the conditional law: a critic without condition leaves D_u - D_c, one of scale k leaves
    -(1 - k)(D_c - D_u)."""
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    labels = torch.tensor([0, 1, 1, 0])
    like = torch.empty(4, 1, dtype=torch.float64)
    for scale in (0.0, -0.5):
        models = {"teacher": task.exact_teacher(), "fake_score": task.exact_teacher(),
                  "student": closed.student(0.1, 0.9, PATH)}  # fmt: skip
        objective = Matching(normaliser="none", fake_guidance=scale, drop_condition=0.5)
        step = closed.step("student", models, Batch(None, Context(labels), 4), like, null=task.null)
        losses = objective.losses("student", step)
        (gradient,) = torch.autograd.grad(losses.terms["matching"], step.rollout.x0)
        x_t, t = step.noised(objective.times)
        exact = task.exact_teacher()
        with_label = exact(x_t, t, Context(labels)).mean
        without = exact(x_t, t, Context(torch.full_like(labels, task.null))).mean
        torch.testing.assert_close(4 * gradient, -(1 - scale) * (with_label - without))
        assert (
            models["fake_score"].calls
            == objective.cost("student")["fake_score"]
            == (1 if scale == 0.0 else 2)
        )


def test_a_range_of_guidance_is_drawn_for_each_sample_and_used_for_both(closed):
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    objective = Matching(normaliser="none", guidance=[1.0, 3.0], fake_guidance=None)
    assert objective.guidance_range == (1.0, 3.0)
    labels, like = torch.tensor([0, 1, 1, 0]), torch.empty(4, 1, dtype=torch.float64)
    models = {"teacher": task.exact_teacher(), "fake_score": closed.student(0.2, 0.4, PATH),
              "student": closed.student(0.1, 0.9, PATH)}  # fmt: skip
    step = closed.step("student", models, Batch(None, Context(labels), 4), like, null=task.null,
                       guidance_range=(1.0, 3.0))  # fmt: skip
    losses = objective.losses("student", step)
    (gradient,) = torch.autograd.grad(losses.terms["matching"], step.rollout.x0)
    x_t, t = step.noised(objective.times)
    c = models["teacher"](x_t, t, Context(labels)).mean
    u = models["teacher"](x_t, t, Context(torch.full_like(labels, task.null))).mean
    real = u + step.context.guidance.double()[:, None] * (c - u)
    torch.testing.assert_close(4 * gradient, (0.2 + 0.4 * x_t - real).detach())
    assert len(step.context.guidance.unique()) == 4


def test_a_blind_teacher_and_the_condition_alone_make_the_conditional_gap(closed):
    """(D_fake - D_u) + (D_u - D_c) = D_fake - D_c: JDM's two terms, at one noised copy."""
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    labels, like = torch.tensor([0, 1, 1, 0]), torch.empty(4, 1, dtype=torch.float64)
    models = {"teacher": task.exact_teacher(), "fake_score": closed.student(0.2, 0.4, PATH),
              "student": closed.student(0.1, 0.9, PATH)}  # fmt: skip
    split = {"a": Matching(normaliser="none", guidance=0.0),
             "b": Matching(normaliser="none", critic="unconditional")}  # fmt: skip
    found = []
    for objective in (Weighted(split, {"a": 1.0, "b": 1.0}), Matching(normaliser="none")):
        before = models["teacher"].calls
        step = closed.step("student", models, Batch(None, Context(labels), 4), like, null=task.null)
        losses = objective.losses("student", step)
        found.append(torch.autograd.grad(sum(losses.terms.values()), step.rollout.x0)[0])
        assert models["teacher"].calls - before == objective.cost("student")["teacher"]
    torch.testing.assert_close(*found)


def test_a_group_shares_its_scale():
    values = torch.tensor([1.0, 3.0, 5.0, 7.0])
    labels = Context(torch.tensor([0, 0, 1, 2]))
    torch.testing.assert_close(grouped(values, labels), torch.tensor([2.0, 2.0, 5.0, 7.0]))
    torch.testing.assert_close(grouped(values, Context()), torch.full((4,), 4.0))


@pytest.mark.parametrize("options, message", [
    ({"gradient": "sid"}, "unknown gradient 'sid'"), ({"divergence": "kl"}, "unknown divergence"),
    ({"gradient": "identity", "critic": "none"}, "needs a critic"), ({"data_share": 1.5}, "data_share"),
    ({"follow": 1.0}, "follow is a share"), ({"guidance": [3.0, 1.0]}, "a range"),
    ({"ratio_limits": (2.0, 1.0)}, "0 < low < high"),
])  # fmt: skip
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Matching(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind, options", [
    ("points", {"gradient": "identity", "alpha": 1.2}), ("points", {"times": Onwards()}),
    ("points", {"normaliser": "group"}), ("points", {"data_share": 0.5}),
    ("tokens", {"normaliser": "group"}),
])  # fmt: skip
def test_padding_changes_nothing(closed, kind, options):
    closed.check_padding(Matching(**options), kind)


def test_calls_are_those_declared(closed):
    """Beside a discriminator, too, whose features come with the critic's belief."""
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True, network={"width": 8, "depth": 1})
    batch = task.batch(4, generator(0))
    for options in ({}, {"fake_guidance": 0.0}, {"guidance": 0.0}, {"guidance": 2.0, "fake_guidance": None},
                    {"gradient": "identity"}, {"data_share": 0.5}, {"divergence": "jensen_shannon"},
                    {"divergence": "jensen_shannon", "fake_guidance": 2.0}):  # fmt: skip
        parts = {"m": Matching(**options), "a": Adversarial()}
        objective = Weighted(parts, {"m": 1.0, "a": 1.0})
        made = [NetworkDenoiser(task.network(), task.path, **task.reading()) for _ in range(2)]
        models = {"teacher": task.exact_teacher(), "student": made[0], "fake_score": made[1],
                  "discriminator": objective.roles["fake_score"].modules["discriminator"](made[1])}  # fmt: skip
        for role in ("student", "fake_score"):
            before = {name: model.calls for name, model in models.items() if isinstance(model, Denoiser)}
            objective.losses(role, closed.step(role, models, batch, null=task.null))
            calls = {n: models[n].calls - k for n, k in before.items() if models[n].calls != k}
            assert calls == objective.cost(role), (options, role)


def test_a_recipe_of_several_steps_tells_its_critic(tmp_path):
    """Without being asked: dmd2 at four steps has a second time in student and critic, at one step it has none."""
    from omnidistill.configuration.compose import build, compose
    from omnidistill.runs import setup

    def told(*overrides):
        small = "task.network={width: 8, depth: 1}"
        cfg = compose("config", ["task=exact/gaussian_mixture", small, f"out={tmp_path}", *overrides])
        return setup.is_told(cfg, build(cfg.task))

    assert not told("recipe=dmd2") and not told("recipe=diff-instruct", "student.steps=4")
    assert told("recipe=dmd2", "student.steps=4") and told("recipe=dmd2", "student.walks=[1,2]")
    assert not told("recipe=dmd2", "student.steps=4", "student.target_time=false")
    assert not told("recipe=ladd", "families.adversarial.step_heads=true"), (
        "heads have the step from elsewhere"
    )
