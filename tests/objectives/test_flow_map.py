"""Flow maps against the known one of a Gaussian, whose trajectories are `x_r = a_r m + S_r/S_t (x_t - a_t m)`."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.configuration.compose import build, compose
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.networks.mlp import MLP
from omnidistill.objectives import Consistency, FlowMap
from omnidistill.objectives.identities import two_jumps
from omnidistill.objectives.jumps import Halving
from omnidistill.paths.base import as_time, grid, per_sample
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.samplers import FewStep
from omnidistill.times import Uniform

MEAN, STD = 0.7, 0.4
PATHS = ("rectified_flow", "vp_cosine", "trigflow", "edm", "vp_linear")


class Map(Denoiser):
    """The exact psi of `N(MEAN, STD^2)`, times `1 + error` where an error is wanted."""

    wants_target = True

    def __init__(self, path: paths.GaussianPath, error: float = 0.0) -> None:
        super().__init__(path)
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64))

    def belief(self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None):
        t = as_time(t, x_t).expand(len(x_t))
        r = torch.zeros_like(t) if target_time is None else as_time(target_time, x_t).expand(len(x_t))
        (a, _, s), (a_r, _, s_r) = ((per_sample(c, x_t) for c in self.path.coefficients(u)) for u in (t, r))
        spread, spread_r = ((x**2 * STD**2 + y**2).sqrt() for x, y in ((a, s), (a_r, s_r)))
        here = MEAN + STD**2 * a * (x_t - a * MEAN) / spread**2
        gain = a_r - a * s_r / s
        # Written as one fraction without cancellation: (X_r - s_r/s x) / (a_r - a s_r/s).
        arrived = a_r * MEAN + spread_r / spread * (x_t - a * MEAN)
        near = per_sample((r - t).abs() < 1e-9, x_t) > 0
        jump = (arrived - s_r / s * x_t) / torch.where(near, torch.ones_like(gain), gain)
        return PointPosterior((1.0 + self.error) * torch.where(near, here, jump))


def batch(count: int = 64) -> Batch:
    return Batch(MEAN + STD * torch.randn(count, 3, generator=generator("data"), dtype=torch.float64))


def losses(closed, objective: FlowMap, student: Denoiser, path, seed: int = 0):
    teacher = closed.gaussian(MEAN, STD**2, path, 3)
    models = {"teacher": teacher, "student": student}
    return objective.losses("student", closed.step("student", models, batch(), seed=seed))


@pytest.mark.parametrize("identity", ["semigroup", "lagrangian", "eulerian"])
@pytest.mark.parametrize("name", PATHS)
def test_the_exact_map_has_no_loss_and_another_one_has(closed, name: str, identity: str) -> None:
    path = getattr(paths, name)()
    objective = FlowMap(identity=identity, times=Uniform(0.1, 0.95))
    exact = losses(closed, objective, Map(path), path)
    assert float(exact.terms["flow_map"]) < 1e-16
    wrong = losses(closed, objective, Map(path, 0.05), path)
    assert float(wrong.terms["flow_map"]) > 1e-4


def test_the_longest_jumps_of_the_semigroup_are_plain_consistency(closed) -> None:
    """For r = 0 the target is the belief at the middle state alone, whatever the first jump's belief weighs."""
    path = paths.rectified_flow()
    objective = FlowMap(at_once=0.25, to_data=0.7, times=Uniform(0.2, 0.9))
    student = Map(path, 0.1)
    step = closed.step(
        "student", {"teacher": closed.gaussian(MEAN, STD**2, path, 3), "student": student}, batch(20)
    )
    jump = objective._jump(step)
    assert (jump.r == jump.t).sum() == jump.diagonal == 5 and (jump.r == 0).sum() == 14
    far = slice(5, 19)
    asked = []
    student.register_forward_hook(
        lambda module, inputs, belief: asked.append((inputs[1], belief.mean.detach()))
    )
    target = two_jumps(student, jump.x_t[far], jump.t[far], jump.r[far], Context(), step.g)
    (t, _), (u, second) = asked
    assert (u < t).all()
    torch.testing.assert_close(target.mean, second)


class At:
    """Times of which nothing is drawn."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, count, path, g):
        return torch.linspace(self.low, self.high, count, dtype=torch.float64)


class Pairs(At):
    """Such times t, and r = t (1 - step). As jumps to the data they are broken at r."""

    nodes, refined = 1, False

    def __init__(self, low: float, high: float, step: float) -> None:
        super().__init__(low, high)
        self.step = step

    def __call__(self, count, path, g, progress=0.0, round_=0):
        t = super().__call__(count, path, g)
        return t, self.middle(t, t, path)

    def middle(self, t, s, path, progress=0.0, round_=0):
        return t * (1.0 - self.step)


@pytest.mark.parametrize("name", PATHS)
def test_with_no_second_time_the_semigroup_is_consistency_along_the_students_own_way(closed, name) -> None:
    path, pairs = getattr(paths, name)(), Pairs(0.2, 0.9, 0.4)
    objective = FlowMap(at_once=0.0, to_data=1.0, times=At(0.2, 0.9), jumps=pairs, divergence="l2")
    same = Consistency(pairs="own", target="self", jumps=pairs, divergence="l2")
    found = []
    for kind in (objective, same):
        student = Map(path, 0.1)
        student.wants_target = False
        terms = losses(closed, kind, student, path)
        (loss,), (gradient,) = terms.terms.values(), closed.gradient(terms, student.error)
        assert student.calls == kind.cost("student")["student"] and len(kind.cost("student")) == 1
        found.append((float(loss.detach()), float(gradient)))
    assert found[0] == pytest.approx(found[1], rel=1e-12) and found[0][0] > 1e-6


@pytest.mark.parametrize("name", ["rectified_flow", "trigflow", "vp_linear"])
def test_with_no_second_time_the_eulerian_is_the_limit_of_consistency_distillation(closed, name) -> None:
    """Of its gradient over the step h, times B at r = 0, `sigma_t / W_t`; the rest is of the order of h."""
    path, t = getattr(paths, name)(), 0.6

    def gradient(objective) -> float:
        student = closed.student(0.3, 0.5, path)
        found = losses(closed, objective, student, path)
        return float(closed.gradient(found, student.network.scale)[0])

    alpha, _, sigma = path.coefficients(torch.tensor(t, dtype=torch.float64))
    rates = path.rates(torch.tensor(t, dtype=torch.float64))
    b = float(sigma / (rates[2] * alpha - sigma * rates[0]))
    limit = gradient(FlowMap("eulerian", at_once=0.0, to_data=1.0, times=At(t, t), divergence="l2"))
    off = [
        b / h * gradient(Consistency(target="self", jumps=Pairs(t, t, h / t), divergence="l2")) - limit
        for h in (2e-3, 1e-3)
    ]
    assert abs(limit) > 1e-2 and abs(off[1]) < 0.01 * abs(limit)
    # On straight ways an affine student moves evenly, and nothing is left to halve.
    assert off[1] == pytest.approx(0.5 * off[0], rel=0.02, abs=1e-10)


@pytest.mark.parametrize("identity", ["semigroup", "lagrangian", "eulerian"])
def test_from_a_perturbed_map_the_gradient_points_home(closed, identity: str) -> None:
    path = paths.trigflow()
    for error in (-0.1, 0.1):
        student = Map(path, error)
        found = losses(closed, FlowMap(identity=identity, times=Uniform(0.1, 0.95)), student, path)
        (gradient,) = closed.gradient(found, student.error)
        assert float(gradient) * error > 0


def test_more_steps_of_a_wrong_map_are_better_and_renoising_has_its_best_number() -> None:
    """Every jump is 2 % too long. Jumps shrink as the steps grow, and their errors with them, down to that of the wrong
    velocity; re-noising makes a whole jump of every step and passes its best number (cf. Sabour et al. 2025, Align
    Your Flow, sec. 3.1)."""
    path = paths.rectified_flow()
    like = torch.empty(20_000, 1, dtype=torch.float64)

    class Overshooting(Map):
        def belief(self, x_t, t, context, target_time):
            right = super().belief(x_t, t, context, target_time).mean
            return PointPosterior(x_t + 1.02 * (right - x_t))

    def error(transition: str, steps: int) -> float:
        x = FewStep(transition).sample(Overshooting(path), like, steps, g=generator("noise")).x0
        return float(((x.mean() - MEAN) ** 2 + (x.std() - STD) ** 2).sqrt())

    ode, renoise = ([error(kind, steps) for steps in (1, 2, 4, 8, 16)] for kind in ("ode", "renoise"))
    assert all(later < earlier for earlier, later in itertools.pairwise(ode))
    assert renoise[-1] > 1.3 * min(renoise)


def test_what_cannot_be_is_said_in_a_line(closed) -> None:
    path = paths.rectified_flow()
    with pytest.raises(UserError, match="identity of a flow map 'semi'"):
        FlowMap(identity="semi")
    for shares in (
        {"at_once": 0.0},
        {"at_once": 0.5, "to_data": 0.5},
        {"identity": "lagrangian", "at_once": 0.0},
    ):
        with pytest.raises(UserError, match="at_once > 0"):
            FlowMap(**shares)
    with pytest.raises(UserError, match="diagonal: teacher"):
        FlowMap(diagonal="data", guidance=2.0)
    with pytest.raises(UserError, match="semigroup"):
        FlowMap(identity="lagrangian", decay=0.9)
    untold = NetworkDenoiser(MLP(3, width=8, depth=1).double(), path, "flow")
    with pytest.raises(UserError, match=r"student\.target_time=true"):
        losses(closed, FlowMap(), untold, path)
    with pytest.raises(UserError, match="at least 2 samples"):
        models = {"teacher": closed.gaussian(MEAN, STD**2, path, 3), "student": Map(path)}
        FlowMap().losses("student", closed.step("student", models, batch(1)))


@pytest.mark.parametrize("path", ["masked", "uniform"])
@pytest.mark.parametrize("recipe", ["flow-map-matching", "anyflow", "imf", "pdd", "ctm"])
def test_a_jump_path_is_told_that_its_second_time_is_vacuous(recipe: str, path: str) -> None:
    given = ["task=exact/markov_text", f"task.path={path}", f"recipe={recipe}", "out=unused"]
    cfg = compose("config", given)
    said = r"does not depend on the time it jumps to.*task\.path=onehot.*di4c.*redi"
    with pytest.raises(UserError, match=said) as raised:
        setup.objective_of(cfg, build(cfg.task))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("name", ["rectified_flow", "edm"])
def test_halved_jumps_lie_on_their_grids_and_break_at_the_next(name: str, shift: float) -> None:
    path = getattr(paths, name)()
    jumps = Halving(4, shift)
    t, r = jumps(4000, path, generator("halving"))
    top, found = grid(path, 16, shift), {}
    for steps in (1, 2, 4, 8):
        nodes = grid(path, steps, shift)
        on = (t.unsqueeze(1) == nodes[:-1]) & (r.unsqueeze(1) == nodes[1:])
        found[steps] = float(on.any(1).double().mean())
        assert bool(on.any(0).all())
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-9)
    assert all(abs(share - 0.25) < 0.03 for share in found.values())
    between = jumps.middle(t, r, path)
    assert bool((between.unsqueeze(1) == top).any(1).all())
    assert bool((between < t).all() and (between > r).all())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"identity": "lagrangian"},
        {"identity": "eulerian"},
        {"identity": "eulerian", "power": 1.0, "normalise": 0.1},
    ],
    ids=str,
)
def test_padding_changes_neither_loss_nor_gradient(closed, options) -> None:
    closed.check_padding(FlowMap(times=Uniform(0.1, 0.95), **options), "points", told=True)


OPTIONS = (
    {},
    {"decay": 0.9},
    {"diagonal": "data"},
    {"identity": "lagrangian"},
    {"identity": "lagrangian", "derivative": "difference"},
    {"identity": "eulerian"},
    {"identity": "eulerian", "derivative": "difference", "along": "student"},
    {"identity": "eulerian", "diagonal": "data", "along": "teacher"},
    {"identity": "eulerian", "diagonal": "data"},
)


@pytest.mark.parametrize("options", OPTIONS)
def test_calls_are_those_that_are_declared(closed, options) -> None:
    path = paths.rectified_flow()
    objective = FlowMap(**options)
    teacher = closed.gaussian(MEAN, STD**2, path, 3)
    models = {"teacher": teacher, "student": Map(path), "target": Map(path)}
    objective.losses("student", closed.step("student", models, batch()))
    assert {name: model.calls for name, model in models.items() if model.calls} == objective.cost("student")
