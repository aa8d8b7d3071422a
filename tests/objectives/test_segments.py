"""Segments against the known trajectories of a Gaussian, and against what they reduce to."""

import math

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives import Consistency, Nodes, Segments
from omnidistill.objectives.ends import Anywhere, Data, Edges, Grids
from omnidistill.objectives.jumps import Shrinking
from omnidistill.paths.base import as_time, grid, per_sample
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator

MEAN, STD = 0.7, 0.4


class Map(Denoiser):
    """The belief that leads from x_t to where the trajectory of `N(MEAN, STD^2)` is at s, times `1 + error`."""

    wants_target = True

    def __init__(self, path: paths.GaussianPath, error: float = 0.0, mean=MEAN, std=STD) -> None:
        super().__init__(path)
        self.mean, self.std = mean, std
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64))

    def belief(self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None):
        t = as_time(t, x_t).expand(len(x_t))
        s = torch.zeros_like(t) if target_time is None else as_time(target_time, x_t).expand(len(x_t))
        (a, _, n), (a_s, _, n_s) = ((per_sample(c, x_t) for c in self.path.coefficients(u)) for u in (t, s))
        wide, narrow = ((x**2 * self.std**2 + y**2).sqrt() for x, y in ((a, n), (a_s, n_s)))
        here = self.mean + self.std**2 * a * (x_t - a * self.mean) / wide**2
        kept = n_s / torch.where(n > 0, n, torch.ones_like(n))
        gain = a_s - a * kept
        there = a_s * self.mean + narrow / wide * (x_t - a * self.mean)
        near = per_sample((s - t).abs() < 1e-9, x_t) > 0
        jump = (there - kept * x_t) / torch.where(near, torch.ones_like(gain), gain)
        found = (1.0 + self.error) * torch.where(near, here, jump)
        return PointPosterior(torch.where(per_sample(t, x_t) == 0, x_t, found))


def batch(count: int = 64) -> Batch:
    return Batch(MEAN + STD * torch.randn(count, 3, generator=generator("data"), dtype=torch.float64))


def step_of(closed, path, student: Denoiser, target: Denoiser | None = None, **options):
    teacher = closed.gaussian(MEAN, STD**2, path, 3)
    models = {"teacher": teacher, "student": student, "target": target or Map(path)}
    return closed.step("student", models, batch(options.pop("count", 64)), **options)


ENDS = [Data(), Anywhere(16), Anywhere(16, window=0.3), Edges(4), Edges(8, 1, inside=True), Grids()]


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("how", [(1, False), (3, False), (2, True)])
def test_the_target_lands_where_teacher_and_student_do_one_after_the_other(closed, ends, how) -> None:
    path = paths.vp_cosine()
    steps, second_order = how
    objective = Segments(ends, target="self", jumps=Nodes(8), teacher_steps=steps, second_order=second_order)
    step = step_of(closed, path, Map(path, 0.1))
    with torch.no_grad():
        there = objective._segment(step)
        assert bool(((there.s >= 0) & (there.s <= there.r) & (there.r < there.t)).all())
        second = step["student"](there.x_r, there.r, target_time=there.s)
        from omnidistill.objectives.segments import _share

        once = there.first.blend(second, _share(step, there)).mean
        landed = path.bridge(there.x_t, once, there.t, there.s)
        composed = path.bridge(there.x_r, second.mean, there.r, there.s)
    torch.testing.assert_close(landed, composed, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["rectified_flow", "vp_cosine", "edm"])
@pytest.mark.parametrize("order, least", [(False, 3.0), (True, 5.5)])
def test_the_exact_map_differs_by_the_error_of_the_teachers_step_alone(closed, name, order, least) -> None:
    """Of second order in the step for Euler's rule, of third for Heun's."""
    path = getattr(paths, name)()
    drift = []
    for nodes in (32, 64):
        objective = Segments(Edges(2), jumps=Nodes(nodes), second_order=order)
        found = objective.losses("student", step_of(closed, path, Map(path), count=4096))
        drift.append(float(found.diagnostics["segments/drift"]))
    assert drift[1] < 0.02 and drift[0] / drift[1] > least


@pytest.mark.parametrize("to_data", [False, True])
@pytest.mark.parametrize("target", ["self", "average"])
def test_with_ends_at_the_data_it_is_consistency(closed, target: str, to_data: bool) -> None:
    path = paths.rectified_flow()
    average = Map(path, -0.05)
    losses = [
        objective.losses("student", step_of(closed, path, Map(path, 0.1), average))
        for objective in (
            Segments(Data(), target=target, jumps=Nodes(16), divergence="l2", to_data=to_data),
            Consistency(target=target, jumps=Nodes(16), divergence="l2"),
        )
    ]
    (ours,), (theirs,) = ([float(term.detach()) for term in found.terms.values()] for found in losses)
    assert ours == pytest.approx(theirs, rel=1e-12) and ours > 1e-5


def test_with_ends_at_r_the_target_is_the_teachers_step(closed) -> None:
    class Here(Data):
        def __call__(self, t, r, path, g, progress=0.0):
            return r

    path = paths.rectified_flow()
    student, average = Map(path), Map(path, 5.0)  # whatever the average says
    teacher = closed.gaussian(MEAN, STD**2, path, 3)
    student.belief = lambda x, t, context, target_time: teacher.belief(x, t, context, None)
    found = Segments(Here(), jumps=Nodes(4)).losses("student", step_of(closed, path, student, average))
    assert float(found.terms["segments"]) < 1e-20


@pytest.mark.parametrize("options", [{}, {"to_data": True}, {"sub_path": True}, {"diagonal": 0.5}], ids=str)
def test_from_a_perturbed_map_the_gradient_points_home(closed, options) -> None:
    path = paths.trigflow()
    for error in (-0.2, 0.2):
        student = Map(path, error)
        found = Segments(Anywhere(32), jumps=Nodes(32), **options).losses(
            "student", step_of(closed, path, student, Map(path), count=1024)
        )
        (gradient,) = closed.gradient(found, student.error)
        assert float(gradient) * error > 0


def test_the_outer_network_is_frozen_and_the_inner_target_too(closed) -> None:
    """Kim et al. 2023, eq. 9: the gradient is that of the student's jump through the outer network's input."""
    path = paths.rectified_flow()
    student, average = Map(path, 0.1), Map(path, 0.05)
    step = step_of(closed, path, student, average)
    average.requires_grad_(True)
    found = Segments(Anywhere(8), target="self", to_data=True).losses("student", step)
    own, outer = closed.gradient(found, student.error, average.error)
    assert float(own) != 0 and outer is not None
    assert student.calls == 2 and average.calls == 2
    # With the outer network at the exact map and the inner one exact there is nothing left but the teacher's error.
    exact = step_of(closed, path, Map(path), Map(path))
    found = Segments(Anywhere(8), target="self", to_data=True, jumps=Nodes(128)).losses("student", exact)
    assert float(found.terms["segments"]) < 1e-6


def test_a_sub_path_is_the_straight_way_of_the_teachers_step(closed) -> None:
    path = paths.rectified_flow()
    plain, sub = (
        Segments(Data(), jumps=Nodes(8), sub_path=sub)._segment(step_of(closed, path, Map(path)))
        for sub in (False, True)
    )
    assert torch.equal(plain.x_r, sub.x_r) and bool(((sub.t < plain.t) & (sub.t > sub.r)).all())
    share = ((sub.t - plain.r) / (plain.t - plain.r)).unsqueeze(1)
    torch.testing.assert_close(sub.x_t, share * plain.x_t + (1 - share) * plain.x_r)


def test_the_right_belief_depends_on_the_end_so_it_must_be_told(closed) -> None:
    path = paths.vp_cosine()
    exact = Map(path, mean=0.0, std=0.6)
    at = [
        float(exact(torch.ones(1, 1).double(), 0.8, target_time=torch.tensor([s])).mean.detach())
        for s in (0.0, 0.79)
    ]
    assert at == pytest.approx([0.62, 0.12], abs=0.005)
    student = Map(path)
    student.wants_target = False
    for ends in (Anywhere(), Edges(8, 1), Edges(4, inside=True), Grids()):
        with pytest.raises(UserError, match=r"student\.target_time=true"):
            Segments(ends).losses("student", step_of(closed, path, student))
    for ends in (Data(), Edges(4)):  # one end for each time
        Segments(ends, jumps=Nodes(16)).losses("student", step_of(closed, path, student))


def test_ends_lie_where_they_should() -> None:
    path, g = paths.rectified_flow(), generator("ends")
    t = torch.rand(20_000, generator=g, dtype=torch.float64) * 0.9 + 0.1
    r = t - 0.05
    nodes = grid(path, 16)

    def on(times: Tensor, s: Tensor) -> bool:
        return float((s.unsqueeze(1) - times).abs().min(1).values.max()) < 1e-9

    s = Anywhere(16)(t, r, path, g)
    assert on(nodes, s) and bool((s <= r).all())
    high = (r > 12 / 16) & (r < 13 / 16)  # uniform over the 13 nodes below
    assert float((s[high] == 0).double().mean()) == pytest.approx(1 / 13, abs=0.02)
    s = Anywhere(16, window=0.3)(t, r, path, g)
    assert bool((t - s <= 0.3 + 1e-9).all()) and bool((s <= r).all())
    s = Edges(4)(t, r, path, g)
    assert on(grid(path, 4), s) and bool((r - s < 0.25 + 1e-9).all())
    s = Edges(4, inside=True)(t, r, path, g)
    edge = Edges(4)(t, r, path, g)
    assert bool(((s >= edge) & (s <= r)).all()) and 0.45 < float((s == edge).double().mean()) < 0.6
    assert [Edges(8, 1).count(p) for p in (0.0, 0.24, 0.25, 0.5, 0.75, 1.0)] == [8, 8, 4, 2, 1, 1]
    union = torch.cat([grid(path, n) for n in range(4, 9)])
    s = Grids(jitter=0.0)(t, r, path, g)
    assert on(union, s) and bool((r - s < 0.26 + 0.125 + 1e-9).all())
    assert not on(union, Grids()(t, r, path, g))
    for ends in ENDS:  # an r at the data stays there
        zero = torch.zeros(8, dtype=torch.float64)
        assert torch.equal(ends(zero + 0.1, zero, path, g), zero)


def test_shrinking_jumps_follow_their_formula() -> None:
    path, g = paths.edm(), generator("shrinking")
    for progress, stage in ((0.0, 0), (0.5, 4), (1.0, 7)):
        t, r = Shrinking()(4000, path, g, progress)
        level, low = path.noise_level(t), path.noise_level(r)
        share = 1 - (1 + 8 / (1 + level.exp())) / 2 ** (stage + 1)
        want = torch.where(share > 0, level * share, 0.0)
        inside = r > 0
        torch.testing.assert_close(low[inside], want[inside], rtol=1e-6, atol=1e-9)
        assert bool((want[~inside] <= path.noise_level(torch.tensor(path.span[0]))).all())
    t, r = Shrinking()(4000, path, g, 0.0)
    level = path.noise_level(t)  # an r below the span is 0, too
    assert bool((level[r > 0] > math.log(7)).all()) and bool((r[level > math.log(7) + 0.01] > 0).all())
    with pytest.raises(UserError, match="Gaussian path"):
        Shrinking()(4, paths.MaskedPath(3), g)


def test_stored_states_are_those_of_the_bank_and_need_no_data(closed) -> None:
    path = paths.rectified_flow()
    times = grid(path, 4)
    states = torch.randn(8, 5, 3, generator=generator("bank"), dtype=torch.float64)
    bank = {"states": states, "times": times, "context": Context()}
    objective = Segments(Anywhere(8), states="stored", jumps=Nodes(4))
    assert objective.bank.steps == 4 and "data" not in objective.needs
    there = objective._segment(step_of(closed, path, Map(path), bank=bank))
    rows = (there.t.unsqueeze(1) == times).nonzero()
    assert torch.equal(there.x_t, states[rows[:, 0], rows[:, 1]])
    assert torch.equal(there.r, times[rows[:, 1] + 1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "self"},
        {"teacher_steps": 3, "second_order": True},
        {"to_data": True},
        {"to_data": True, "target": "self", "diagonal": 1.0},
    ],
    ids=str,
)
def test_calls_are_those_that_are_declared(closed, options) -> None:
    path = paths.rectified_flow()
    objective = Segments(Anywhere(8), **options)
    step = step_of(closed, path, Map(path))
    objective.losses("student", step)
    found = {name: model.calls for name, model in step.models.items() if model.calls}
    assert found == objective.cost("student")


def test_padding_changes_nothing(closed) -> None:
    closed.check_padding(Segments(Edges(2), jumps=Nodes(8)), "points")


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Segments(target="teacher"), "target of segments 'teacher'"),
        (lambda: Segments(states="noise"), "source of states 'noise'"),
        (lambda: Segments(teacher_steps=0), "teacher_steps >= 1"),
        (lambda: Segments(sub_path=True, second_order=True), "one step"),
        (lambda: Segments(states="stored", diagonal=1.0), "states must be 'data'"),
        (lambda: Edges(6, 4), "halved"),
        (lambda: Edges(1, 2), "halved"),
        (lambda: Anywhere(0), "nodes >= 1"),
        (lambda: Grids(5, 4), "low <= high"),
        (lambda: Shrinking(q=1.0), "q > 1"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(make, says) -> None:
    with pytest.raises(UserError, match=says):
        make()
