"""Rollouts of a drawn number of steps, three jumps along a walk, and terms that begin later."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.configuration.compose import build, compose
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives import Denoising, Matching, StudentSpec, Weighted
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.samplers import FewStep

MEAN, STD = 0.7, 0.4


class Map(Denoiser):
    """The exact map of N(MEAN, STD^2) on the rectified flow, with `bias` added to every answer."""

    wants_target = True

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__(paths.rectified_flow())
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))

    def belief(self, x_t: Tensor, t, context, target_time):
        t, r = (as_time(u, x_t).expand(len(x_t)) for u in (t, target_time))
        (a, s), (a_r, s_r) = ((per_sample(1 - u, x_t), per_sample(u, x_t)) for u in (t, r))
        spread, spread_r = ((c**2 * STD**2 + n**2).sqrt() for c, n in ((a, s), (a_r, s_r)))
        here = MEAN + STD**2 * a * (x_t - a * MEAN) / spread**2
        none = per_sample(t - r < 1e-9, x_t) > 0
        ratio = s_r / torch.where(s == 0, 1.0, s)
        gain = torch.where(none, 1.0, a_r - a * ratio)
        jump = (a_r * MEAN + spread_r / spread * (x_t - a * MEAN) - ratio * x_t) / gain
        clean = per_sample(t, x_t) == 0
        return PointPosterior(torch.where(clean, x_t, torch.where(none, here, jump) + self.bias))


def spec(*walks: int) -> StudentSpec:
    return StudentSpec(4, FewStep("ode"), "jumps", walks)


LIKE = torch.empty(500, 2, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 4, 16, 50])
def test_three_jumps_cost_three_calls_and_end_where_the_trajectory_does(steps: int) -> None:
    student, sampler = Map(), FewStep("ode")
    for seed in range(4):
        student.calls = 0
        rollout = sampler.three_jumps(
            student, LIKE, steps, g=generator("x"), structure=generator("step", seed)
        )
        assert student.calls == 3
        start = student.path.prior(LIKE, g=generator("x"))
        torch.testing.assert_close(rollout.x0, MEAN + STD * start)


def test_the_gradient_runs_through_all_three() -> None:
    """Of x0 at a constant bias b: the sum of what every jump adds, by differences."""
    sampler = FewStep("ode")

    def end(bias: float) -> Tensor:
        student = Map(bias)
        g = generator("structure", 2)
        found = sampler.three_jumps(student, LIKE, 4, g=generator("x"), structure=g).x0.mean()
        (gradient,) = torch.autograd.grad(found, student.bias)
        return torch.stack((found.detach(), gradient))

    (high, _), (low, _), (_, gradient) = end(1e-4), end(-1e-4), end(0.0)
    assert float(gradient) == pytest.approx(float(high - low) / 2e-4, rel=1e-6)
    # One answer alone, as in a rollout of simulated inputs, has the gradient 1 at the data.
    assert abs(float(gradient) - 1.0) > 0.05


def test_matching_at_the_end_of_a_walk_costs_three_calls_whatever_its_length(closed) -> None:
    objective = Weighted({"m": Matching()}, {"m": 1.0})
    for walks, seed in itertools.product(((2,), (50,), (2, 4, 8, 16, 50)), range(2)):
        teacher, fake = (closed.gaussian(MEAN, STD**2, paths.rectified_flow(), 2) for _ in range(2))
        models = {"teacher": teacher, "student": Map(0.1), "fake_score": fake}
        step = closed.step(
            "student", models, Batch(None, Context(), 16), LIKE[:16], seed, student=spec(*walks)
        )
        losses = objective.losses("student", step)
        declared = {
            **objective.cost("student"),
            "student": objective.cost("student")["student"] * spec().calls,
        }
        assert {name: model.calls for name, model in models.items()} == declared
        (gradient,) = closed.gradient(losses, models["student"].bias)
        assert gradient is not None


def test_the_number_of_steps_is_drawn_from_the_structure(closed) -> None:
    seen = set()
    for seed in range(40):
        student = Map()
        step = closed.step(
            "student",
            {"student": student, "teacher": student},
            Batch(None, Context(), 2),
            LIKE[:2],
            student=StudentSpec(1, FewStep("ode"), walks=(2, 8)),
            structure=generator("structure", seed),
        )
        seen.add(round(float(step.rollout.t[0]), 3))
    assert {0.5, 1.0} < seen and len(seen) > 6  # of 2 steps, and of 8


def test_what_jumps_cannot_be_is_said_in_a_line() -> None:
    with pytest.raises(UserError, match=r"student\.transition=ode"):
        StudentSpec(2, FewStep("renoise"), "jumps")
    with pytest.raises(UserError, match=r"leave student\.times out"):
        StudentSpec(1, FewStep("ode", times=[1.0]), walks=(1, 2))
    with pytest.raises(UserError, match="from 1 on"):
        StudentSpec(walks=(0, 2))


def test_a_term_that_begins_later_is_not_there_before(closed) -> None:
    teacher, student = closed.gaussian(MEAN, STD**2, closed.flow()), closed.student(0.3, 0.5, closed.flow())
    fake = closed.student(0.1, 0.2, closed.flow())
    x0 = MEAN + STD * torch.randn(8, 1, generator=generator("data"), dtype=torch.float64)
    parts, weights = {"d": Denoising(), "m": Matching()}, {"d": 1.0, "m": 0.5}
    objective, plain = Weighted(parts, weights, {"m": 0.5}), Weighted(parts, weights)

    def terms(which: Weighted, update: int, role: str = "student"):
        models = {"teacher": teacher, "student": student, "fake_score": fake}
        student.calls = fake.calls = 0
        step = closed.step(role, models, Batch(x0), update=update, total=10)
        return dict(which.losses(role, step).terms), (student.calls, fake.calls)

    early, calls = terms(objective, 4)
    assert set(early) == {"denoising"} and calls == (1, 0)
    late, calls = terms(objective, 5)
    assert late == terms(plain, 5)[0] and calls == terms(plain, 5)[1]
    # Its critic knows the student by then.
    assert terms(objective, 0, "fake_score")[0].keys() == {"denoising"}
    for begins, words in (({"x": 0.5}, "begin.x"), ({"d": 0.1, "m": 0.1}, "from the start")):
        with pytest.raises(UserError, match=words):
            Weighted(parts, weights, begins)


def test_guidance_is_not_fused_into_a_regression_on_data() -> None:
    """Its map turns the order of starts round (see `test_tangents`); the teacher's guided velocity does not."""
    given = ["task=exact/gaussian_mixture", "task.conditional=true", "recipe=anyflow", "out=unused"]
    cfg = compose("config", [*given, "families.flow_map.guidance=3", "families.flow_map.diagonal=data"])
    with pytest.raises(UserError, match="use diagonal: teacher"):
        setup.objective_of(cfg, build(cfg.task))
    cfg = compose("config", [*given, "families.flow_map.guidance=3", "families.flow_map.diagonal=teacher"])
    assert setup.objective_of(cfg, build(cfg.task)).cost("student")["teacher"] == 3
