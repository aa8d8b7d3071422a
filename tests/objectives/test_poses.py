"""Coordinates: where two answers are about one state nothing is aligned. Closed forms on the exact rigid cloud."""

import pytest
import torch

from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.exact.rigid_cloud import RigidCloudTask
from omnidistill.exact.rotations import random_rotations
from omnidistill.objectives import Cells, Denoising, FlowMap, Matching, Regression, Step
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.times import Uniform

TASK = RigidCloudTask(points=6, shapes=1, std=1e-3, seed=2)
TEACHER = TASK.exact_teacher()
BATCH = TASK.batch(96, generator("b"))
TURN = random_rotations(1, generator("R"))[0].float()


class Blind(Denoiser):
    """Answers the shape in one pose, whatever it sees."""

    def belief(self, x_t, t, context, target_time):
        return PointPosterior(TASK.shapes[0].float().expand_as(x_t).clone())


class Turned(Denoiser):
    """The exact belief, turned by one rotation."""

    def belief(self, x_t, t, context, target_time):
        return PointPosterior(TEACHER(x_t, t, context).mean @ TURN.mT)


class Perfect(Denoiser):
    """A student whose answers are data."""

    def belief(self, x_t, t, context, target_time):
        return PointPosterior(BATCH.x0)


def step(role, **models):
    made = {"teacher": TEACHER, "student": Perfect(TASK.path), **models}
    return Step(role, BATCH, made, generator("g"), like=torch.empty_like(BATCH.x0))


@pytest.mark.parametrize("times", [Uniform(0.25, 0.45), Uniform(0.6, 0.98)])
def test_the_critics_optimum_is_the_exact_posterior(times):
    """With alignment the blind critic had a loss of 0.000 and the exact one 0.073."""
    matching = Matching(times=times, critic_weighting="uniform")

    def loss(critic):
        return float(matching.losses("fake_score", step("fake_score", fake_score=critic)).terms["denoising"])

    best = loss(TEACHER)
    assert best < 0.5 * loss(Blind(TASK.path)) and best < 0.7 * loss(Turned(TASK.path))


@pytest.mark.parametrize("times", [Uniform(0.25, 0.45), Uniform(0.6, 0.98)])
def test_the_gap_is_zero_at_the_data_and_a_turned_critic_has_one(times):
    def shown(critic):
        found = Matching(times=times).losses("student", step("student", fake_score=critic)).diagnostics
        return float(found["matching/gap"]), float(found["matching/scale"])

    (zero, scale), (turned, same), (blind, _) = (shown(c(TASK.path)) for c in (Exact, Turned, Blind))
    assert zero == 0.0 and turned > 0.05 and blind > 0.05
    assert scale == same, "the normaliser is the teacher's own distance, whatever the critic answers"
    workbench = step("student", fake_score=TEACHER)
    x_t, t = workbench.noised(times)
    assert scale == pytest.approx(float(TEACHER(x_t, t).distance(BATCH.x0).mean()), rel=1e-5)


class Exact(Denoiser):
    def belief(self, x_t, t, context, target_time):
        return TEACHER(x_t, t, context)


@pytest.mark.parametrize("target", ["data", "teacher"])
def test_a_blind_denoiser_is_no_optimum(target):
    def loss(student):
        objective = Denoising(weighting="uniform", target=target)
        return float(objective.losses("student", step("student", student=student)).terms["denoising"])

    assert loss(Exact(TASK.path)) < 0.5 * loss(Blind(TASK.path))


def test_heads_want_the_pose_of_their_own_trajectory():
    """Their means lead along one trajectory; aligned, any pose would do for each of them."""

    class Cell(NetworkDenoiser):
        def __init__(self, turn):
            super().__init__(torch.nn.Identity(), TASK.path, "x0", cells=16)
            self.turn = turn

        def belief(self, x_t, t, context, target_time):
            return TEACHER(x_t, t, context)

        def cell(self, x_t, t, head, context):
            return PointPosterior(TEACHER(x_t, t, context).mean @ self.turn.mT)

    def loss(turn):
        made = step("student", student=Cell(turn))
        return float(Cells("data", span=1, second_order=False).losses("student", made).terms["cells"])

    assert loss(torch.eye(3)) < 1e-9 and loss(TURN) > 0.05


@pytest.mark.parametrize("identity", ["semigroup", "lagrangian", "eulerian"])
def test_a_flow_map_is_in_the_pose_of_its_own_state(identity):
    """Near the data the exact map is the exact belief, with next to no loss. In another pose, at r = t or on the jumps
    alone, it has one; aligned, the former would have none."""

    class Jumps(Denoiser):
        wants_target = True

        def __init__(self, here, away):
            super().__init__(TASK.path)
            self.here, self.away = here, away

        def belief(self, x_t, t, context, target_time):
            turn = torch.where((target_time == t)[:, None, None], self.here, self.away)
            return PointPosterior(TEACHER(x_t, t, context).mean @ turn.mT)

    def loss(here, away):
        objective = FlowMap(identity, times=Uniform(0.34, 0.42), at_once=0.5, to_data=0.0)
        made = step("student", student=Jumps(here, away))
        return float(objective.losses("student", made).terms["flow_map"])

    kept = torch.eye(3)
    best = loss(kept, kept)
    assert best < 1e-4 and loss(TURN, TURN) > 0.05 and loss(kept, TURN) > 1e-3


def test_regression_wants_the_pose_of_its_own_noise():
    """The teacher's deterministic sampler turns its answer as its start is turned, so the pair decides the pose."""
    start = TASK.path.prior(torch.empty(8, *TASK.shape), g=generator("n"))
    walk = TASK.sampler()
    x0, other = (walk.sample(TEACHER, start, 8, x_1=x).x0 for x in (start, start @ TURN.mT))
    torch.testing.assert_close(other, x0 @ TURN.mT, atol=2e-3, rtol=0)

    class Answers(Denoiser):
        def __init__(self, answer):
            super().__init__(TASK.path)
            self.answer = answer

        def belief(self, x_t, t, context, target_time):
            return PointPosterior(self.answer)

    def loss(answer):
        workbench = step("student", student=Answers(answer))
        workbench.bank = {
            "states": torch.stack((start, x0), 1),
            "times": torch.tensor([1.0, 0.0], dtype=torch.float64),
            "context": BATCH.context[:8],
        }
        return float(Regression().losses("student", workbench).terms["regression"])

    assert loss(x0) == 0.0 and loss(x0 @ TURN.mT) > 0.05
