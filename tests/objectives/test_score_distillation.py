"""Score distillation without a learned critic, on Gaussians and mixtures, where every gap has a closed form.

Teacher p = N(mu, V), noised N(alpha mu, V_p) with V_p = alpha^2 V + sigma^2; `D = mu + alpha V / V_p (x_t - alpha mu)`.
"""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.exact.gaussian_mixture import MixtureDenoiser
from omnidistill.exact.mixture import Mixture
from omnidistill.objectives import Matching
from omnidistill.objectives.critics import Corrective, Delta, Later, Negative
from omnidistill.objectives.localised import Localised
from omnidistill.objectives.noising import Inverted, Seeded, Selected, telling
from omnidistill.random import generator
from omnidistill.testing import check_objective
from omnidistill.times import Annealed, Uniform

M, V, MU, BIG = 0.7, 0.5, -0.4, 1.3  # m, v of the student, mu and the teacher's variance V
FLOW = paths.rectified_flow()
SEED = 3  # of seeds four of which the teacher takes to its lighter mode
PLAIN = {"normaliser": "none", "weighting": "alpha_sigma"}


@dataclass(frozen=True)
class At:
    """Always this time."""

    t: float

    def __call__(self, count, path, g):
        return torch.full((count,), self.t, dtype=torch.float64)


def scales(t):
    alpha, _, sigma = FLOW.coefficients(t)
    return alpha, sigma, alpha**2 * BIG + sigma**2


def models(closed, student=(M, V**0.5), **more):
    return {"teacher": closed.gaussian(MU, BIG, FLOW), "student": closed.student(*student, FLOW), **more}


def gradients(closed, objective, cast, count=100_000, role="student", batch=None):
    batch, like = closed.free(count) if batch is None else (batch, None)
    step = closed.step(role, cast, batch, like)
    losses = objective.losses(role, step)
    network = cast[role].network
    return (*closed.gradient(losses, network.shift, network.scale), losses, step)


def labelled(label=0):
    """Two labelled classes and one that nobody wants, in the plane; the context asks for one of them."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.5]], dtype=torch.float64)
    law = Mixture(means, 0.6, torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64))
    context = Context(condition=torch.full((64,), label))
    return MixtureDenoiser(FLOW, law), Batch(None, context, 64), torch.empty(64, 2, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_sds_moves_by_the_distance_to_the_posterior_mean(closed, t):
    """Per sample `alpha sigma (x0 - D(x_t))`; over the noise `alpha sigma^3 / V_p (x0 - mu)`, so a fixed sample is
    drawn to the mode, and a law shrinks onto it: mode seeking."""
    shift, scale, _, _ = gradients(closed, Matching("none", times=At(t), **PLAIN), models(closed))
    alpha, sigma, v_p = scales(t)
    pull = alpha * sigma**3 / v_p
    torch.testing.assert_close(shift, pull * (M - MU), rtol=0.03, atol=2e-3)
    torch.testing.assert_close(scale, pull * V**0.5, rtol=0.05, atol=2e-3)  # also at V = v: towards a point


def test_noise_free_gap_is_domain_and_condition(closed):
    """`alpha / sigma` times the gap is `delta_D + s delta_C`, with delta_D = eps(null) early and eps(null) -
    eps(negative) later; without a label and late the condition alone is left."""
    teacher, batch, like = labelled()
    cast = {"teacher": teacher, "student": closed.student(0.1, 0.8, FLOW)}
    for t in (0.1, 0.7):
        for label in (2, None):
            objective = Matching(Negative(label, 0.25), times=At(t), guidance=7.5, **PLAIN)
            step = closed.step("student", cast, batch, like, null=3)
            x_t, at = step.noised(objective.times)
            fake = objective._fake(step, x_t, at)
            gap = fake.gap(step.guided("teacher", 7.5)(x_t, at, step.context))
            alpha, _, sigma = FLOW.coefficients(t)

            def eps(label, x_t=x_t, at=at, alpha=alpha, sigma=sigma):
                context = Context(condition=torch.full((64,), label))
                return (x_t - alpha * teacher(x_t, at, context).parameters) / sigma

            domain = eps(3) if t < 0.2 else eps(3) - eps(3 if label is None else label)
            expected = domain + 7.5 * (eps(0) - eps(3))
            torch.testing.assert_close(alpha / sigma * gap, expected)
            if t > 0.2 and label is None:
                blind = Matching("unconditional", times=At(t), **PLAIN)._fake(step, x_t, at)
                torch.testing.assert_close(fake.parameters, blind.parameters)


def test_inverted_noise_lies_on_the_exact_trajectory(closed):
    """On a Gaussian `(x_t - alpha mu) / sqrt(V_p)` is constant along the deterministic trajectory; twice the steps
    halve what is missed, and the same solver downwards comes back to the sample."""
    t, missed = 0.7, []
    cast = models(closed)
    for steps in (20, 40):
        noised = Inverted(At(t), steps=steps)
        step = closed.step("student", cast, *closed.free(64))
        x_t, at = step.noised(noised)
        x0 = step.rollout.x0.detach()
        (a, _, v), (b, _, w) = (scales(u) for u in (0.01, t))
        exact = b * MU + (w / v).sqrt() * (a * x0 - a * MU)
        missed.append(float((x_t.detach() - exact).abs().mean()))
        down = x_t.detach()
        for k in range(steps):
            u, s = (torch.full((64,), t + (0.01 - t) * j / steps, dtype=torch.float64) for j in (k, k + 1))
            down = FLOW.bridge(down, cast["teacher"](down, u).parameters, u, s)
        assert float((down - a * x0).abs().mean()) < 0.1
        assert not torch.equal(at, torch.zeros_like(at))
    assert missed[0] < 0.03
    assert missed[0] / missed[1] == pytest.approx(2.0, rel=0.2)


def test_inversion_takes_the_variance_out_of_the_update(closed):
    """One sample, many draws: SDS's update is mostly noise, the inverted one always the same."""
    spread = {}
    for name, times in (("drawn", At(0.5)), ("inverted", Inverted(At(0.5), 10))):
        cast = models(closed, student=(M, 0.0))
        step = closed.step("student", cast, *closed.free(2000))
        x_t, t = step.noised(times)
        spread[name] = float((step.rollout.x0 - cast["teacher"](x_t, t).parameters).detach().std())
    assert spread["inverted"] < 1e-6 < 0.1 < spread["drawn"]


def test_seeds_lead_to_modes_of_their_own(closed):
    """Six scenes at the origin between two modes, one heavier: with drawn noise all go where most do, with seeded noise
    each to the mode that the teacher's own sampler makes of its seed."""
    law = Mixture(
        torch.tensor([[1.0], [-1.0]], dtype=torch.float64),
        0.15,
        torch.tensor([0.7, 0.3], dtype=torch.float64),
    )
    teacher, count = MixtureDenoiser(FLOW, law), 6

    class Points(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(count, 1, dtype=torch.float64))

        def forward(self, x, t, condition):
            return self.place[condition["particle"]]

    times = Annealed(0.02, 0.98, 0.05, width=0.05)
    context = Context(condition={"particle": torch.arange(count)})
    like = torch.empty(count, 1, dtype=torch.float64)
    ends = {}
    for name, of in (("drawn", times), ("seeded", Seeded(times, steps=16, seed=SEED))):
        student = NetworkDenoiser(Points(), FLOW, "x0")
        cast = {"teacher": teacher, "student": student}
        objective = Matching("none", times=of, normaliser="none")
        for update in range(120):
            step = closed.step(
                "student", cast, Batch(None, context, count), like, seed=update, update=update, total=120
            )
            (moved,) = closed.gradient(objective.losses("student", step), student.network.place)
            with torch.no_grad():
                student.network.place -= 0.8 * count * moved
        ends[name] = student.network.place.detach().squeeze(1).sign()
    seeds = [FLOW.prior(like[:1], g=generator("seed", SEED, k)) for k in range(count)]
    down, z = torch.linspace(1.0, 0.0, 65, dtype=torch.float64), torch.cat(seeds)
    for u, s in pairwise(down):
        z = FLOW.bridge(z, teacher(z, u.expand(count)).parameters, u, s)
    assert len(z.sign().unique()) == 2, "the seeds of this test are of both modes"
    torch.testing.assert_close(ends["seeded"], z.squeeze(1).sign())
    assert not torch.equal(ends["drawn"], ends["seeded"])


def test_without_numbers_the_seed_is_what_the_student_was_given(closed):
    cast = models(closed)
    step = closed.step("student", cast, *closed.free(16))
    t = 0.98
    x_t, _ = step.noised(Seeded(At(t), steps=1))
    alpha, sigma, _ = scales(t)
    # Near the prior the trajectory has hardly moved.
    noise = (x_t - alpha * step.rollout.x0).detach() / sigma
    torch.testing.assert_close(noise, step.rollout.x_t, atol=0.08, rtol=0.0)


def test_the_later_critic_is_the_teachers_noise_there(closed):
    """The gap of noises is eps(x_t, t) - eps(x_u, u); at the teacher's own law it is zero for the place, and what it
    does to the width is known: with x = m + sqrt(v) z, `E[z eps(x_t)] = alpha sigma sqrt(v) / V_p` at each time."""
    t, u = 0.4, 0.4 + 0.5 * 0.38
    later = Later(ratio=0.5, drawn=False)
    objective = Matching(later, times=At(t), **PLAIN)
    cast = models(closed, student=(MU, BIG**0.5))
    shift, scale, _, step = gradients(closed, objective, cast, 400_000)
    alpha, sigma, v_p = scales(t)
    alpha_u, sigma_u, v_u = scales(u)
    torch.testing.assert_close(shift, torch.zeros_like(shift), rtol=0.0, atol=2e-3)
    expected = sigma**2 * BIG**0.5 * (alpha * sigma / v_p - alpha_u * sigma_u / v_u)
    torch.testing.assert_close(scale, expected, rtol=0.0, atol=2e-3)
    x_t, at = step.noised(objective.times)
    fake = objective._fake(step, x_t, at).parameters
    x0 = step.rollout.x0
    noise = (x_t - alpha * x0) / sigma
    x_u = alpha_u * x0 + sigma_u * noise
    there = (x_u - alpha_u * cast["teacher"](x_u, torch.full_like(at, u)).parameters) / sigma_u
    torch.testing.assert_close((x_t - alpha * fake) / sigma, there)


def test_a_corrective_leaves_no_pull_without_guidance(closed):
    """b(x0, t) = mu + alpha^2 V / V_p (x0 - mu) is E[D(x_t) | x0]: its loss rests there, and the mean update is zero
    wherever the student is."""
    t = 0.6
    alpha, _, v_p = scales(t)
    gain = float(alpha**2 * BIG / v_p)
    b = closed.student((1 - gain) * MU, gain, FLOW)
    data = MU + BIG**0.5 * torch.randn(100_000, 1, generator=generator("data"), dtype=torch.float64)
    objective = Matching(Corrective(), times=At(t), **PLAIN)
    cast = models(closed, corrective=b)
    shift, scale, losses, _ = gradients(closed, objective, cast, role="corrective", batch=Batch(data))
    assert abs(float(shift)) < 3e-3 and abs(float(scale)) < 3e-3 and "corrective" in losses.terms
    shift, scale, _, _ = gradients(closed, objective, models(closed, corrective=b))
    assert abs(float(shift)) < 3e-3 and abs(float(scale)) < 3e-3
    plain, _, _, _ = gradients(closed, Matching("none", times=At(t), **PLAIN), models(closed))
    assert float(plain) > 0.05


def test_an_adversarial_critic_goes_away_from_the_teacher(closed):
    """Its loss rests at (E[x0 | x_t] + gamma D) / (1 + gamma), so that the gap is 1 / (1 + gamma) of the plain one."""
    gamma, t = -0.5, 0.4
    alpha, sigma, v_p = scales(t)
    v_q = alpha**2 * V + sigma**2
    mine, theirs = (alpha * V / v_q, alpha * BIG / v_p)
    own = (M - mine * alpha * M, mine)
    real = (MU - theirs * alpha * MU, theirs)
    at_rest = [float((a + gamma * b) / (1 + gamma)) for a, b in zip(own, real, strict=True)]
    objective = Matching(critic_teacher=gamma, times=At(t), **PLAIN)
    for fake, rests in ((at_rest, True), ([float(v) for v in own], False)):
        cast = models(closed, fake_score=closed.student(*fake, FLOW))
        batch, like = closed.free(200_000)
        step = closed.step("fake_score", cast, batch, like)
        network = cast["fake_score"].network
        found = closed.gradient(objective.losses("fake_score", step), network.shift, network.scale)
        assert (max(abs(float(g)) for g in found) < 4e-3) == rests
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    gap = (at_rest[0] + at_rest[1] * x) - (real[0] + real[1] * x)
    torch.testing.assert_close(gap, ((own[0] + own[1] * x) - (real[0] + real[1] * x)) / (1 + gamma))


def test_what_a_gradient_says_is_its_size_and_how_few_it_gathers_in():
    even, peak = torch.ones(1, 8), torch.zeros(1, 8)
    peak[0, 0] = 8.0
    assert float(telling(peak)) == pytest.approx(0.0, abs=1e-6)  # log 1 - 0
    assert float(telling(even)) == pytest.approx(-1.0, abs=1e-6)  # log 1 - log 8 / log 8
    assert float(telling(2.0 * even) - telling(even)) == pytest.approx(0.6931, abs=1e-4)


def test_of_several_copies_the_one_that_says_most_is_taken(closed):
    """Against one copy each, the selected ones say more on average; the noise they are of is their own."""
    said = {}
    for name, times in (("one", Uniform(0.02, 0.98)), ("selected", Selected(candidates=6))):
        teacher, batch, like = labelled(3)
        cast = {"teacher": teacher, "student": closed.student(0.2, 0.5, FLOW)}
        step = closed.step("student", cast, batch, like, null=3)
        x_t, t = step.noised(times)
        alpha, _, sigma = FLOW.coefficients(t)
        gap = (alpha / sigma)[:, None] * (step.rollout.x0 - teacher(x_t, t, step.context).parameters)
        said[name] = float(telling(gap.detach()).mean())
    assert said["selected"] > said["one"] + 0.3


def test_a_localised_gap_has_one_size_and_stays_where_it_is_small(closed):
    g = generator("gap")
    small = torch.randn(3, 50, generator=g, dtype=torch.float64)
    small[:, 0] = 6.0
    gap = torch.stack([1e-3 * small[0], small[1], 1e-6 * small[2]])
    step = closed.step("student", models(closed), *closed.free(3))
    even = Localised(focus=0.0)(step, gap)
    torch.testing.assert_close(even.square().mean(1), torch.ones(3, dtype=torch.float64))
    held = Localised(focus=1.0)(step, gap)
    torch.testing.assert_close(held[:, 0], even[:, 0])
    inner = even.abs() < 1
    torch.testing.assert_close(held[inner], (even * even.abs())[inner])
    left = Localised(focus=0.0, least=0.5)(step, gap)
    assert bool((left[[0, 2]] == 0).all()) and torch.equal(left[1], even[1])


def test_a_sample_is_drawn_back_to_what_it_was(closed):
    """Where teacher and critic agree only the source is left: its gradient is stay (x0 - source)."""
    source = closed.student(0.1, 0.3, FLOW)
    cast = models(closed, source=source, fake_score=closed.gaussian(MU, BIG, FLOW))
    objective = Matching("frozen", shape=Localised(stay=0.25), **{**PLAIN, "weighting": "uniform"})
    assert objective.roles["source"].refresh == 0
    shift, _, _, _ = gradients(closed, objective, cast, 50_000)
    torch.testing.assert_close(
        shift, torch.tensor(0.25 * (M - 0.1), dtype=torch.float64), rtol=0.02, atol=2e-3
    )


def test_an_edit_is_left_of_two_predictions_and_ends(closed):
    """The gap of noises is eps(x_t, target) - eps(source_t, source label); at x0 = source + the difference of the two
    classes' means it is zero for every noise."""
    teacher, batch, like = labelled(1)
    means = teacher.mixture.means
    start = closed.student(0.2, 0.5, FLOW)

    class Moved(torch.nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = torch.nn.Parameter(by)

        def forward(self, x, t, condition):
            return start.network(x, t) + self.by

    objective = Matching(Delta(0), times=At(0.6), **PLAIN)
    assert objective.roles["source"].refresh == 0
    for by, rests in ((means[1] - means[0], True), (torch.zeros(2, dtype=torch.float64), False)):
        cast = {"teacher": teacher, "student": NetworkDenoiser(Moved(by), FLOW, "x0"), "source": start}
        step = closed.step("student", cast, batch, like, null=3)
        x_t, t = step.noised(objective.times)
        alpha, _, sigma = FLOW.coefficients(0.6)
        gap = objective._fake(step, x_t, t).gap(teacher(x_t, t, step.context))
        source_t = x_t - alpha * by
        there = Context(condition=torch.zeros(64, dtype=torch.long))
        noises = [
            (state - alpha * teacher(state, t, context).parameters) / sigma
            for state, context in ((x_t, step.context), (source_t, there))
        ]
        torch.testing.assert_close(alpha / sigma * gap, noises[0] - noises[1])
        assert (float(gap.detach().abs().max()) < 1e-9) == rests


def test_annealed_times_fall(closed):
    times, g = Annealed(0.1, 0.9, 0.3, power=0.5), generator("annealed")
    for over, top in ((0.0, 0.9), (0.25, 0.6), (1.0, 0.3)):
        drawn = times(4000, FLOW, g, over)
        assert float(drawn.min()) == pytest.approx(0.1, abs=0.01)
        assert float(drawn.max()) == pytest.approx(top, abs=0.01) and float(drawn.max()) <= top
    narrow = Annealed(0.1, 0.9, 0.3, width=0.1)(4000, FLOW, g, 0.5)
    assert float(narrow.min()) == pytest.approx(0.5, abs=0.01)
    step = closed.step("student", models(closed), *closed.free(2000), update=50, total=100)
    assert float(step.noised(times)[1].max()) < 0.48 and step.asked_total


@pytest.mark.parametrize(
    "objective",
    [
        Matching("none", guidance=7.5, **PLAIN),
        Matching(Negative(2), guidance=7.5, **PLAIN),
        Matching(Negative(None, 0.0), guidance=7.5, shape=Localised(stay=0.1), **PLAIN),
        Matching(Delta(1), guidance=7.5, shape=Localised(stay=0.1), **PLAIN),
        Matching(Later(), guidance=7.5, times=Seeded(steps=3, guidance=7.5), **PLAIN),
        Matching(Corrective(), guidance=7.5, **PLAIN),
        Matching(critic_teacher=-0.75, guidance=7.5, **PLAIN),
        Matching("none", guidance=7.5, times=Inverted(steps=4, guidance=-7.5), **PLAIN),
        Matching("none", guidance=7.5, times=Selected(candidates=3, guidance=7.5), **PLAIN),
        Matching("none", guidance=7.5, times=Annealed(), **PLAIN),
    ],
    ids=lambda o: f"{type(o.stand_in).__name__}-{type(o.times).__name__}",
)
def test_calls_are_those_declared(objective):
    task = GaussianMixtureTask(conditional=True, network={"width": 16, "depth": 1})
    assert check_objective(objective, task)


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda: Negative(bare=-1.0), "bare"),
        (lambda: Later(ratio=0.0), "ratio"),
        (lambda: Inverted(steps=0), "steps"),
        (lambda: Seeded(steps=0), "steps"),
        (lambda: Selected(candidates=1), "candidates"),
        (lambda: Localised(stay=1.0), "stay"),
        (lambda: Annealed(end=0.01), "annealed"),
        (lambda: Annealed(width=0.0), "width"),
        (lambda: Matching("none", critic_teacher=-0.5), "critic_teacher"),
        (lambda: Matching(critic_teacher=-1.0), "critic_teacher"),
        (lambda: Matching(gradient="identity", shape=Localised()), "shape"),
        (lambda: Matching("nobody"), "critic"),
    ],
)
def test_wrong_options_are_one_line(made, message):
    with pytest.raises(UserError, match=message) as caught:
        made()
    assert "\n" not in str(caught.value)


def test_a_negative_label_needs_labels(closed):
    objective = Matching(Negative(2), times=At(0.5), **PLAIN)
    with pytest.raises(UserError, match="negative label"):
        objective.losses("student", closed.step("student", models(closed), *closed.free(4)))
