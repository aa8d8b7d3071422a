"""A student that is asked about noise of a lower level than the path's: what it answers there, and who else is not."""

import math

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.cli import main
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import NotOffered, UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.exporting.scheduled import scheduled
from omnidistill.exporting.walk import Unrolled, planned
from omnidistill.objectives import Matching
from omnidistill.objectives.weighted import Weighted
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.student import Recipe, assemble
from omnidistill.training.roles import cast

F64 = torch.float64
PATHS = ["rectified_flow", "trigflow", "vp_cosine", "vp_linear", "edm"]
MEANS = [[3.0, 0.0], [-1.5, 2.6], [-1.5, -2.6]]


class Net(nn.Module):
    """Tells apart every state and time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=F64))

    def forward(self, x, t):
        return torch.tanh(self.weight * x + t.reshape(-1, *(1 for _ in x.shape[1:])))


class Answers(nn.Module):
    """A closed form as a network of x0."""

    def __init__(self, denoiser) -> None:
        super().__init__()
        self.held, self.weight = [denoiser], nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return self.held[0](x, t.double()).mean


@pytest.mark.parametrize("kind", ["x0", "eps", "v"])
@pytest.mark.parametrize("name", PATHS)
def test_above_its_level_it_is_asked_about_the_noise_at_that_level_and_below_as_ever(name, kind, g) -> None:
    path = getattr(paths, name)()
    plain = NetworkDenoiser(Net(), path, kind)
    started = NetworkDenoiser(plain.network, path, kind, sigma_init=2.5)
    u = path.time_from_noise_level(2.5)
    x = torch.randn(5, 2, dtype=F64, generator=g)
    for t in (float(u), 0.5 * float(u), 0.0):
        assert torch.equal(started(x, t).mean, plain(x, t).mean)
    for t in (1.0, 0.5 * (1.0 + float(u))):
        scale = path.coefficients(u).sigma / path.coefficients(torch.tensor(t, dtype=F64)).sigma
        torch.testing.assert_close(started(x, t).mean, plain(scale * x, u).mean)
    # A time for each sample, some above and some below.
    t = torch.tensor([1.0, 0.3 * float(u), 1.0, float(u), 0.0], dtype=F64)
    each = torch.cat([started(x[i : i + 1], t[i]).mean for i in range(5)])
    torch.testing.assert_close(started(x, t).mean, each)
    torch.testing.assert_close(started.output_weight(t), plain.output_weight(torch.minimum(t, u)))
    rebuilt = NetworkDenoiser(plain.network, path, **started.reading())
    assert torch.equal(rebuilt(x, 1.0).mean, started(x, 1.0).mean)


def test_an_exact_teacher_decides_between_modes_there_where_at_pure_noise_it_answers_with_their_mean() -> (
    None
):
    task = GaussianMixtureTask(MEANS, 0.2)
    network, means = Answers(task.exact_teacher()), torch.tensor(MEANS)
    x_1 = torch.randn(600, 2, generator=generator("start"))
    plain = NetworkDenoiser(network, task.path, "x0")(x_1, 1.0).mean
    assert float(plain.std(0).max()) < 1e-3
    made = NetworkDenoiser(network, task.path, "x0", sigma_init=1.5)(x_1, 1.0).mean
    nearest = torch.cdist(made.float(), means).argmin(1)
    assert min(torch.bincount(nearest, minlength=3).tolist()) > 100
    assert float(made.std(0).min()) > 1.5  # of the mixture 2.1


def test_the_critic_is_asked_at_every_level_and_the_average_as_the_student_is() -> None:
    task = GaussianMixtureTask(MEANS, 0.2, network={"width": 8, "depth": 1})
    student = NetworkDenoiser(task.network(), task.path, **{**task.reading(), "sigma_init": 2.5})
    origin = NetworkDenoiser(task.network(), task.path, **task.reading())
    for options in ({"follow": 0.5}, {"step_aware": True}, {}):
        parts = cast(student, origin, Weighted({"matching": Matching(**options)}, {"matching": 1.0}), 0.9)
        assert parts.models["fake_score"].start is None, options
        assert parts.models["ema"].start is not None and parts.models["student"].start is not None


@pytest.mark.parametrize("transition", ["renoise", "ode"])
def test_a_walk_of_numbers_is_the_students_own(transition, g) -> None:
    path, sampler = paths.rectified_flow(), FewStep(transition)
    student = NetworkDenoiser(Net(), path, "flow", sigma_init=1.0, unit_input=True)
    x_1 = torch.randn(4, 2, dtype=F64, generator=g)
    walk = planned(student, sampler, 4)
    assert walk.strides[0].time == walk.strides[1].time == 0.5 and walk.strides[0].t == 1.0
    states = sampler.sample(student, x_1, 4, g=generator(1), x_1=x_1, keep=True).states
    noise = []
    for stride, x, after in zip(walk.strides, states, states[1:], strict=False):
        if stride.fresh:
            out = student.network(stride.scale * x, torch.full((4,), stride.time, dtype=F64))
            x0 = stride.a * x + stride.b * out
            noise.append((after - stride.keep * x - stride.take * x0) / stride.fresh)
    found = Unrolled(student.network, walk)(x_1, torch.stack(noise) if noise else None)
    torch.testing.assert_close(found, states[-1])


def test_it_is_saved_with_the_student() -> None:
    task = GaussianMixtureTask(MEANS, 0.2, network={"width": 8, "depth": 1})
    recipe = Recipe(task={"name": "x"}, reading={**task.reading(), "sigma_init": 2.5})
    made = assemble(task.network(), task.path, recipe)
    assert made.start.level == 2.5 and made.reading()["sigma_init"] == 2.5


def test_what_cannot_be_is_said_in_a_line() -> None:
    for path in (paths.ouve(), paths.MaskedPath(4)):
        kind = "x0" if "gaussian" in path.offers else "logits"
        with pytest.raises(NotOffered, match=r"student\.sigma_init=null"):
            NetworkDenoiser(Net(), path, kind, sigma_init=2.5)
    top = float(paths.edm().noise_level(1.0))
    for level in (1e-5, 2.0 * top):
        with pytest.raises(UserError, match=r"is no noise level of"):
            NetworkDenoiser(Net(), paths.edm(), "x0", sigma_init=level)
    assert math.isinf(float(paths.rectified_flow().noise_level(1.0)))  # where every level is below
    started = NetworkDenoiser(Net(), paths.rectified_flow(), "flow", sigma_init=1e6)
    assert torch.isfinite(started(torch.ones(1, 1, dtype=F64), 1.0, Context()).mean).all()
    with pytest.raises(UserError, match=r"sigma_init=2\.5; format=onnx or safetensors"):
        student = NetworkDenoiser(Net(), paths.rectified_flow(), "flow", sigma_init=2.5)
        scheduled(student, FewStep(), [1.0], {})


def test_a_path_without_such_a_level_is_refused_before_anything_is_trained(tmp_path, capsys) -> None:
    words = ["task=exact/bridge", "recipe=sid", "fit.updates=1000000", f"out={tmp_path / 'run'}"]
    assert main(["distill", *words]) == 2
    assert "student.sigma_init=null" in capsys.readouterr().err
    assert not (tmp_path / "run" / "teacher.safetensors").exists()
