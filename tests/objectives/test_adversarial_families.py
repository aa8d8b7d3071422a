"""Discriminators between jumps and between scores, backtracking, students in parts: closed forms and what they ask."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.experts import Experts
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.networks.redrawn import redrawn
from omnidistill.objectives import (
    Adversarial,
    AdversarialJumps,
    AdversarialScores,
    Backtracking,
    Features,
    Matching,
    OnPolicy,
    Reward,
    Step,
    StudentSpec,
    Weighted,
)
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.testing import check_objective
from omnidistill.times import Uniform
from omnidistill.training.frozen import freeze
from omnidistill.training.roles import cast

TASK = GaussianMixtureTask(conditional=True, network={"width": 8, "depth": 2})
PATH = paths.rectified_flow()
M, S = 0.4, 0.6  # data N(M, S^2)


class Same(nn.Module):
    """Features that are the state itself."""

    feature_module, feature_axis, feature_channels = "identity", 1, 1

    def __init__(self):
        super().__init__()
        self.identity = nn.Identity()

    def forward(self, x, t, condition=None, **keywords):
        return self.identity(x)


class Line(nn.Module):
    """A head that adds its features up, each with a weight."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, features):
        return features @ self.weights


def eye():
    return NetworkDenoiser(Same(), PATH, "x0")


# --- jumps ------------------------------------------------------------------------------------------------------------


class Exact(nn.Module):
    """The teacher's own map of N(M, S^2) on a rectified flow, for a jump from t to s; times `off` its spread."""

    def __init__(self, off=1.0):
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off, dtype=torch.float64))

    def forward(self, x, t, condition=None, *, target_time=None, **keywords):
        t, s = t[:, None].double(), target_time[:, None].double()

        def size(u):
            return ((1 - u) ** 2 * S**2 + u**2).sqrt()

        there = (1 - s) * M + self.off * size(s) / size(t) * (x - (1 - t) * M)
        # The x0 with which a straight step from (x, t) to s arrives there.
        return (there - s / t * x) / (1 - s / t)


@pytest.mark.parametrize("told", [True, False])
def test_jumps_of_the_exact_map_are_the_teachers(closed, told):
    """Real and fake states are one to the error of the teacher's steps, so that a fair discriminator tells nothing; a
    student that spreads too little is told from it, by any discriminator that sees squares."""
    x0 = M + S * torch.randn(4000, 1, generator=generator("x"), dtype=torch.float64)
    found = {}
    for off in (1.0, 0.7):
        student = NetworkDenoiser(Exact(off), PATH, "x0", target_time=True)
        models = {"student": student, "critic": eye(), "teacher": closed.gaussian(M, S**2, PATH)}
        step = closed.step("critic", models, Batch(x0))
        objective = AdversarialJumps(segments=4, teacher_steps=24, second_order=True, told=told)
        answer = objective._answer(step, "critic")
        assert answer.features.shape[1] == 1 + told
        if told:  # what stands beside is x_t, the same for both
            torch.testing.assert_close(answer.features[:, 1], answer.real[:, 1])
        found[off] = float((answer.features[:, 0] - answer.real[:, 0]).abs().max())
        assert bool((answer.t == answer.data.t).all())
    assert found[1.0] < 5e-3 < 0.1 < found[0.7]


def test_the_gradient_of_a_jump_reaches_the_student_through_its_end_alone(closed):
    """`d L_G / d off = -E sigmoid(-D) w d x_s / d off` for D = w x_s: by hand from the states."""
    x0 = M + S * torch.randn(64, 1, generator=generator("x"), dtype=torch.float64)
    student = NetworkDenoiser(Exact(0.8), PATH, "x0", target_time=True)
    head = Line(0.7)
    models = {
        "student": student,
        "critic": eye(),
        "teacher": closed.gaussian(M, S**2, PATH),
        "discriminator": head,
    }
    objective = AdversarialJumps(segments=4, teacher_steps=1, told=False)
    step = closed.step("student", models, Batch(x0))
    (gradient,) = closed.gradient(objective.losses("student", step), student.network.off)
    answer = objective._answer(closed.step("student", models, Batch(x0)), "student")
    # Where the end is clean the time asked about is the path's floor.
    mean = torch.where(answer.t <= PATH.span[0], 1.0, 1.0 - answer.t)[:, None] * M
    ends = answer.features.detach()
    slope = (ends - mean) / 0.8
    expected = -(torch.sigmoid(-0.7 * ends) * 0.7 * slope).mean()
    torch.testing.assert_close(
        gradient, expected, rtol=5e-3, atol=0.0
    )  # a network is told the floor for 0, too


# --- scores -----------------------------------------------------------------------------------------------------------


def scores(closed, role, m, s, slope, count=50_000):
    """A student of N(m, s^2) with an exact critic, a discriminator that is a line."""
    batch, like = closed.free(count)
    models: dict[str, nn.Module] = {
        "student": closed.student(m, s, PATH),
        "teacher": closed.gaussian(M, S**2, PATH),
        "fake_score": closed.gaussian(m, s**2, PATH),
        "eye": eye(),
        "discriminator": Line(slope),
    }
    step = closed.step(role, models, batch, like)
    models["discriminator"].requires_grad_(role == "eye")
    return step


def test_steps_of_critic_and_teacher_are_told_apart_and_the_student_goes_home(closed):
    """With an exact critic and equal laws both steps are one, whatever the discriminator, so its optimum is flat. Of a
    shifted student the optimal line rises towards the teacher's side, and the student's gradient under it leads home.
    """
    objective = AdversarialScores(interval=0.1, times=Uniform(0.1, 0.9))
    rest = objective._answer(scores(closed, "eye", M, S, 1.0, 500), "eye")
    torch.testing.assert_close(rest.features, rest.real)
    for m in (M + 0.8, M - 0.8):
        step = scores(closed, "eye", m, S, 0.0)
        (rise,) = closed.gradient(objective.losses("eye", step), step["discriminator"].weights)
        assert float(rise) * (M - m) < 0.0  # descent makes the slope one towards M
        step = scores(closed, "student", m, S, 0.5 * (1.0 if m < M else -1.0))
        (pull,) = closed.gradient(objective.losses("student", step), step["student"].network.shift)
        assert float(pull) * (m - M) > 0.0


def test_the_student_of_scores_is_pulled_through_the_critics_step(closed):
    """`d L_G / d m` of a line D = w x: `-w E [d x' / d x_t alpha]`, `x' = k x_t + (alpha' - k alpha) D_F(x_t)`."""
    interval, w = 0.1, 0.6
    objective = AdversarialScores(interval=interval, times=Uniform(0.3, 0.6))
    step = scores(closed, "student", M + 0.5, S, w, 2000)
    (gradient,) = closed.gradient(objective.losses("student", step), step["student"].network.shift)
    t = step.noised(objective.times)[1]
    s = t - interval
    k = s / t
    slope_of_critic = (1 - t) * S**2 / ((1 - t) ** 2 * S**2 + t**2)
    expected = -w * ((k + ((1 - s) - k * (1 - t)) * slope_of_critic) * (1 - t)).mean()
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


OBJECTIVES = {
    "jumps": lambda: AdversarialJumps(segments=2, teacher_steps=2),
    "relaxed jumps": lambda: AdversarialJumps(told=False, loss="relativistic", second_order=True),
    "scores": lambda: AdversarialScores(),
    "guided scores": lambda: AdversarialScores(loss="relativistic", layers="all", guidance=2.0),
    "penalised scores": lambda: AdversarialScores(r1=0.1, r2=0.1),
    "backtracking": lambda: Backtracking(targets=1),
    "flash": lambda: Matching(critic="student"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("told", [False, True])
def test_they_conform_and_declare_their_calls(name, told):
    check_objective(OBJECTIVES[name](), TASK, batch=4, target_time=told)


@pytest.mark.parametrize("make, says", [
    (lambda: AdversarialJumps(segments=0), "segments"),
    (lambda: AdversarialJumps(real="teacher"), "real"),
    (lambda: AdversarialJumps(r1=1.0), "penalty=features"),
    (lambda: AdversarialScores(interval=0.0), "interval"),
    (lambda: AdversarialScores(view=lambda x: x), "view"),
    (lambda: Backtracking(targets=0), "targets"),
    (lambda: Backtracking(critic="frozen"), "critic"),
])  # fmt: skip
def test_wrong_options_are_said_in_a_line(make, says):
    with pytest.raises(UserError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


# --- backtracking -----------------------------------------------------------------------------------------------------


def test_targets_lead_back_to_the_teacher():
    objective = Backtracking(targets=4, degradation=0.2, back=0.75)
    asked = [objective.target(over) for over in (0.0, 0.2, 0.399, 0.41, 0.61, 0.79, 0.81, 0.999)]
    assert asked == ["way_3", "way_3", "way_3", "way_2", "way_1", "way_1", "teacher", "teacher"]
    assert Backtracking(targets=1).target(0.0) == "teacher"
    kept = {name: spec.at for name, spec in objective.roles.items() if spec.copies}
    assert kept == pytest.approx({"way_1": 0.05, "way_2": 0.1, "way_3": 0.15})
    assert objective.roles["student"].rests(0.19) and not objective.roles["student"].rests(0.2)


def test_the_gap_is_to_the_target_of_the_moment(closed):
    """Of a student N(m, S^2) with an exact critic the pull is `alpha (m - mean of the target)`-like: it has the sign of
    where the present target lies."""
    objective = Backtracking(targets=2, degradation=0.5, normaliser="none")
    pulls = {}
    for update, total in ((6, 10), (9, 10)):
        batch, like = closed.free(20_000)
        models = {
            "student": closed.student(0.0, S, PATH),
            "fake_score": closed.gaussian(0.0, S**2, PATH),
            "way_1": closed.gaussian(-0.5, S**2, PATH),
            "teacher": closed.gaussian(0.8, S**2, PATH),
        }
        step = closed.step("student", models, batch, like, update=update, total=total)
        pulls[update] = float(
            closed.gradient(objective.losses("student", step), models["student"].network.shift)[0]
        )
    assert pulls[6] > 0.05 and pulls[9] < -0.08


# --- students in parts ------------------------------------------------------------------------------------------------


def test_experts_answer_their_own_labels_and_learn_from_these_alone():
    torch.manual_seed(0)
    task = GaussianMixtureTask(
        [[float(k), 0.0] for k in range(5)], conditional=True, network={"width": 8, "depth": 1}
    )
    bare = redrawn(task.network(), generator("a"))
    experts = Experts(bare, 2, 5)
    redrawn(experts.experts[1], generator("b"))
    labels = torch.tensor([4, 0, 3, 1, 2, 5])
    assert experts.of(labels).tolist() == [
        1,
        0,
        1,
        0,
        0,
        1,
    ]  # labels 0, 1, 2 and 3, 4; the null label is the last one's
    x, t = torch.randn(6, 2), torch.rand(6)
    out = experts(x, t, labels)
    for i, k in enumerate([1, 0, 1, 0, 0, 1]):
        torch.testing.assert_close(
            out[i : i + 1], experts.experts[k](x[i : i + 1], t[i : i + 1], labels[i : i + 1])
        )
    loss = experts(x[[1, 3]], t[[1, 3]], labels[[1, 3]]).sum()
    loss.backward()
    assert all(p.grad is None for p in experts.experts[1].parameters())
    assert any(p.grad is not None for p in experts.experts[0].parameters())
    for count in (1, 6):
        with pytest.raises(UserError, match=r"student\.experts"):
            Experts(bare, count, 5)
    with pytest.raises(UserError, match="no features"):
        experts(x, t, labels, features=["blocks"])


def test_what_is_named_is_frozen_and_near_names_are_offered():
    network = TASK.network()
    freeze(network, ["linear"])
    free = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {"blocks.layers.0.norm.weight", "blocks.layers.1.norm.bias", "classes.weight"} <= free
    assert not any("linear" in name or name.startswith(("first", "last", "blocks.film")) for name in free)
    network = TASK.network()
    freeze(network, ["blocks.layers", "convolutions"])
    free = {name for name, p in network.named_parameters() if p.requires_grad}
    assert "first.weight" in free and not any(name.startswith("blocks.layers") for name in free)
    with pytest.raises(UserError, match="'block'; did you mean blocks"):
        freeze(TASK.network(), ["block"])
    with pytest.raises(UserError, match="nothing"):
        freeze(nn.Sequential(nn.Linear(2, 2)), ["linear"])


# --- roles ------------------------------------------------------------------------------------------------------------


def test_frozen_and_random_roles():
    torch.manual_seed(0)
    student, origin = (NetworkDenoiser(TASK.network(), PATH, **TASK.reading()) for _ in range(2))
    parts = {
        "a": Adversarial(critic="eye", start="teacher", frozen=True),
        "f": Features(start="random", redrawn=True),
    }
    crew = cast(student, origin, Weighted(parts, dict.fromkeys(parts, 1.0)), ema=0.9)
    assert crew.parts["eye"] == ("discriminator",) and "features" not in crew.parts
    assert crew.trainable["eye"] == () == crew.trainable["features"]
    theirs = {id(p) for p in origin.parameters()}
    assert all(id(p) in theirs for p in crew.models["eye"].parameters())  # the very tensors, not a copy
    assert not any(id(p) in theirs for p in crew.models["features"].parameters())
    weight = crew.models["features"].network.blocks.layers[0].linear.weight
    assert float(weight.square().mean()) == pytest.approx(1.0 / 8.0, rel=0.5)


def test_the_random_network_keeps_the_size_of_what_passes():
    x = torch.randn(256, 64)
    layer = redrawn(nn.Sequential(nn.Linear(64, 400), nn.LayerNorm(400)), generator("r"))
    assert float(layer[0](x).std()) == pytest.approx(1.0, rel=0.1)
    assert bool((layer[1].weight == 1).all() and (layer[0].bias == 0).all())


# --- one step for all -------------------------------------------------------------------------------------------------


def test_dmd2_reward_embedding_loss_and_on_policy_share_one_step():
    """One rollout, one noised copy for each law of times, one question for each network about it."""
    torch.manual_seed(0)
    parts = {
        "matching": Matching(critic_updates=5),
        "adversarial": Adversarial(),
        "reward": Reward({"small": lambda x, x0, context: -x.flatten(1).square().mean(1)}),
        "features": Features(start="random", redrawn=True),
        "on_policy": OnPolicy(),
    }
    objective = Weighted(parts, dict.fromkeys(parts, 1.0))
    student, origin = (NetworkDenoiser(TASK.network(), PATH, **TASK.reading()) for _ in range(2))
    crew = cast(student, origin, objective, ema=0.9)
    seen = {}
    for name in ("student", "fake_score", "features"):
        crew.models[name].network.blocks.register_forward_hook(
            lambda module, inputs, output, name=name: seen.setdefault(name, []).append(len(output))
        )
    batch = TASK.batch(16, generator("b"))
    models = {"teacher": TASK.exact_teacher(), **crew.models}
    crew.models["student"].requires_grad_(True)
    step = Step("student", batch, models, generator("g"), like=torch.empty_like(batch.x0), null=TASK.null,
                student=StudentSpec(1, FewStep("renoise")))  # fmt: skip
    objective.losses("student", step)
    # Matching's law and its head's is one, the features' is another: two copies, two questions, one rollout. The
    # teacher is asked about the copy by matching and about the visited state by on_policy.
    assert len(step._noised) == 2 == len(step._answers)
    calls = {name: model.calls for name, model in models.items() if getattr(model, "calls", 0)}
    assert calls == {"student": 1, "teacher": 2, "fake_score": 1, "features": 2} == objective.cost("student")
    assert seen == {"student": [16], "fake_score": [16], "features": [32]}  # each network once
    # In the critic's turn: one rollout, one call for its denoising loss, the head, and the data.
    crew.models["student"].requires_grad_(False)
    crew.models["fake_score"].requires_grad_(True)
    seen.clear()
    again = Step("fake_score", batch, models, generator("h"), like=torch.empty_like(batch.x0), null=TASK.null)
    objective.losses("fake_score", again)
    assert seen == {"student": [16], "fake_score": [32]} and len(again._noised) == 1


def test_a_context_survives_the_samples_of_the_teacher(closed):
    """What is real comes with its own labels: features of each half are asked under its own."""
    task = TASK
    torch.manual_seed(0)
    critic = NetworkDenoiser(redrawn(task.network(), generator("c")), PATH, **task.reading())
    batch = task.batch(5, generator("b"))
    other = task.batch(5, generator("other"))
    bank = {
        "states": torch.stack((other.x0, other.x0), 1),
        "times": torch.tensor([1.0, 0.0]),
        "context": other.context,
    }
    models = {"student": critic, "fake_score": critic}
    step = Step("fake_score", batch, models, generator("g"), like=torch.empty_like(batch.x0), bank=bank)
    objective = Adversarial(real="teacher")
    (question,) = objective.questions("fake_score")
    answer = step.answer(question)
    assert torch.equal(answer.data.context.condition, other.context.condition)
    torch.testing.assert_close(answer.real, critic.features(answer.data.x, answer.data.t, other.context))
    plain = Context(condition=batch.context.condition)
    assert not torch.allclose(answer.real, critic.features(answer.data.x, answer.data.t, plain), atol=1e-4)
