"""From a belief to the next state: the law that every transition keeps, at every temperature; whole trajectories."""

import itertools

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.posteriors import CategoricalPosterior, PointPosterior
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.samplers.predictor_corrector import PredictorCorrector

F64 = torch.float64
JUMPS = [(0.9, 0.85), (0.7, 0.2), (1.0, 0.5)]


def around(path, like):
    return Context(anchor=torch.full_like(like, 0.7)) if "anchored" in path.offers else Context()


def variance_after(path, t, s, **how):
    """Of x_s given x0: x_t holds temperature sigma_t of noise, of which the law keeps k, and draws its std afresh."""
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
    context = around(path, one)
    mean, std = path.bridge_law(one, zero, t, s, context, **how)
    kept = mean - path.bridge_law(zero, zero, t, s, context, **how)[0]
    return float((kept * path.temperature * path.coefficients(t).sigma) ** 2 + std**2)


@pytest.mark.parametrize("temperature", [0.0, 0.45, 1.0])
@pytest.mark.parametrize("t, s", JUMPS)
def test_every_transition_keeps_the_temperature(gaussian, temperature, t, s):
    gaussian.temperature = temperature
    wanted = (temperature * float(gaussian.coefficients(s).sigma)) ** 2
    ways = [{"churn": c} for c in (0.0, 0.3, 1.0)] + [{"gamma": c} for c in (0.0, 0.3, 1.0)]
    for how in ways:
        assert variance_after(gaussian, t, s, **how) == pytest.approx(wanted, rel=1e-10, abs=1e-15), how


class Zero(Denoiser):
    def belief(self, x_t, t, context, target_time):
        return PointPosterior(torch.zeros_like(x_t))


@pytest.mark.parametrize("predictor", ["diffusion", "bridge"])
def test_the_predictor_corrector_is_as_much_cooler_as_its_path(predictor):
    """The data are 0, so a walk is linear in its noise: at temperature c every state is c times that at 1."""
    like = torch.zeros(500, 2, dtype=F64)
    sampler, found = PredictorCorrector(predictor=predictor), {}
    for c in (1.0, 0.45):
        path = paths.grad_tts(temperature=c)
        states = sampler.sample(
            Zero(path), like, 6, Context(anchor=like), g=generator("pc"), keep=True
        ).states
        found[c] = torch.stack(states[:-1])
    torch.testing.assert_close(found[0.45], 0.45 * found[1.0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t, s", JUMPS)
@pytest.mark.parametrize("gamma", [0.0, 0.4, 0.9, 1.0])
def test_gamma_is_a_jump_below_s_and_the_way_back_up(gaussian, gamma, t, s):
    """CTM, algorithm 1, as two transitions of the process: x_t -> x_s' without noise, and its forward law."""
    if "deterministic" not in gaussian.offers or gaussian.name == "residual_shift":
        return  # no deterministic jump, or a forward law that depends on x0
    gaussian.temperature = 0.8
    x_t, x0 = torch.randn(2, 3, 4, dtype=F64, generator=generator("gamma"))
    context = around(gaussian, x0)
    y = 0.0 if context.anchor is None else context.anchor
    below = gaussian.time_from_noise_level((1 - gamma**2) ** 0.5 * gaussian.noise_level(s))
    x_below = gaussian.bridge(x_t, x0, t, below, context)
    (a, b, n), (a_s, b_s, n_s) = gaussian.coefficients(below), gaussian.coefficients(s)
    rise = a_s / a
    mean = rise * x_below + (b_s - rise * b) * y
    std = 0.8 * (n_s**2 - (rise * n) ** 2).clamp_min(0).sqrt()
    found_mean, found_std = gaussian.bridge_law(x_t, x0, t, s, context, gamma=gamma)
    torch.testing.assert_close(found_mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_std, std, rtol=1e-6, atol=1e-6)
    if gamma == 1.0:
        again = gaussian.renoise(x0, s, context, g=generator("fresh"))
        torch.testing.assert_close(
            gaussian.bridge(x_t, x0, t, s, context, gamma=1.0, g=generator("fresh")), again
        )


def test_what_belongs_to_gamma(unchecked):
    for wrong in ({"transition": "gamma"}, {"transition": "ode", "gamma": 0.2}):
        with pytest.raises(UserError, match=r"student\.gamma belongs to student\.transition=gamma"):
            FewStep(**wrong)
    with pytest.raises(UserError, match="a share of the noise from 0 to 1, got 2"):
        FewStep("gamma", gamma=2.0)
    like = torch.zeros(2, 3)
    for path in (paths.MaskedPath(3), paths.brownian_bridge()):
        with pytest.raises(UserError, match="keeps part of the noise"):
            FewStep("gamma", gamma=0.5).sample(Zero(path), like, 2, Context(anchor=like), g=generator(0))


# --- trajectories ---------------------------------------------------------------------------------


class Linear(Denoiser):
    """`weight * x_t`, and what it was told."""

    def __init__(self, path=None, wants=False):
        super().__init__(path or paths.rectified_flow())
        self.weight, self.told, self.wants_target = (
            torch.nn.Parameter(torch.tensor(0.8, dtype=F64)),
            [],
            wants,
        )

    def belief(self, x_t, t, context, target_time):
        self.told.append(None if target_time is None else float(target_time))
        return PointPosterior(self.weight * x_t)


LIKE = torch.zeros(4, 3, dtype=F64)
WAYS = [
    FewStep(),
    FewStep("ode"),
    FewStep("ancestral"),
    FewStep("gamma", gamma=0.4),
    FewStep("ode", shift=3.0),
]


@pytest.mark.parametrize("sampler", WAYS)
@pytest.mark.parametrize("keep", ["none", "one", "last", "all"])
def test_a_trajectory_is_what_sampling_does(sampler, keep):
    student = Linear()
    walk = sampler.trajectory(student, LIKE, 4, g=generator("walk"), keep=keep, structure=generator("which"))
    made = sampler.sample(student, LIKE, 4, g=generator("walk"), keep=True)
    assert len(walk.states) == 5 and len(walk.beliefs) == len(walk.x0) == 4
    assert walk.times.tolist() == list(made.times)
    for mine, theirs in zip(walk.states, made.states, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(walk.states[-1], walk.x0[-1])
    kept = {
        "none": (),
        "one": (int(torch.randint(4, (), generator=generator("which"))),),
        "last": (3,),
        "all": (0, 1, 2, 3),
    }
    assert walk.kept == kept[keep]
    for i, (belief, state) in enumerate(zip(walk.beliefs, walk.states[:-1], strict=True)):
        assert belief.mean.requires_grad == (i in walk.kept)
        if keep in ("one", "last") and i in walk.kept:  # the state is a constant, so d(w x)/dw = x
            gradient = torch.autograd.grad(belief.mean.sum(), student.weight, retain_graph=True)[0]
            torch.testing.assert_close(gradient, state.sum())


def test_all_steps_carry_the_gradient_of_the_whole_walk():
    """x_N = f(w) on a deterministic walk: backward against central differences."""
    student, sampler = Linear(), FewStep("ode")
    x_1 = torch.randn(4, 3, dtype=F64, generator=generator("start"))

    def end(weight):
        student.weight.data.fill_(weight)
        return sampler.trajectory(student, LIKE, 4, g=generator(0), x_1=x_1).states[-1].sum()

    found = torch.autograd.grad(end(0.8), student.weight)[0]
    wanted = (end(0.8 + 1e-6) - end(0.8 - 1e-6)).detach() / 2e-6
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)


def test_the_step_may_be_drawn_from_a_generator_of_its_own():
    """Noise differs between processes, the step does not; without one the noise's own generator decides."""
    sampler = FewStep()

    def both(seed, rank):
        g, structure = (lambda: generator("noise", rank)), (lambda: generator("step", seed))
        return (
            sampler.rollout(Linear(), LIKE, 4, g=g(), structure=structure()),
            sampler.trajectory(Linear(), LIKE, 4, g=g(), keep="one", structure=structure()),
        )

    for seed in range(8):
        runs = [both(seed, rank) for rank in range(3)]
        assert len({float(r.t[0]) for r, _ in runs}) == 1 and len({w.kept for _, w in runs}) == 1
        assert not torch.equal(runs[0][0].x_t, runs[1][0].x_t)


@pytest.mark.parametrize("sampler", WAYS)
def test_walks_tell_the_target_time_that_sampling_tells_and_judged_answers_jump_to_the_data(sampler):
    sampled, walked = Linear(wants=True), Linear(wants=True)
    sampler.sample(sampled, LIKE, 4, g=generator(0))
    sampler.trajectory(walked, LIKE, 4, g=generator(0))
    assert walked.told == sampled.told
    for seed in range(6):
        student = Linear(wants=True)
        sampler.rollout(student, LIKE, 4, g=generator(seed))
        *before, last = student.told
        # What is judged is a sample, so its jump is to the data.
        assert before == sampled.told[: len(before)] and last in (None, 0.0)
    if sampler.transition == "gamma":  # where 1 - gamma^2 of the noise's variance is left
        s, told = sampler.times(sampled, 4)[1], sampled.told[0]
        level = sampled.path.noise_level(told) / sampled.path.noise_level(s)
        assert float(level) == pytest.approx((1 - 0.4**2) ** 0.5) and sampled.told[-1] == 0.0


def test_an_unknown_gradient_is_one_line():
    with pytest.raises(UserError, match="unknown gradient to keep 'first'"):
        FewStep().trajectory(Linear(), LIKE, 2, g=generator(0), keep="first")


# --- the law of tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [paths.MaskedPath(3, "cosine"), paths.MaskedPath(3, random_tokens=0.5), paths.UniformPath(3)]
)
@pytest.mark.parametrize("t, s", [(1.0, 0.4), (0.8, 0.3), (0.5, 0.0)])
def test_the_law_of_tokens_is_that_of_their_draws(path, t, s):
    x0 = torch.tensor([[0, 1, 2, 1]])
    given = torch.tensor([[3, 3, 2, 3]])  # the third is given
    context = Context(anchor=given)
    x_t = path.corrupt(x0, t, context, g=generator("x_t"))
    probs = path.bridge_law(x_t, x0, t, s, context)[0]
    torch.testing.assert_close(probs.sum(-1), torch.ones(4, dtype=F64))
    count = 20_000
    many = Context(anchor=given.expand(count, -1))
    drawn = path.bridge(x_t.expand(count, -1), x0.expand(count, -1), t, s, many, g=generator("draws"))
    found = torch.nn.functional.one_hot(drawn, probs.shape[-1]).double().mean(0)
    assert bool(((found - probs).abs() <= 5 * (probs * (1 - probs) / count).sqrt() + 1e-12).all())
    assert float(probs[2, 2]) == 1.0


def test_re_noising_to_the_end_is_the_prior():
    path = paths.MaskedPath(10, random_tokens=0.4)
    x0 = torch.zeros(2000, 10, dtype=torch.long)
    shares = [
        float((x == 10).double().mean())
        for x in (path.prior(x0, g=generator(0)), path.renoise(x0, 1.0, g=generator(1)))
    ]
    assert shares == pytest.approx([0.6, 0.6], abs=4 * (0.24 / 20_000) ** 0.5)
    below = path.renoise(x0, 0.5, g=generator(2))
    assert torch.equal(below, path.corrupt(x0, 0.5, g=generator(2)))


def test_a_trajectory_of_tokens_resolves_them():
    class Tokens(Denoiser):
        def belief(self, x_t, t, context, target_time):
            shown = torch.nn.functional.one_hot(x_t.clamp(max=2), 3) * 1e4 - 1e4
            open_ = self.path.unresolved(x_t, t)[..., None]
            return CategoricalPosterior(torch.where(open_, torch.zeros(3), shown.float()))

    like = torch.zeros(5, 8, dtype=torch.long)
    walk = FewStep("ancestral").trajectory(Tokens(paths.MaskedPath(3)), like, 4, g=generator(0))
    masked = [int((x == 3).sum()) for x in walk.states]
    assert masked[0] == 40 and masked[-1] == 0 and all(a >= b for a, b in itertools.pairwise(masked))
