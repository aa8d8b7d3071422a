"""Distribution matching on Gaussians, where beliefs, gaps and divergences have closed forms, and on tokens.

The student's law is q = N(m, v), the teacher's p = N(mu, V); noised they are N(alpha m, V_q) and N(alpha mu, V_p) with
V_q = alpha^2 v + sigma^2 and V_p = alpha^2 V + sigma^2.
"""

from dataclasses import dataclass

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Guided
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Matching, Weighted
from omnidistill.objectives.step import Step
from omnidistill.random import generator
from omnidistill.times import Uniform

M, V, MU, BIG = 0.7, 0.5, -0.4, 1.3  # m, v, mu and the teacher's variance V


@dataclass(frozen=True)
class At:
    """Always this time."""

    t: float

    def __call__(self, count, path, g):
        return torch.full((count,), self.t, dtype=torch.float64)


def cast(closed, *, student=(M, V**0.5), fake=(M, V), real=(MU, BIG), path=None):
    path = path or paths.rectified_flow()
    return {
        "teacher": closed.gaussian(*real, path),
        "student": closed.student(*student, path),
        "fake_score": closed.gaussian(*fake, path),
    }


def variances(t, path=None):
    alpha, _, sigma = (path or paths.rectified_flow()).coefficients(t)
    return alpha, sigma, alpha**2 * V + sigma**2, alpha**2 * BIG + sigma**2


def test_equal_laws_have_no_gap(closed):
    """Two exact denoisers of one law agree at every x_t: the loss is exactly zero and so is its gradient."""
    models = cast(closed, fake=(MU, BIG), student=(0.3, 2.0))
    batch, like = closed.free(256)
    step = closed.step("student", models, batch, like)
    losses = Matching().losses("student", step)
    assert losses.terms["matching"] == 0.0
    assert losses.diagnostics["matching/gap"] == 0.0
    network = models["student"].network
    assert all(g == 0.0 for g in closed.gradient(losses, network.shift, network.scale))


@pytest.mark.parametrize("t", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("name", ["rectified_flow", "trigflow", "edm"])
def test_gradient_is_that_of_the_kl_divergence(closed, t, name):
    """With weight snr the mean gradient of the loss is that of KL(q_t || p_t) with respect to m and sqrt(v):
    alpha^2 (m - mu) / V_p and alpha^2 sqrt(v) (1/V_p - 1/V_q)."""
    path = getattr(paths, name)()
    t = float(path.time_from_noise_level(t / (1 - t)))
    top = float(path.coefficients(1.0).sigma)  # the prior's scale
    models = cast(closed, path=path, student=(M, V**0.5 / top))
    batch, like = closed.free(200_000)
    step = closed.step("student", models, batch, like)
    losses = Matching(normaliser="none", weighting="snr", times=At(t)).losses("student", step)
    network = models["student"].network
    shift, scale = closed.gradient(losses, network.shift, network.scale)
    alpha, _, v_q, v_p = variances(t, path)
    # d/d sqrt(v) = d/d scale / top, for sqrt(v) = scale top.
    torch.testing.assert_close(shift, alpha**2 * (M - MU) / v_p, rtol=0.02, atol=4e-3)
    torch.testing.assert_close(scale / top, alpha**2 * V**0.5 * (1 / v_p - 1 / v_q), rtol=0.02, atol=4e-3)


def test_another_weight_is_not_the_kl_gradient(closed):
    """The test above can tell: a uniform weight misses by the factor snr."""
    models = cast(closed)
    batch, like = closed.free(50_000)
    losses = Matching(normaliser="none", times=At(0.2)).losses(
        "student", closed.step("student", models, batch, like)
    )
    (shift,) = closed.gradient(losses, models["student"].network.shift)
    alpha, sigma, _, v_p = variances(0.2)
    torch.testing.assert_close(shift, sigma**2 * (M - MU) / v_p, rtol=0.03, atol=1e-3)
    assert abs(float(shift / (alpha**2 * (M - MU) / v_p)) - 1) > 0.5


@pytest.mark.parametrize(
    "normaliser, weighting", [("x0", "uniform"), ("none", "snr"), ("none", "alpha_sigma")]
)
@pytest.mark.parametrize("away", [0.4, -0.4])
def test_the_gradient_points_home(closed, normaliser, weighting, away):
    """From a student too far right, left, wide or narrow, with the critic exact for it, a step goes back."""
    for index in (0, 1):
        student = [MU, BIG**0.5]
        student[index] += away
        models = cast(closed, student=student, fake=(student[0], student[1] ** 2))
        batch, like = closed.free(40_000)
        objective = Matching(normaliser=normaliser, weighting=weighting)
        losses = objective.losses("student", closed.step("student", models, batch, like))
        network = models["student"].network
        gradient = closed.gradient(losses, network.shift, network.scale)[index]
        assert float(gradient) * away > 0.0


def test_a_lagging_critic_biases_the_gap_by_a_known_amount(closed):
    """A critic of N(m - lag, v) answers lag sigma^2 / V_q too low: the gap is short by exactly that everywhere."""
    lag, t = 0.3, 0.35
    _, sigma, v_q, _ = variances(t)
    gradients = []
    for fake in ((M, V), (M - lag, V)):
        models = cast(closed, fake=fake)
        batch, like = closed.free(64)
        losses = Matching(normaliser="none", times=At(t)).losses(
            "student", closed.step("student", models, batch, like)
        )
        gradients.append(closed.gradient(losses, models["student"].network.shift)[0])
    torch.testing.assert_close(gradients[1] - gradients[0], -lag * sigma**2 / v_q, rtol=1e-12, atol=1e-14)


def test_normaliser_is_the_mean_distance_of_each_sample(closed):
    """n = mean |x0 - D_T| over a sample's elements; the loss of a sample is half the mean of (gap / n)^2."""
    path, dim = paths.rectified_flow(), 5
    models = {
        "teacher": closed.gaussian(MU, BIG, path, dim),
        "student": closed.student(M, V**0.5, path),
        "fake_score": closed.gaussian(M, V, path, dim),
    }
    batch, like = closed.free(7, dim)
    objective = Matching(weighting="alpha_sigma")
    step = closed.step("student", models, batch, like)
    losses = objective.losses("student", step)
    x_t, t = step.noised(objective.times)  # the memoised copy that the loss looked at
    x0 = step.rollout.x0.detach()
    fake, real = models["fake_score"](x_t, t).mean, models["teacher"](x_t, t).mean
    n = (x0 - real).abs().mean(1)
    alpha, _, sigma = path.coefficients(t)
    expected = 0.5 * ((alpha * sigma / n)[:, None] * (fake - real)).square().mean(1).mean()
    torch.testing.assert_close(losses.terms["matching"].detach(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses.diagnostics["matching/scale"], n.mean())
    assert losses.diagnostics["matching/floored"] == 0.0


def test_what_the_floor_replaces_is_counted(closed):
    """Where the teacher's answer is the sample itself nothing would be left to divide by."""
    models = cast(closed, student=(MU, 0.0), real=(MU, 1e-12))  # a teacher of one point, and a student on it
    models["student"].network.scale.requires_grad_(False)
    batch, like = closed.free(8)
    objective = Matching(times=At(0.5))
    losses = objective.losses("student", closed.step("student", models, batch, like))
    assert losses.diagnostics["matching/floored"] == 1.0
    assert losses.diagnostics["matching/scale"] == pytest.approx(objective.floor)
    assert torch.isfinite(losses.terms["matching"])


def test_swiftbrush_weight_is_sigma_squared_times_the_eps_gap(closed):
    """`alpha_sigma` on the x0 gap is sigma^2 (eps_T - eps_F), pointwise (SwiftBrush, eq. 5)."""
    path = paths.vp_linear()
    models = cast(closed, path=path)
    batch, like = closed.free(9)
    objective = Matching(normaliser="none", weighting="alpha_sigma")
    step = closed.step("student", models, batch, like)
    losses = objective.losses("student", step)
    (gradient,) = torch.autograd.grad(losses.terms["matching"], step.rollout.x0, retain_graph=True)
    x_t, t = step.noised(objective.times)
    alpha, _, sigma = (c[:, None] for c in path.coefficients(t))
    eps = [(x_t - alpha * models[name](x_t, t).mean) / sigma for name in ("teacher", "fake_score")]
    torch.testing.assert_close(gradient * len(x_t), sigma**2 * (eps[0] - eps[1]), rtol=1e-9, atol=1e-12)


def test_guidance_is_u_plus_s_times_c_minus_u(closed):
    """With both models exact for the conditional law the gap is -(s - 1)(D_c - D_u)."""
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    teacher = task.exact_teacher()
    student = closed.student(0.2, 0.8, task.path)
    labels = torch.tensor([0, 1, 1, 0])
    batch = Batch(None, Context(labels), 4)
    like = torch.empty(4, 1, dtype=torch.float64)
    for scale in (1.0, 3.5):
        objective = Matching(normaliser="none", guidance=scale, times=At(0.6))
        models = {"teacher": teacher, "student": student, "fake_score": task.exact_teacher()}
        step = closed.step("student", models, batch, like, null=task.null)
        losses = objective.losses("student", step)
        (gradient,) = torch.autograd.grad(losses.terms["matching"], step.rollout.x0, retain_graph=True)
        x_t, t = step.noised(objective.times)
        with_label = teacher(x_t, t, Context(labels)).mean
        without = teacher(x_t, t, Context(torch.full_like(labels, task.null))).mean
        torch.testing.assert_close(4 * gradient, -(scale - 1) * (with_label - without), rtol=1e-9, atol=1e-12)


def test_score_distillation_needs_no_critic(closed):
    """critic `none`: the sample stands for its own law; the gap is x0 - D_T (SDS), towards the mode."""
    objective = Matching(critic="none", normaliser="none", weighting="snr", times=At(0.4))
    assert objective.roles == {} and objective.cost("student") == {"student": 1, "teacher": 1}
    models = {k: v for k, v in cast(closed).items() if k != "fake_score"}
    batch, like = closed.free(50_000)
    step = closed.step("student", models, batch, like)
    losses = objective.losses("student", step)
    network = models["student"].network
    (one,) = torch.autograd.grad(losses.terms["matching"], step.rollout.x0, retain_graph=True)
    x_t, t = step.noised(objective.times)
    snr = paths.rectified_flow().log_snr(0.4).exp()
    expected = snr * (step.rollout.x0.detach() - models["teacher"](x_t, t).mean)
    torch.testing.assert_close(one * len(one), expected, rtol=1e-9, atol=1e-12)
    shift, scale = closed.gradient(losses, network.shift, network.scale)
    alpha, _, _, v_p = variances(0.4)
    torch.testing.assert_close(shift, alpha**2 * (M - MU) / v_p, rtol=0.02, atol=5e-3)
    # Without the critic's entropy term the spread only shrinks: alpha^2 sqrt(v) / V_p, positive for every v.
    torch.testing.assert_close(scale, alpha**2 * V**0.5 / v_p, rtol=0.02, atol=5e-3)


# --- tokens -------------------------------------------------------------------------------------------------------


def tokens(closed, **options):
    path = paths.MaskedPath(4, random_tokens=0.4)
    names = ("teacher", "student", "fake_score")
    models = {
        n: closed.Float64Logits(closed.RaggedNet(vocab=4, seed=i), path, "logits")
        for i, n in enumerate(names)
    }
    like = torch.empty(6, 5, dtype=torch.long)
    return models, closed.step("student", models, Batch(None, Context(), 6), like, **options)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_the_gradient_on_the_logits_is_the_gap_where_masked(closed, kind):
    """p_aux - p_T (or the reverse KL's) over batch and length on what the noised rollout masks, zero elsewhere."""
    models, step = tokens(closed)
    objective = Matching(normaliser="none", gap=kind, times=Uniform(0.0, 1.0))
    losses = objective.losses("student", step)
    (gradient,) = torch.autograd.grad(losses.terms["matching"], step.rollout.belief.parameters)
    x_t, t = step.noised(objective.times)
    fake, real = (models[n](x_t, t).log_probs for n in ("fake_score", "teacher"))
    expected = fake.exp() - real.exp()
    if kind == "reverse":
        ratio = fake - real
        expected = fake.exp() * (ratio - (fake.exp() * ratio).sum(-1, keepdim=True))
    masked = (x_t == 4).unsqueeze(-1)
    assert masked.any() and not masked.all()
    expected = torch.where(masked, expected, 0.0) / x_t.numel()
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-9, atol=1e-12)


def test_the_forward_gap_is_a_gradient_of_kl(closed):
    """p_F - p_T is d KL(T || F) / d logits of F, and the reverse gap that of KL(F || T)."""
    models, step = tokens(closed)
    x_t, t = step.noised(Uniform(0.2, 0.9))
    real = models["teacher"](x_t, t)
    for kind, divergence in (("forward", "forward"), ("reverse", "backward")):
        fake = models["fake_score"](x_t, t)
        fake = fake.replace(fake.parameters.detach().requires_grad_())
        (gradient,) = torch.autograd.grad(fake.divergence(real, divergence).sum(), fake.parameters)
        torch.testing.assert_close(fake.gap(real, kind).detach(), gradient, rtol=1e-7, atol=1e-10)


def test_equal_beliefs_on_tokens_have_no_gap(closed):
    models, step = tokens(closed)
    models["fake_score"].load_state_dict(models["teacher"].state_dict())
    losses = Matching(normaliser="none").losses("student", step)
    assert losses.terms["matching"] == 0.0


# --- who gets gradients, and the critic's own loss ----------------------------------------------------------------


def test_losses_reach_the_trained_role_alone(closed):
    path = paths.rectified_flow()
    for role in ("student", "fake_score"):
        names = ("teacher", "student", "fake_score")
        models = {name: closed.student(0.3 * i, 1.0 + 0.2 * i, path) for i, name in enumerate(names)}
        batch, like = closed.free(16)
        losses = Matching(critic_weighting="uniform").losses(role, closed.step(role, models, batch, like))
        for model in models.values():
            model.requires_grad_(True)  # after the fact: a gradient would show if the graph went there
        torch.stack(list(losses.terms.values())).sum().backward()
        for name, model in models.items():
            reached = [p.grad is not None and bool(p.grad != 0) for p in model.parameters()]
            assert all(reached) if name == role else not any(reached), (
                f"{role}'s loss and {name}'s parameters"
            )


def test_even_unfrozen_models_get_no_gradient_from_the_students_loss(closed):
    """Not only the engine's freezing keeps teacher and critic out: their beliefs are taken without a graph."""
    path = paths.rectified_flow()
    models = {name: closed.student(0.3, 1.1, path) for name in ("teacher", "student", "fake_score")}
    batch, like = closed.free(16)
    step = Step("student", batch, models, generator(0), like=like)
    Matching().losses("student", step).terms["matching"].backward()
    assert all(p.grad is None for n in ("teacher", "fake_score") for p in models[n].parameters())


def test_the_critic_learns_the_students_posterior_mean(closed):
    """Its denoising loss has zero gradient at the exact denoiser of the student's law and points there from beside."""
    path, t = paths.rectified_flow(), 0.5
    alpha, _, sigma = path.coefficients(t)
    v_q = alpha**2 * V + sigma**2
    slope = alpha * V / v_q
    batch, like = closed.free(100_000)
    for off, expected in ((0.0, 0.0), (0.2, 0.2)):
        models = {"student": closed.student(M, V**0.5, path), "teacher": closed.gaussian(MU, BIG, path)}
        models["fake_score"] = closed.student(float(M - slope * alpha * M) + off, float(slope), path)
        objective = Matching(critic_weighting="uniform", critic_times=At(t))
        losses = objective.losses("fake_score", closed.step("fake_score", models, batch, like))
        (shift,) = closed.gradient(losses, models["fake_score"].network.shift)
        assert float(shift) == pytest.approx(expected, abs=5e-3)


def test_a_frozen_critic_is_declared_and_never_trained():
    objective = Matching(critic="frozen")
    assert not objective.roles["fake_score"].trained
    assert objective.cost("fake_score") == {} and objective.cost("student")["fake_score"] == 1


def test_rollout_and_noised_copy_are_shared(closed):
    models = cast(closed)
    batch, like = closed.free(8)
    step = closed.step("student", models, batch, like)
    Weighted({"a": Matching(), "b": Matching(normaliser="none")}, {"a": 1, "b": 1}).losses("student", step)
    assert models["student"].calls == 1
    assert len(step._noised) == 1


@pytest.mark.parametrize("kind", ["points", "tokens"])
@pytest.mark.parametrize("role", ["student", "fake_score"])
@pytest.mark.parametrize("normaliser", ["x0", "none"])
def test_padding_changes_neither_loss_nor_gradient(closed, kind, role, normaliser):
    closed.check_padding(Matching(normaliser=normaliser), kind, role)


def test_guidance_counts_both_branches(closed):
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True, network={"width": 8, "depth": 1})
    objective = Matching(guidance=2.0, fake_guidance=2.0, drop_condition=0.2)
    batch = task.batch(4, generator(0))
    from omnidistill.denoisers import NetworkDenoiser

    made = [NetworkDenoiser(task.network(), task.path, **task.reading()) for _ in range(2)]
    models = {"teacher": task.exact_teacher(), "student": made[0], "fake_score": made[1]}
    for role in ("student", "fake_score"):
        before = {name: model.calls for name, model in models.items()}
        objective.losses(role, closed.step(role, models, batch, null=task.null))
        calls = {n: m.calls - before[n] for n, m in models.items() if m.calls != before[n]}
        assert calls == objective.cost(role)
    assert isinstance(closed.step("student", models, batch, null=task.null).guided("teacher", 2.0), Guided)


@pytest.mark.parametrize("options, message", [
    ({"critic": "oracle"}, "unknown critic 'oracle'"),
    ({"normaliser": "l2"}, "unknown normaliser 'l2'"),
    ({"critic_updates": 0}, "critic_updates >= 1"),
])  # fmt: skip
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Matching(**options)
    assert "\n" not in str(caught.value)


def test_score_distillation_in_the_papers_own_terms(closed):
    """SDS: `w(t) (eps_hat - eps)` on the sample with w = sigma^2, which is `alpha_sigma` times the x0-gap."""
    path = closed.flow()
    models = {"teacher": closed.gaussian(0.3, 0.5, path), "student": closed.student(0.5, 0.8, path)}
    batch, like = closed.free(16)
    objective = Matching(critic="none", normaliser="none", weighting="alpha_sigma")
    step = closed.step("student", models, batch, like)
    losses = objective.losses("student", step)
    found = torch.autograd.grad(losses.terms["matching"], step.rollout.belief.parameters)[0]
    x_t, t = step.noised(objective.times)
    alpha, _, sigma = (c[:, None] if c is not None else None for c in path.coefficients(t))
    eps = (x_t - alpha * step.rollout.x0) / sigma
    guess = (x_t - alpha * models["teacher"](x_t, t).mean) / sigma
    torch.testing.assert_close(found, sigma**2 * (guess - eps) / 16, rtol=1e-9, atol=1e-12)
