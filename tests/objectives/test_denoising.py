"""Denoising: its minimiser is the posterior mean or categorical, and `output` weighs as the network's own error."""

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.parameterisation import from_x0
from omnidistill.errors import UserError
from omnidistill.exact import ChainDenoiser
from omnidistill.exact.chain import MarkovChain
from omnidistill.objectives import Denoising
from omnidistill.random import generator
from omnidistill.weights import WEIGHTS, weight

MEAN, VAR = 0.4, 0.36


class At:
    def __init__(self, t):
        self.t = t

    def __call__(self, count, path, g):
        return torch.full((count,), self.t, dtype=torch.float64)


def data(count, seed=0):
    noise = torch.randn(count, 1, generator=generator("data", seed), dtype=torch.float64)
    return Batch(MEAN + VAR**0.5 * noise)


@pytest.mark.parametrize("target", ["data", "teacher"])
@pytest.mark.parametrize("name", ["rectified_flow", "vp_cosine", "edm"])
def test_the_posterior_mean_is_the_minimiser(closed, name, target):
    """Stationary at `E[x0 | x_t]`, affine for Gaussian data; beside it the gradient leads back. Against the teacher's
    belief it is exact for every batch, against the data within Monte-Carlo error."""
    path = getattr(paths, name)()
    t = float(path.time_from_noise_level(0.8))
    alpha, _, sigma = path.coefficients(t)
    slope = float(alpha * VAR / (alpha**2 * VAR + sigma**2))
    shift = MEAN * (1 - slope * float(alpha))
    teacher = closed.gaussian(MEAN, VAR, path)
    objective = Denoising(times=At(t), weighting="uniform", target=target)
    gradients = []
    for off in (0.0, 0.2, -0.2):
        student = closed.student(shift + off, slope * (1 + off), path)
        step = closed.step("student", {"teacher": teacher, "student": student}, data(100_000))
        losses = objective.losses("student", step)
        gradients.append(
            [float(g) for g in closed.gradient(losses, student.network.shift, student.network.scale)]
        )
    best = 1e-12 if target == "teacher" else 5e-3
    assert max(map(abs, gradients[0])) < best
    assert min(gradients[1]) > 0.05 and max(gradients[2]) < -0.05


def test_the_posterior_categorical_is_the_minimiser(closed):
    """Free logits for every state of a short chain: at the exact marginals the gradient is Monte-Carlo noise."""
    law = MarkovChain.of(
        torch.tensor([[0.7, 0.2, 0.1], [0.15, 0.25, 0.6], [0.3, 0.5, 0.2]], dtype=torch.float64)
    )
    path = paths.MaskedPath(3)
    states = torch.cartesian_prod(*[torch.arange(4)] * 3).flip(1)
    exact = ChainDenoiser(law, path, torch.float64)(states, 0.5).parameters
    found = {}
    for name, table in (("exact", exact), ("flat", torch.zeros_like(exact))):
        student = closed.Float64Logits(closed.Table(table.clone(), 3), path, "logits")
        step = closed.step("student", {"student": student}, Batch(law.sample(40_000, 3, generator(0))))
        losses = Denoising(weighting="uniform").losses("student", step)
        found[name] = float(closed.gradient(losses, student.network.logits)[0].norm())
    assert found["exact"] < 0.1 * found["flat"]


@pytest.mark.parametrize("kind", ["eps", "v", "flow", "edm", "trigflow", "score", "x0"])
@pytest.mark.parametrize("name", ["rectified_flow", "vp_linear", "edm"])
def test_output_weight_is_the_networks_own_squared_error(closed, kind, name):
    """`w(t) 1/2 |x0 - D|^2 = 1/2 |F - F*|^2` exactly, with F the bare output and F* the output that means x0: on a
    rectified flow with `flow` the velocity loss."""
    path = getattr(paths, name)()
    from omnidistill.times import Uniform

    student = NetworkDenoiser(closed.Affine(0.1, 0.7), path, kind, sigma_data=0.6)
    objective = Denoising(times=Uniform(0.0, 0.95), weighting="output")
    step = closed.step("student", {"student": student}, data(64))
    loss = objective.losses("student", step).terms["denoising"]
    again = closed.step("student", {"student": student}, data(64))
    t = objective.times(64, path, again.g)
    x_t = path.corrupt(again.x0, t, g=again.g)
    wanted = from_x0(path, kind, again.x0, x_t, t, d=0.6)
    if kind == "flow" and name == "rectified_flow":
        torch.testing.assert_close(wanted, (x_t - again.x0) / t[:, None])  # eps - x0
    output = student.output(x_t, t, Context())
    torch.testing.assert_close(loss, 0.5 * (output - wanted).square().mean(), rtol=1e-9, atol=1e-12)


def test_nelbo_weight_is_the_likelihood_bound(closed):
    """`-alpha'/(1 - alpha)` over masked positions, mean over t: the expectation is the bound on -log p(x) per token.
    For independent tokens the bound is tight: the entropy of one token, in nats."""
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    law = MarkovChain.of(probs.expand(3, 3).clone())
    entropy = -float((probs * probs.log()).sum())
    for schedule in ("linear", "cosine"):
        path = paths.MaskedPath(3, schedule)
        student = ChainDenoiser(law, path, torch.float64)
        step = closed.step("student", {"student": student}, Batch(law.sample(40_000, 8, generator(1))))
        value = Denoising(weighting="nelbo").losses("student", step).terms["denoising"]
        assert float(value) == pytest.approx(entropy, rel=0.03)
    t = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(weight("nelbo", paths.MaskedPath(3), t), 1 / t)


def test_weights_by_name():
    path = paths.rectified_flow()
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    snr = ((1 - t) / t) ** 2
    expected = {
        "uniform": torch.ones_like(t),
        "snr": snr,
        "truncated_snr": snr.clamp_min(1.0),
        "min_snr_5": snr.clamp_max(5.0),
        "alpha": 1 - t,
        "alpha_sigma": t * (1 - t),
        "velocity": t**-2,
    }
    assert set(expected) | {"nelbo"} == set(WEIGHTS)
    for name, value in expected.items():
        torch.testing.assert_close(weight(name, path, t), value)
    for name, wrong in (("snr", paths.MaskedPath(3)), ("nelbo", path)):
        with pytest.raises(UserError, match="weighting"):
            weight(name, wrong, t)
    with pytest.raises(UserError, match="did you mean uniform"):
        weight("unifrom", path, t)


def test_dropped_conditions_become_null_in_their_share(closed):
    seen = []

    class Labelled(closed.Affine):
        def forward(self, x, t, condition=None, **keywords):
            seen.append(condition)
            return super().forward(x, t)

    path = paths.rectified_flow()
    student = NetworkDenoiser(Labelled(0.0, 1.0), path, "x0")
    batch = Batch(data(20_000).x0, Context(torch.arange(20_000) % 3))
    objective = Denoising(drop_condition=0.3)
    objective.losses("student", closed.step("student", {"student": student}, batch, null=3))
    (labels,) = seen
    dropped = labels == 3
    assert float(dropped.double().mean()) == pytest.approx(0.3, abs=0.015)
    assert torch.equal(labels[~dropped], batch.context.condition[~dropped])
    with pytest.raises(UserError, match="drop_condition needs a task with a null label"):
        objective.losses("student", closed.step("student", {"student": student}, batch))


@pytest.mark.parametrize("kind", ["points", "tokens"])
@pytest.mark.parametrize("target", ["data", "teacher"])
def test_padding_changes_neither_loss_nor_gradient(closed, kind, target):
    closed.check_padding(Denoising(target=target), kind)


@pytest.mark.parametrize("target", ["data", "teacher"])
def test_calls_are_those_declared(closed, target):
    path = paths.rectified_flow()
    models = {"teacher": closed.gaussian(MEAN, VAR, path), "student": closed.student(0.0, 1.0, path)}
    objective = Denoising(target=target)
    objective.losses("student", closed.step("student", models, data(4)))
    assert {n: m.calls for n, m in models.items() if m.calls} == objective.cost("student")
    assert objective.losses("fake_score", None) is None


def test_mistakes_are_one_line(closed):
    with pytest.raises(UserError, match="'data' or 'teacher', got 'ema'"):
        Denoising(target="ema")
    batch, like = closed.free(3)
    models = {"student": closed.student(0.0, 1.0, paths.rectified_flow())}
    with pytest.raises(UserError, match="needs real data"):
        Denoising().losses("student", closed.step("student", models, batch, like))
