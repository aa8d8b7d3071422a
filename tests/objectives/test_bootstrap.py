"""The signal's ODE: its exact solution has the loss of a step alone; without its boundary another one has none."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Bootstrap, Nodes
from omnidistill.testing import check_objective

MEAN, SPREAD = 0.4, 0.6


class Signal(nn.Module):
    """`y(x_1, t)` of N(m, c^2): the belief by which one jump leads from x_1 to x_t; plus `drift * level(t)`."""

    def __init__(self, path, spread=SPREAD, drift=0.0) -> None:
        super().__init__()
        self.path, self.spread = path, spread
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.drift = nn.Parameter(torch.tensor(drift, dtype=torch.float64))

    def forward(self, x, t, condition=None, *, target_time):
        s = torch.where(target_time <= self.path.span[0], 0.0, target_time.double())
        (a, _, n), (b, _, m) = (c for c in (self.path.coefficients(u) for u in (t.double(), s)))
        k = m / n
        r = ((b**2 * self.spread**2 + m**2) / (a**2 * self.spread**2 + n**2)).sqrt()
        # At s = t the ratios are 0 / 0, and the belief is the posterior mean.
        gain = a * self.spread**2 / (a**2 * self.spread**2 + n**2)
        same = (s - t.double()).abs() < 1e-9
        width = torch.where(same, 1.0, b - k * a)
        scale = torch.where(same, gain, (r - k) / width)[:, None]
        shift = torch.where(same, (1 - gain * a) * MEAN, (b - r * a) * MEAN / width)[:, None]
        level = self.path.noise_level(s)[:, None]
        extra = torch.where(level.isfinite(), level, 0.0) * self.drift
        return (shift + self.shift + scale * x + extra).to(x.dtype)


def step(closed, path, network, objective, spread=SPREAD, count=256, **more):
    batch, like = closed.free(count)
    teacher = closed.gaussian(MEAN, spread**2, path)
    student = NetworkDenoiser(network, path, "x0", target_time=True)
    models = {"student": student, "teacher": teacher, **more}
    return closed.step("student", models, batch, like)


def loss(closed, path, objective, **options) -> float:
    network = Signal(path, options.get("spread", SPREAD), options.pop("drift", 0.0))
    step_ = step(closed, path, network, objective, **options)
    return float(objective.losses("student", step_).terms["bootstrap"].detach())


@pytest.mark.parametrize("name", ["rectified_flow", "trigflow"])
def test_the_exact_signal_has_the_error_of_a_step_alone(closed, name):
    """Of more than first order in the step, whose ends are singular in the noise level: its square falls fast."""
    path = getattr(paths, name)()
    found = [loss(closed, path, Bootstrap(Nodes(n), rate=False, boundary=0.01)) for n in (16, 32, 64)]
    assert found[0] < 1e-4 and found[1] < found[0] / 5 and found[2] < found[1] / 5


def test_a_single_point_needs_no_small_step(closed):
    """The teacher's belief stays, and one exact step of any length is exact; Euler's would not be."""
    assert loss(closed, paths.rectified_flow(), Bootstrap(Nodes(3)), spread=1e-9) < 1e-14


def test_without_the_boundary_another_solution_has_no_loss(closed):
    """`m + C sigma/alpha` solves the ODE for a single point; the boundary alone tells it from the signal."""
    path = paths.vp_cosine()
    network = Signal(path, 1e-9, drift=1e-3)
    objective = Bootstrap(Nodes(8), boundary=0.5, rate=False)
    made = objective.losses("student", step(closed, path, network, objective, 1e-9))
    level = float(path.noise_level(path.span[1]))
    # Half of the batch, half of the square.
    assert float(made.terms["bootstrap"].detach()) == pytest.approx(0.5 * 0.5 * (1e-3 * level) ** 2, rel=1e-3)
    with pytest.raises(UserError, match="the signal drifts"):
        Bootstrap(boundary=0.0)


def test_from_beside_it_points_home(closed):
    path = paths.rectified_flow()
    for away in (0.2, -0.2):
        network = Signal(path)
        network.shift.data += away
        objective = Bootstrap(Nodes(8))
        found = objective.losses("student", step(closed, path, network, objective))
        assert float(torch.autograd.grad(found.terms["bootstrap"], network.shift)[0]) * away > 0


def test_rates_weigh_the_errors_of_a_step_by_its_length(closed):
    path = paths.rectified_flow()
    plain, rated = (loss(closed, path, Bootstrap(Nodes(8), rate=r, boundary=0.01)) for r in (False, True))
    assert rated == pytest.approx(64 * plain, rel=1e-6)


def test_calls_conformance_and_mistakes(closed):
    task = GaussianMixtureTask(network={"width": 8, "depth": 1})
    path = paths.rectified_flow()
    for objective in (Bootstrap(), Bootstrap(decay=0.9)):
        network, more = Signal(path), {}
        if objective.roles:
            more["target"] = NetworkDenoiser(Signal(path), path, "x0", target_time=True)
        made = step(closed, path, network, objective, **more)
        objective.losses("student", made)
        counted = {name: model.calls for name, model in made.models.items()}
        assert counted == objective.cost("student")
    with pytest.raises(Exception, match=r"student\.target_time=true"):
        check_objective(Bootstrap(), task)
    assert Bootstrap(guidance=2.0).needs == {"deterministic", "composable", "condition"}
    assert Bootstrap(guidance=2.0).cost("student") == {"student": 2, "teacher": 2}
