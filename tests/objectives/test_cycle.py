"""Jumps towards noise and cycles against the known trajectories of a Gaussian."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.objectives import Cycle, Nodes, NoiseConsistency, Segments
from omnidistill.objectives.ends import Anywhere, Data, Edges, Grids
from omnidistill.objectives.segments import _share, away
from omnidistill.paths.base import as_time, grid, per_sample
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.samplers.inversion import invert, regenerate
from omnidistill.testing import ConformanceError, check_objective

MEAN, STD = 0.7, 0.4
PATHS = ["rectified_flow", "vp_cosine", "edm", "trigflow"]


class Map(Denoiser):
    """The belief that leads from x_t to where the trajectory of `N(MEAN, STD^2)` is at s, above t or below; with an
    error, upwards or downwards alone, of the state that it leads to."""

    wants_target = True

    def __init__(self, path, up: float = 0.0, down: float = 0.0) -> None:
        super().__init__(path)
        self.up, self.down = (nn.Parameter(torch.tensor(e, dtype=torch.float64)) for e in (up, down))

    def belief(self, x_t: Tensor, t, context: Context, target_time: Tensor | None) -> PointPosterior:
        t, s = (as_time(u, x_t).expand(len(x_t)) for u in (t, target_time))
        (a, _, n), (a_s, _, n_s) = ((per_sample(c, x_t) for c in self.path.coefficients(u)) for u in (t, s))
        wide, narrow = ((x**2 * STD**2 + y**2).sqrt() for x, y in ((a, n), (a_s, n_s)))
        here = MEAN + STD**2 * a * (x_t - a * MEAN) / wide**2
        error = torch.where(s > t, self.up, self.down).unsqueeze(1)
        there = a_s * MEAN + narrow / wide * (x_t - a * MEAN) + error
        # A jump of no length has the teacher's belief, and clean data are what they are.
        near, clean = (per_sample(u < 1e-9, x_t) > 0 for u in ((s - t).abs(), t))
        kept = n_s / torch.where(clean, torch.ones_like(n), n)
        gain = torch.where(near, torch.ones_like(n), a_s - a * kept)
        found = torch.where(near, here, (there - kept * x_t) / gain)
        return PointPosterior(torch.where(clean, x_t, found))


def batch(count: int = 256) -> Batch:
    return Batch(MEAN + STD * torch.randn(count, 3, generator=generator("data"), dtype=torch.float64))


def step_of(closed, path, student: Denoiser, average: Denoiser | None = None, count: int = 256, **options):
    models = {"teacher": closed.gaussian(MEAN, STD**2, path, 3), "student": student}
    models["target"] = average or Map(path)
    return closed.step("student", models, batch(count), **options)


@pytest.mark.parametrize("name", PATHS)
def test_inversion_and_generation_of_the_exact_map_are_the_identity(closed, name: str) -> None:
    """But for the noise level that clean data are taken for: an error of second order in it."""
    path = getattr(paths, name)()
    if not path.coefficients(torch.tensor(path.span[1]).double()).sigma > 0:
        pytest.skip("no noise at the top")
    x0 = batch().x0
    worst = []
    for start in (0.04, 0.02):
        times = grid(path, 5)
        x_1 = invert(Map(path), x0, times, start=start)
        found = regenerate(Map(path), x_1, times)
        worst.append(float((found - x0).abs().max()))
    assert worst[0] < 0.02
    assert worst[0] / worst[1] > 3.0 or worst[0] < 1e-4  # edm's levels at these times are tiny
    # Whatever the number of jumps: the map is exact.
    one = invert(Map(path), x0, grid(path, 1), start=0.02)
    torch.testing.assert_close(one, x_1, rtol=1e-8, atol=1e-8)
    # x_1 is where the data would be without their last noise: the law of the top of the path, nearly.
    top = torch.tensor(path.span[1], dtype=torch.float64)
    alpha, _, sigma = path.coefficients(top)
    spread = math.sqrt(float(alpha) ** 2 * STD**2 + float(sigma) ** 2)
    assert float(x_1.std()) == pytest.approx(spread, rel=0.1)


def test_a_teachers_inversion_comes_closer_with_more_steps(closed) -> None:
    path = paths.rectified_flow()
    teacher, x0 = closed.gaussian(MEAN, STD**2, path, 3), batch().x0
    errors = []
    for steps in (4, 16, 64):
        times = grid(path, steps)
        found = regenerate(teacher, invert(teacher, x0, times, start=1e-3), times)
        errors.append(float((found - x0).square().mean().sqrt()))
    assert errors[0] > 0.05 and errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("ends", [Data(), Edges(4), Edges(4, inside=True), Edges(8, 2)], ids=str)
def test_towards_noise_the_target_lands_where_teacher_and_student_do(closed, name: str, ends) -> None:
    path = getattr(paths, name)()
    objective = Segments(ends, target="self", jumps=Nodes(16), towards="noise")
    step = step_of(closed, path, Map(path, up=0.1))
    with torch.no_grad():
        there = objective._segment(step)
        assert bool(((there.t > 0) & (there.t < there.r) & (there.r <= there.s) & (there.s <= 1)).all())
        inner = there.r < there.s
        second = step["student"](there.x_r, there.r, target_time=torch.where(inner, there.s, 0.5 * there.r))
        once = there.first.blend(second, _share(step, there)).mean
        landed = path.bridge(there.x_t, once, there.t, there.s)
        composed = path.bridge(there.x_r, second.mean, there.r, there.s)
        composed = torch.where(inner.unsqueeze(1), composed, there.x_r)
    torch.testing.assert_close(landed, composed, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["rectified_flow", "vp_cosine"])
def test_the_exact_map_upwards_differs_by_the_error_of_the_teachers_step(closed, name: str) -> None:
    path = getattr(paths, name)()
    drift = []
    for nodes in (64, 128):
        objective = Segments(
            Edges(4), jumps=Nodes(nodes), towards="noise", compare="states", second_order=True, start=0.01
        )
        found = objective.losses("student", step_of(closed, path, Map(path), count=4096))
        drift.append(float(found.diagnostics["segments/drift"]))
    assert drift[1] < 0.01 and drift[0] / drift[1] > 2.0


@pytest.mark.parametrize("towards", ["data", "noise"])
@pytest.mark.parametrize("compare", ["beliefs", "states"])
def test_from_a_perturbed_map_the_gradient_points_home(closed, towards: str, compare: str) -> None:
    path = paths.trigflow()
    for error in (-0.2, 0.2):
        student = Map(path, up=error, down=error)
        found = Segments(Edges(4), jumps=Nodes(64), towards=towards, compare=compare).losses(
            "student", step_of(closed, path, student, count=1024)
        )
        up, down = closed.gradient(found, student.up, student.down)
        mine, other = (down, up) if towards == "data" else (up, down)
        assert float(mine) * error > 0 and not other


def test_compared_states_are_what_the_beliefs_lead_to(closed) -> None:
    path = paths.rectified_flow()
    for towards in ("data", "noise"):
        found = [
            Segments(Data(), jumps=Nodes(8), towards=towards, compare=compare, divergence="l2").losses(
                "student", step_of(closed, path, Map(path, up=0.3, down=0.3))
            )
            for compare in ("beliefs", "states")
        ]
        beliefs, states = (float(each.terms["segments"].detach()) for each in found)
        if towards == "data":
            assert states == pytest.approx(beliefs, rel=1e-10)
        else:  # the state at the top is off by 0.3, the belief by t / (1 - t) of it on a rectified flow
            t = grid(path, 8)[1:].clamp_min(0.01)
            share = ((t / (1 - t)) ** 2).mean()
            assert states == pytest.approx(0.5 * 0.3**2, rel=0.02)
            assert beliefs == pytest.approx(float(share) * states, rel=0.1)


def test_pairs_are_turned_round_above_the_start() -> None:
    path = paths.rectified_flow()
    t, r = torch.tensor([0.5, 0.25, 0.015]).double(), torch.tensor([0.25, 0.0, 0.0]).double()
    low, high = away(t, r, 0.01, path)
    assert low.tolist() == pytest.approx([0.25, 0.01, 0.0075]) and torch.equal(high, t)


@pytest.mark.parametrize("reach", ["segment", "whole"])
def test_the_exact_maps_give_no_loss_and_errors_theirs(closed, reach: str) -> None:
    path = paths.rectified_flow()
    objective = Cycle(4, reach, start=1e-3)
    exact = objective.losses("student", step_of(closed, path, Map(path)))
    assert max(float(term) for term in exact.terms.values()) < 1e-9
    # A shift upwards by e in one segment comes down as e times the ratio of the deviations at its ends.
    wide = [math.sqrt((1 - t) ** 2 * STD**2 + t**2) for t in (0, 0.25, 0.5, 0.75, 1.0)]
    off = objective.losses("student", step_of(closed, path, Map(path, up=0.1), count=4096))
    if reach == "segment":
        kept = sum((0.1 * a / b) ** 2 for a, b in itertools.pairwise(wide)) / 4
        assert float(off.terms["cycle_up"].detach()) == pytest.approx(0.5 * kept, rel=0.05)
    else:  # each segment's shift is widened or narrowed on the way up, and all of it on the way down
        top = sum(0.1 * wide[4] / wide[i] for i in range(1, 5))
        assert float(off.terms["cycle"].detach()) == pytest.approx(
            0.5 * (top * wide[0] / wide[4]) ** 2, rel=0.01
        )


def test_each_direction_is_trained_against_the_other_which_is_frozen(closed) -> None:
    path = paths.rectified_flow()
    student, average = Map(path, up=0.1, down=0.1), Map(path)
    found = Cycle(2).losses("student", step_of(closed, path, student, average))
    up, down = torch.autograd.grad(
        found.terms["cycle_up"], (student.up, student.down), retain_graph=True, allow_unused=True
    )
    assert float(up) > 0 and (down is None or float(down) == 0)
    up, down = torch.autograd.grad(found.terms["cycle_down"], (student.up, student.down), allow_unused=True)
    assert float(down) > 0 and (up is None or float(up) == 0)
    whole = Cycle(2, "whole").losses("student", step_of(closed, path, student, average))
    up, down = torch.autograd.grad(whole.terms["cycle"], (student.up, student.down), allow_unused=True)
    assert float(up) > 0 and (down is None or float(down) == 0)


@pytest.mark.parametrize(
    "objective",
    [Cycle(3), Cycle(3, "whole"), Segments(Edges(4), towards="noise"), Segments(Edges(4), compare="states")],
    ids=["segment", "whole", "noise", "states"],
)
def test_calls_are_those_that_are_declared(closed, objective) -> None:
    step = step_of(closed, paths.rectified_flow(), Map(paths.rectified_flow()))
    objective.losses("student", step)
    found = {name: model.calls for name, model in step.models.items() if model.calls}
    assert found == objective.cost("student")


class Told(Denoiser):
    """A ragged network that takes the second time and does not look at it."""

    wants_target = True

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.path)
        self.inner = inner

    def belief(self, x_t: Tensor, t, context: Context, target_time: Tensor | None):
        return self.inner.belief(x_t, t, context, None)


@pytest.mark.parametrize("reach", ["segment", "whole"])
def test_padding_changes_nothing(closed, reach: str, monkeypatch) -> None:
    plain = closed.ragged_denoiser
    monkeypatch.setattr(closed, "ragged_denoiser", lambda *args, **options: Told(plain(*args)))
    closed.check_padding(Cycle(2, reach), "points")


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Cycle(reach="half"), "reach of a cycle 'half'"),
        (lambda: Cycle(0), "segments >= 1"),
        (lambda: Segments(towards="up"), "direction of segments 'up'"),
        (lambda: Segments(compare="norms"), "comparison of segments 'norms'"),
        (lambda: Segments(Anywhere(), towards="noise"), "Data or Edges"),
        (lambda: Segments(Grids(), towards="noise"), "Data or Edges"),
        (lambda: Segments(Edges(), towards="noise", sub_path=True), "without to_data, sub_path"),
        (lambda: Segments(towards="noise", start=0.0), "start=0.0"),
        (
            lambda: invert(Map(paths.MaskedPath(3)), torch.zeros(1), torch.zeros(2)),
            "inversion needs a Gaussian",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_line(make, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()


def test_one_that_is_not_told_cannot_go_both_ways(closed) -> None:
    path = paths.rectified_flow()
    student = Map(path)
    student.wants_target = False
    for objective in (Cycle(), Segments(Edges(4), towards="noise")):
        with pytest.raises(UserError, match=r"student\.target_time=true"):
            objective.losses("student", step_of(closed, path, student))


@pytest.mark.parametrize(
    "objective",
    [Cycle(2), Cycle(2, "whole"), Segments(Edges(4), towards="noise", compare="states"), NoiseConsistency()],
    ids=["segment", "whole", "noise", "controls"],
)
def test_conformance_of_objectives_whose_student_is_told_where_it_jumps(objective) -> None:
    task = GaussianMixtureTask([[1.0, 0.0], [-1.0, 0.0]], conditional=True, network={"width": 16, "depth": 1})
    assert check_objective(objective, task, target_time=True)
    with pytest.raises(ConformanceError, match=r"student\.target_time=true"):
        check_objective(objective, task)
