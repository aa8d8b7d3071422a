"""Tangents of flow maps against the formulas of the papers, and derivatives by differences."""

import math

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.networks.mlp import MLP
from omnidistill.objectives import FlowMap, tangents
from omnidistill.objectives.identities import residual, with_rate
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.times import Uniform

MEAN, STD = 0.7, 0.4
PATHS = ("rectified_flow", "vp_cosine", "trigflow", "edm", "vp_linear")


class Arrives(Denoiser):
    """The exact psi of `N(MEAN, STD^2)` for r < t, times `1 + error`; without a second time r = 0."""

    def __init__(self, path: paths.GaussianPath, error: float = 0.0, wants_target: bool = True) -> None:
        super().__init__(path)
        self.wants_target = wants_target
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64))

    def belief(self, x_t, t, context, target_time):
        t = as_time(t, x_t).expand(len(x_t))
        r = torch.zeros_like(t) if target_time is None else as_time(target_time, x_t).expand(len(x_t))
        (a, _, s), (a_r, _, s_r) = ((per_sample(c, x_t) for c in self.path.coefficients(u)) for u in (t, r))
        spread, spread_r = ((c**2 * STD**2 + n**2).sqrt() for c, n in ((a, s), (a_r, s_r)))
        here = MEAN + STD**2 * a * (x_t - a * MEAN) / spread**2
        gain = a_r - a * s_r / s
        jump = a_r * MEAN + spread_r / spread * (x_t - a * MEAN) - s_r / s * x_t
        near = per_sample((r - t).abs() < 1e-9, x_t) > 0
        whole = torch.where(near, here, jump / torch.where(near, torch.ones_like(gain), gain))
        return PointPosterior((1.0 + self.error) * whole)


def batch(count: int = 48) -> Batch:
    return Batch(MEAN + STD * torch.randn(count, 2, generator=generator("data"), dtype=torch.float64))


def points(path, count: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    g = generator("points")
    t = 0.35 + 0.6 * torch.rand(count, generator=g, dtype=torch.float64)
    return path.corrupt(batch(count).x0, t, g=g), t, 0.1 + 0.2 * torch.rand(count, generator=g).double()


def loss(closed, objective: FlowMap, student, path, update: int = 0):
    teacher = closed.gaussian(MEAN, STD**2, path, 2)
    step = closed.step("student", {"teacher": teacher, "student": student}, batch(), update=update, total=10)
    return objective.losses("student", step)


# --- derivatives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["lagrangian", "eulerian"])
@pytest.mark.parametrize("name", PATHS)
def test_differences_are_exact_enough_for_the_identities(closed, name: str, identity: str) -> None:
    path = getattr(paths, name)()
    objective = FlowMap(identity=identity, derivative="difference", times=Uniform(0.15, 0.9))
    assert float(loss(closed, objective, Arrives(path), path).terms["flow_map"].detach()) < 1e-12
    assert float(loss(closed, objective, Arrives(path, 0.05), path).terms["flow_map"].detach()) > 1e-4


@pytest.mark.parametrize("along", [False, True])
def test_the_error_of_a_difference_is_of_second_order_and_in_float32_as_stated(along: bool) -> None:
    path = paths.trigflow()
    x, t, r = points(path)
    student = Arrives(path)
    velocity = path.velocity(x, student(x, t, target_time=t).mean, t) if along else None
    with torch.no_grad():
        exact = with_rate(student, x, t, r, Context(), velocity, "forward")[1]
        found = with_rate(student, x, t, r, Context(), velocity, "difference")[1]
    size = float(exact.abs().max())
    assert float((found - exact).abs().max()) < 1e-8 * size

    def by(h: float, ask=lambda to: student(x, t, target_time=to).mean) -> Tensor:
        return tangents.difference(ask, r, torch.zeros_like(r), t, h)

    along_r = with_rate(student, x, t, r, Context(), None, "forward")[1].detach()
    wide, narrow = (float((by(h) - along_r).abs().max()) for h in (2e-2, 1e-2))
    assert 3.9 < wide / narrow < 4.2
    # float32: 1e-4 for truncation at 50 radians and 1e-4 for rounding
    torch.manual_seed(0)
    network = MLP(2, width=32, depth=2, target_time=True)
    for parameter in network.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    learned = NetworkDenoiser(network, path, "edm", target_time=True)
    double = NetworkDenoiser(network.double(), path, "edm", target_time=True)
    given = None if velocity is None else velocity.detach()
    right = with_rate(double, x, t, r, Context(), given, "forward")[1]
    network.float()
    single = None if given is None else given.float()
    close = with_rate(learned, x.float(), t, r, Context(), single, "difference")[1]
    error = float((close.double() - right).abs().max()) / float(right.abs().max())
    assert 1e-7 < error < 1e-3


def test_at_the_ends_of_time_a_difference_is_one_sided_and_finite() -> None:
    path = paths.rectified_flow()
    x, _, _ = points(path, 3)
    t = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    r = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    student = Arrives(path)
    velocity = path.velocity(x, student(x, t, target_time=t).mean, t)
    with torch.no_grad():
        exact = with_rate(student, x, t, r, Context(), velocity, "forward")[1]
        found = with_rate(student, x, t, r, Context(), velocity, "difference")[1]
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[1], exact[1], rtol=1e-4, atol=1e-4)


class Stubborn(torch.autograd.Function):
    """The identity, with a backward derivative and no forward one."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class StubbornNet(MLP):
    def forward(self, x, *given, **told):
        return super().forward(Stubborn.apply(x), *given, **told)


def test_a_network_without_a_forward_derivative_is_told_what_to_take(closed) -> None:
    path = paths.rectified_flow()
    student = NetworkDenoiser(StubbornNet(2, 8, 1, target_time=True).double(), path, target_time=True)
    for identity in ("lagrangian", "eulerian"):
        with pytest.raises(UserError, match=r"derivative=difference") as raised:
            loss(closed, FlowMap(identity=identity), student, path)
        assert "\n" not in str(raised.value)
        found = loss(closed, FlowMap(identity=identity, derivative="difference"), student, path)
        assert bool(found.terms["flow_map"].isfinite())


# --- tangents of the papers ---------------------------------------------------------------------------------------


def test_the_residual_is_the_difference_of_average_velocities_of_mean_flow() -> None:
    """`u = (x - psi) / t` on a rectified flow; MeanFlow's target is `v - (t - r) du/dt` (Geng et al. 2025, eq. 10)."""
    path, g = paths.rectified_flow(), generator("mf")
    x, t, r = points(path)
    torch.manual_seed(1)
    network = MLP(2, 16, 1, target_time=True).double()
    for parameter in network.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    student = NetworkDenoiser(network, path, "edm", target_time=True)
    x0 = torch.randn(x.shape, generator=g, dtype=torch.float64)
    velocity = path.velocity(x, x0, t)

    def u(x: Tensor, t: Tensor) -> Tensor:
        return (x - student(x, t, target_time=r).mean) / per_sample(t, x)

    value, rate = torch.func.jvp(u, (x, t), (velocity, torch.ones_like(t)))
    theirs = value - (velocity - per_sample(t - r, x) * rate)
    psi, along = with_rate(student, x, t, r, Context(), velocity, "forward")
    ours = residual(path, psi.mean, x0, x0, along, t, r, 1.0)
    torch.testing.assert_close(-ours / per_sample(t, x), theirs, rtol=1e-9, atol=1e-9)


def test_the_residual_is_the_error_of_improved_mean_flow() -> None:
    """`V - (eps - x0)`, `V = u + (t - r) du/dt` along the own u(t, t) (Geng et al. 2025, arXiv:2512.02012)."""
    path, g = paths.rectified_flow(), generator("imf")
    x, t, r = points(path)
    torch.manual_seed(3)
    network = MLP(2, 16, 1, target_time=True).double()
    for parameter in network.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    student = NetworkDenoiser(network, path, "edm", target_time=True)
    x0 = torch.randn(x.shape, generator=g, dtype=torch.float64)

    def u(x: Tensor, t: Tensor, r: Tensor = r) -> Tensor:
        return (x - student(x, t, target_time=r).mean) / per_sample(t, x)

    own = u(x, t, t).detach()
    value, rate = torch.func.jvp(u, (x, t), (own, torch.ones_like(t)))
    theirs = value + per_sample(t - r, x) * rate - path.velocity(x, x0, t)
    here = student(x, t, target_time=t).mean.detach()
    psi, along = with_rate(student, x, t, r, Context(), path.velocity(x, here, t), "forward")
    ours = residual(path, psi.mean, x0, here, along, t, r, 1.0)
    torch.testing.assert_close(-ours / per_sample(t, x), theirs, rtol=1e-9, atol=1e-9)


def test_improved_mean_flow_is_at_rest_on_average_at_the_exact_map() -> None:
    """Its tangent is exact there, so that only x0's scatter about its mean is left, at any jump."""
    path = paths.rectified_flow()
    x, t, r = points(path)
    student = Arrives(path)
    with torch.no_grad():
        mean = student(x, t, target_time=t).mean
        psi, rate = with_rate(student, x, t, r, Context(), path.velocity(x, mean, t), "forward")
        for x0 in (mean + 0.3, mean - 0.3):
            found = residual(path, psi.mean, x0, mean, rate, t, r, 1.0)
            torch.testing.assert_close(found, mean - x0, rtol=1e-9, atol=1e-9)


def test_the_residual_is_the_tangent_of_scm_without_its_cosine() -> None:
    """`g = -cos^2 (F - dx/dt) - cos sin (x + dF/dt)`, `f = cos x - sin F` (Lu & Song 2024, alg. 1, d = 1)."""
    path = paths.trigflow()
    x, t, _ = points(path)
    torch.manual_seed(2)
    network = MLP(2, 16, 1).double()
    for parameter in network.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    student = NetworkDenoiser(network, path, "trigflow")
    angle = 0.5 * math.pi * t
    cos, sin = (per_sample(c, x) for c in (angle.cos(), angle.sin()))
    teacher = torch.sin(3.0 * x)  # any belief
    velocity = (cos * x - teacher) / sin  # dx/dangle

    def answer(x: Tensor, angle: Tensor) -> Tensor:
        mean = student(x, angle / (0.5 * math.pi)).mean
        return (per_sample(angle.cos(), x) * x - mean) / per_sample(angle.sin(), x)

    value, rate = torch.func.jvp(answer, (x, angle), (velocity, torch.ones_like(angle)))
    theirs = -(cos**2) * (value - velocity) - cos * sin * (x + rate)
    zero = torch.zeros_like(t)
    psi, along = with_rate(student, x, t, zero, Context(), path.velocity(x, teacher, t), "forward")
    ours = residual(path, psi.mean, teacher, teacher, along, t, zero, 1.0)
    torch.testing.assert_close(cos * ours / sin, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("untold", [False, True])
def test_tangents_vanish_at_the_exact_map_and_not_while_warming_up(closed, name: str, untold: bool) -> None:
    """sCM's (r = 0, the student told nothing) and Align Your Flow's (any r), from the exact teacher."""
    path = getattr(paths, name)()
    shares = {"at_once": 0.0, "to_data": 1.0} if untold else {}
    options = dict(identity="eulerian", times=Uniform(0.1, 0.9), **shares)
    student = Arrives(path, wants_target=not untold)
    for objective in (FlowMap(**options), FlowMap(**options, normalise=0.1), FlowMap(**options, warm_up=5)):
        done = loss(closed, objective, student, path, update=5)
        assert float(done.terms["flow_map"].detach()) < 1e-16
    early = loss(closed, FlowMap(**options, warm_up=5), student, path, update=1)
    assert float(early.terms["flow_map"].detach()) > 1e-4


def test_the_tangent_of_mean_flow_vanishes_on_average_at_the_exact_map() -> None:
    """The data's velocity is right on average over x0 given x_t: here both ends of a symmetric pair around the mean."""
    path = paths.rectified_flow()
    x, t, r = points(path)
    student = Arrives(path)
    with torch.no_grad():
        mean = student(x, t, target_time=t).mean
        found = []
        for x0 in (mean + 0.3, mean - 0.3):
            psi, rate = with_rate(student, x, t, r, Context(), path.velocity(x, x0, t), "forward")
            found.append(residual(path, psi.mean, x0, x0, rate, t, r, 1.0))
    assert float(found[0].abs().max()) > 1e-2
    assert float((found[0] + found[1]).abs().max()) < 1e-9


def test_a_normalised_tangent_has_the_length_of_the_output_units() -> None:
    g = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.03, 0.04]])
    unit = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    found = tangents.normalised(g, unit, 0.1)
    torch.testing.assert_close(found[0], g[0] / (10.0 + 0.1))
    torch.testing.assert_close(found[2], g[2] / (0.05 + 0.1))
    assert not bool(found[1].any())
    padded = torch.cat((g, 100.0 * torch.ones(3, 1)), 1)
    mask = torch.tensor([[True, True, False]]).expand(3, 3)
    torch.testing.assert_close(tangents.normalised(padded, unit, 0.1, mask)[:, :2], found)


def test_the_learned_weight_is_at_rest_where_it_makes_the_loss_one(closed) -> None:
    """`d/dw (exp(w) L - w) = exp(w) L - 1`: zero where exp(w) is 1/L."""
    path = paths.trigflow()
    student = Arrives(path, 0.2, wants_target=False)
    teacher = closed.gaussian(MEAN, STD**2, path, 2)
    shares = {"identity": "eulerian", "at_once": 0.0, "to_data": 1.0}
    alone = float(loss(closed, FlowMap(**shares), student, path).terms["flow_map"].detach())
    objective = FlowMap(**shares, learned_weight=True)
    head = objective.roles["student"].modules["time_weight"](student).double()
    models = {"teacher": teacher, "student": student, "time_weight": head}
    for start, expected in ((0.0, alone - 1.0), (-math.log(alone), 0.0)):
        head.linear.bias.data.fill_(start)
        step = closed.step("student", models, batch(), total=10)
        head.requires_grad_(True)
        (gradient,) = closed.gradient(objective.losses("student", step), head.linear.bias)
        assert float(gradient) == pytest.approx(expected, abs=1e-9)


def test_autoguidance_leads_away_from_the_weaker_teacher(closed) -> None:
    path = paths.rectified_flow()
    strong, weak = closed.gaussian(MEAN, STD**2, path, 2), closed.gaussian(MEAN, 0.8**2, path, 2)
    student = Arrives(path)
    models = {"teacher": strong, "student": student, "weak": weak}
    objective = FlowMap(identity="eulerian", weak="weak", guidance=2.0)
    step = closed.step("student", models, batch())
    jump = objective._jump(step)
    a, b = (model(jump.x_t, jump.t).mean for model in (strong, weak))
    torch.testing.assert_close(objective._goal(step, jump).mean, 2.0 * a - b)
    for model in models.values():
        model.calls = 0
    objective.losses("student", closed.step("student", models, batch()))
    assert {name: model.calls for name, model in models.items()} == objective.cost("student")


def test_options_of_another_identity_are_refused(closed) -> None:
    for options in ({"along": "data"}, {"normalise": 0.1}, {"warm_up": 3}, {"at_once": 0.0}):
        with pytest.raises(UserError, match="eulerian"):
            FlowMap(**options)
    with pytest.raises(UserError, match="derivative 'backward'"):
        FlowMap(derivative="backward")


class Labelled(Denoiser):
    """Exact: N(1, 0.15^2) under label 0, N(0, 1) under the null label 1."""

    def belief(self, x_t, t, context, target_time):
        null = per_sample(context.condition, x_t) == 1
        mean, std = torch.where(null, 0.0, 1.0), torch.where(null, 1.0, 0.15)
        a, _, s = (per_sample(c, x_t) for c in self.path.coefficients(as_time(t, x_t).expand(len(x_t))))
        return PointPosterior(mean + std**2 * a * (x_t - a * mean) / (a**2 * std**2 + s**2))


class GuidedMap(Denoiser):
    """psi of the guided trajectory of `Labelled`, by Runge-Kutta steps. `fused`: guidance of whole jumps instead,
    `psi_null + s (psi_c - psi_null)` of the two unguided maps."""

    wants_target = True

    def __init__(self, path, scale: float, fused: bool = False) -> None:
        super().__init__(path)
        self.teacher, self.scale, self.fused = Labelled(path), scale, fused

    def belief(self, x_t, t, context, target_time):
        t, r = (as_time(u, x_t).expand(len(x_t)) for u in (t, target_time))
        if self.fused:
            one, null = (self.along(x_t, t, r, scale) for scale in (1.0, 0.0))
            return PointPosterior(null + self.scale * (one - null))
        return PointPosterior(self.along(x_t, t, r, self.scale))

    def guided(self, x, t, scale):
        labels = [torch.full((len(x),), label) for label in (0, 1)]
        one, null = (self.teacher(x, t, Context(condition=label)).mean for label in labels)
        return null + scale * (one - null)

    def along(self, x, t, r, scale, steps: int = 60):
        """The mean of the guided beliefs on the way: (X_r - r/t x) / (1 - r/t) on a rectified flow."""
        y, h = x, (r - t) / steps
        for i in range(steps):
            u, w = t + i * h, per_sample(h, x)
            v = [self.path.velocity(y, self.guided(y, u, scale), u)]
            for share in (0.5, 0.5, 1.0):
                at, now = y + share * w * v[-1], u + share * h
                v.append(self.path.velocity(at, self.guided(at, now, scale), now))
            y = y + w / 6.0 * (v[0] + 2.0 * v[1] + 2.0 * v[2] + v[3])
        k = per_sample(torch.where(t - r < 1e-9, 0.5, r / t), x)
        same = per_sample(t - r < 1e-9, x) > 0
        return torch.where(same, self.guided(x, t, scale), (y - k * x) / (1.0 - k))


def test_guidance_is_of_the_velocity_and_not_of_whole_jumps(closed) -> None:
    """With scale 3 the guided trajectories keep the order of their starts; an extrapolation of whole jumps, as in
    regressing a map of the condition fused with one of none, turns it round."""
    path, scale = paths.rectified_flow(), 3.0
    ends = {}
    for fused in (False, True):
        x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        psi = GuidedMap(path, scale, fused)(x, 1.0, target_time=torch.tensor(1e-3, dtype=torch.float64)).mean
        ends[fused] = (float(psi[0]), float(psi[1] - psi[0]))
    assert ends[False][1] > 0 > ends[True][1]
    x0 = 1.0 + 0.15 * torch.randn(8, 1, generator=generator("labelled"), dtype=torch.float64)
    for fused in (False, True):
        models = {"teacher": Labelled(path), "student": GuidedMap(path, scale, fused)}
        data = Batch(x0, Context(condition=torch.zeros(8, dtype=torch.long)))
        step = closed.step("student", models, data, null=1)
        objective = FlowMap(guidance=scale, times=Uniform(0.4, 0.9), to_data=0.0)
        found = float(objective.losses("student", step).terms["flow_map"])
        assert found > 1e-3 if fused else found < 1e-12
