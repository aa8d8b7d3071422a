"""Noise consistency against the known diffusion of a Gaussian noise given a Gaussian control."""

import math

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.objectives import NoiseConsistency
from omnidistill.objectives.noise_consistency import mixed
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.runs import pairs, setup

GAIN, OFFSET, BLUR = 0.6, 0.3, 0.5
"""G(z) = GAIN z + OFFSET, and the control is z + BLUR n: given it z is N(c KEPT, VAR)."""
KEPT, VAR = 1 / (1 + BLUR**2), BLUR**2 / (1 + BLUR**2)


class Exact(Denoiser):
    """G of where the probability flow of `p(z_u | c)` takes z_u, off by `error` and stretched by `stretch`."""

    wants_target = True

    def __init__(self, error: float = 0.0, stretch: float = 0.0) -> None:
        super().__init__(paths.rectified_flow())
        self.error, self.stretch = (
            nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (error, stretch)
        )

    def belief(self, x_t: Tensor, t, context: Context, target_time: Tensor | None) -> PointPosterior:
        assert bool((torch.as_tensor(t) == 1).all())  # always asked at the top, as a sampler of one step asks
        angle = (0.5 * math.pi * (1 - target_time)).unsqueeze(1)
        mean = KEPT * context.condition
        spread = (angle.cos() ** 2 * VAR + angle.sin() ** 2).sqrt()
        # Whatever the error, it is none where z itself is asked about.
        off = angle.sin() * (self.error + self.stretch * (x_t - angle.cos() * mean))
        z = mean + math.sqrt(VAR) / spread * (x_t - angle.cos() * mean) + off
        return PointPosterior(GAIN * z + OFFSET)


def bank(count: int = 4096) -> dict:
    g = generator("pairs")
    z, n = (torch.randn(count, 2, generator=g, dtype=torch.float64) for _ in range(2))
    context = Context(condition=z + BLUR * n)
    return {
        "states": torch.stack((z, GAIN * z + OFFSET), 1),
        "times": torch.tensor([1.0, 0.0]),
        "context": context,
    }


def step_of(closed, student: Denoiser, count: int = 4096):
    batch, like = closed.free(count, 2)
    return closed.step("student", {"student": student, "target": Exact()}, batch, like, bank=bank(count))


def test_mixed_noises_keep_their_law_and_lose_the_coupling() -> None:
    g = generator("mixed")
    z, e = (torch.randn(100_000, 1, generator=g, dtype=torch.float64) for _ in range(2))
    for u in (0.0, 0.25, 0.5, 1.0):
        z_u = mixed(z, e, torch.full((len(z),), u).double())
        assert float(z_u.var()) == pytest.approx(1.0, abs=0.02)
        assert float((z * z_u).mean()) == pytest.approx(math.cos(0.5 * math.pi * u), abs=0.02)


def test_the_exact_map_draws_what_has_the_control() -> None:
    c = torch.full((50_000, 1), 0.8, dtype=torch.float64)
    e = torch.randn(len(c), 1, generator=generator("e"), dtype=torch.float64)
    top, zero = torch.ones(len(c)).double(), torch.zeros(len(c)).double()
    x = Exact()(e, top, Context(condition=c), target_time=zero).mean.detach()
    assert float(x.mean()) == pytest.approx(GAIN * KEPT * 0.8 + OFFSET, abs=0.01)
    assert float(x.std()) == pytest.approx(GAIN * math.sqrt(VAR), rel=0.02)


def test_at_the_exact_map_the_gradient_goes_with_the_steps(closed) -> None:
    """And points home from a map that is off or too wide."""

    def slopes(levels: int, **options: float) -> list[float]:
        student = Exact(**options)
        found = NoiseConsistency(levels=levels).losses("student", step_of(closed, student, 100_000))
        return [float(s) for s in closed.gradient(found, student.error, student.stretch)]

    coarse, fine = (slopes(levels) for levels in (4, 32))
    assert abs(coarse[0]) < 2e-3 and abs(fine[0]) < 2e-3
    assert abs(coarse[1]) > 5 * abs(fine[1]) and abs(fine[1]) < 2e-3
    for sign in (-1, 1):
        assert sign * slopes(32, error=0.2 * sign)[0] > 0.02
        assert sign * slopes(32, stretch=0.2 * sign)[1] > 0.02


def test_one_level_is_regression_whose_answer_is_the_mean(closed) -> None:
    """`E (f - G(z)) e = 0` only for an answer that does not look at its noise."""
    student = Exact()
    found = NoiseConsistency(levels=1).losses("student", step_of(closed, student, 100_000))
    (slope,) = closed.gradient(found, student.stretch)
    # The exact map moves with e by GAIN sqrt(VAR), the samples with c not at all; stretch moves the answer by GAIN e.
    assert float(slope) == pytest.approx(GAIN**2 * math.sqrt(VAR), rel=0.05)


def test_where_the_coupling_is_whole_the_generators_own_sample_is_the_target(closed) -> None:
    class Wrong(Exact):
        def belief(self, x_t, t, context, target_time):
            return PointPosterior(
                super().belief(x_t, t, context, target_time).mean + 5.0 * (target_time == 1).unsqueeze(1)
            )

    batch, like = closed.free(256, 2)
    for average in (Exact(), Wrong()):
        step = closed.step("student", {"student": Exact(), "target": average}, batch, like, bank=bank(256))
        loss = float(NoiseConsistency(levels=2).losses("student", step).terms["noise_consistency"].detach())
        assert loss < 0.2


@pytest.mark.parametrize("target", ["average", "self"])
def test_calls_are_those_that_are_declared(closed, target: str) -> None:
    objective, step = NoiseConsistency(target=target), step_of(closed, Exact(), 64)
    objective.losses("student", step)
    assert {name: model.calls for name, model in step.models.items() if model.calls} == objective.cost(
        "student"
    )


def test_a_bank_has_controls_of_its_samples() -> None:
    task = GaussianMixtureTask([[2.0, 0.0], [-2.0, 0.0]], 0.2, [0.8, 0.2], conditional=True)
    spec = NoiseConsistency(pairs=512, steps=8).bank
    made = pairs.bank_of(spec, task, task.exact_teacher(), 0, "cpu").rows(torch.arange(512))
    x0, labels = made["states"][:, -1], made["context"].condition
    assert bool(((x0[:, 0] > 0) == (labels == 0)).all())
    assert float((labels == 0).double().mean()) == pytest.approx(0.8, abs=0.06)
    z = made["states"][:, 0]
    assert bool(z[labels == 0, 0].mean() > z[labels == 1, 0].mean() + 0.5)  # noise and control are coupled


def test_a_new_condition_starts_as_none() -> None:
    task = GaussianMixtureTask([[2.0, 0.0], [-2.0, 0.0]], conditional=True, network={"width": 16, "depth": 1})
    network = task.network(target_time=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3)
    x, t = torch.randn(4, 2, generator=generator("x")), torch.full((4,), 0.5)
    null = torch.full((4,), task.null)
    before = network(x, t, null, target_time=t)
    assert not torch.equal(network(x, t, torch.zeros_like(null), target_time=t), before)
    setup.forget(network, task)
    for label in range(task.classes):
        assert torch.equal(network(x, t, torch.full_like(null, label), target_time=t), before)
    with pytest.raises(UserError, match="new_condition=true"):
        setup.forget(network, GaussianMixtureTask([[2.0, 0.0]]))


def test_what_cannot_be_is_said_in_a_line(closed) -> None:
    with pytest.raises(UserError, match="levels >= 1"):
        NoiseConsistency(levels=0)
    with pytest.raises(UserError, match="target of noise consistency 'x'"):
        NoiseConsistency(target="x")
    student = Exact()
    student.wants_target = False
    with pytest.raises(UserError, match=r"student\.target_time=true"):
        NoiseConsistency().losses("student", step_of(closed, student, 16))
    with pytest.raises(UserError, match="a bank of teacher pairs"):
        NoiseConsistency().losses(
            "student", closed.step("student", {"student": Exact()}, Batch(None, count=4), torch.empty(4, 2))
        )
    task = GaussianMixtureTask([[2.0, 0.0]])
    with pytest.raises(UserError, match="no null label"):
        pairs.bank_of(NoiseConsistency(pairs=8).bank, task, task.exact_teacher(), 0, "cpu")
