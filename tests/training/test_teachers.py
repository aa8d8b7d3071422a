"""Several teachers, starts that are checked, and modules of the student's own."""

import pytest
import torch
from torch import nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.routed import Routed
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Denoising, Losses, Matching, Step, Weighted
from omnidistill.objectives.base import RoleSpec
from omnidistill.random import generator
from omnidistill.training.checkpoint import read_safetensors
from omnidistill.training.module import Distillation
from omnidistill.training.ranks import Ranks
from omnidistill.training.roles import cast
from omnidistill.training.settings import Optim, Settings

LEFT, RIGHT = (GaussianMixtureTask([[x, 0.0]], 0.2) for x in (-1.0, 1.0))


class Labelled(type(LEFT)):
    """Data of noise with a label: which of two teachers is meant."""

    conditional, null = True, 2

    def batch(self, count, g, split="train"):
        labels = torch.randint(2, (count,), generator=g)
        return Batch(torch.randn(count, 2, generator=g), Context(labels))


def by_label(context):
    return context.condition


def belief(denoiser, x, t, labels):
    return denoiser(x, t, Context(labels)).mean


def test_a_route_answers_each_sample_by_its_own_teacher():
    left, right = LEFT.exact_teacher(), RIGHT.exact_teacher()
    routed = Routed({"left": left, "right": right}, by_label)
    x, labels = torch.randn(9, 2, generator=generator("x")), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    found = belief(routed, x, t, labels)
    expected = torch.where(labels[:, None] == 0, belief(left, x, t, labels), belief(right, x, t, labels))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert routed.calls == 1 and left.calls == right.calls == 2
    belief(routed, x, t, torch.zeros(9, dtype=torch.long))
    assert (left.calls, right.calls) == (3, 2), "who is not meant is not asked"
    with pytest.raises(UserError, match="an index below 2"):
        belief(routed, x, t, labels + 1)


def test_guidance_keeps_the_route_of_the_condition():
    class Told(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, x, t, condition):
            return self.sign * (1.0 + condition.float())[:, None].expand(x.shape)

    one, two = (NetworkDenoiser(Told(sign), LEFT.path, "x0") for sign in (1.0, -1.0))
    routed = Routed({"one": one, "two": two}, by_label)
    labels = torch.tensor([0, 1])
    models = {"teacher": routed, "student": one}
    step = Step("student", Batch(torch.zeros(2, 2), Context(labels)), models, generator("g"),
                like=torch.empty(2, 2), null=2)  # fmt: skip
    found = step.guided("teacher", 3.0)(torch.ones(2, 2), 0.5, step.context).mean
    # u + 3 (c - u) with c = sign (1 + label) and u = sign 3.
    expected = torch.tensor([[3 + 3 * (1 - 3)] * 2, [-(3 + 3 * (2 - 3))] * 2], dtype=found.dtype)
    torch.testing.assert_close(found, expected)
    assert routed.calls == 2


def run(engine, folder, teacher, route="drawn", objective=None, updates=150, spec=None):
    task = Labelled([[0.0, 0.0]], 1.0)
    network = GaussianMixtureTask(
        [[0.0, 0.0]], 1.0, conditional=False, network={"width": 24, "depth": 1}
    ).network()

    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.label = network, nn.Embedding(3, 2)

        def forward(self, x, t, condition=None):
            return self.inner(x + 0 * self.label(condition), t) + self.label(condition)

    torch.manual_seed(0)
    student = NetworkDenoiser(Conditional(), LEFT.path, "x0")
    objective = objective or Weighted({"d": Denoising(target="teacher")}, {"d": 1.0})
    settings = Settings(updates=updates, batch=64, ema=0.0, log_every=1000, checkpoint_every=1000,
                        optim=Optim(lr=3e-2, warmup=1))  # fmt: skip
    module = Distillation(
        cast(student, None, objective, 0.0), teacher, objective, settings, LEFT.like, route=route
    )
    engine.run(module, folder, task, log=False)
    return module


def answers(module, labels):
    x = torch.zeros(2, 2)
    with torch.no_grad():
        return module.trained["student"](
            x, torch.full((2,), 0.999, dtype=torch.float64), Context(labels)
        ).mean[:, 0]


def test_a_student_of_two_teachers_learns_each_where_it_is_meant(engine, tmp_path):
    """Teachers of two points, routed by label: the student's answer at the prior goes to the right one of them. Drawn
    without regard to the label, both answers are the same mean of the two."""
    labels = torch.tensor([0, 1])
    pair = {"left": LEFT.exact_teacher(), "right": RIGHT.exact_teacher()}
    module = run(engine, tmp_path / "routed", pair, by_label)
    left, right = answers(module, labels).tolist()
    assert left < -0.4 and right > 0.4
    assert module.calls["teacher"] == 150 and module.calls["left"] > 100 < module.calls["right"]
    drawn = run(engine, tmp_path / "drawn", pair)
    left, right = answers(drawn, labels).tolist()
    assert abs(right - left) < 0.4
    assert (
        drawn.calls["left"] + drawn.calls["right"] == 150
        and min(drawn.calls["left"], drawn.calls["right"]) > 40
    )


def test_which_teacher_is_drawn_depends_on_seed_and_update_alone(engine):
    pair = {"left": LEFT.exact_teacher(), "right": RIGHT.exact_teacher()}
    modules = []
    for rank in (0, 1):
        module = engine.module(Weighted({"d": Denoising()}, {"d": 1.0}))
        module.teacher, module.ranks = None, Ranks(rank, 2)
        module.teachers = nn.ModuleDict(pair)
        modules.append([id(module._models(turn)["teacher"]) for turn in range(20)])
    assert modules[0] == modules[1] and len(set(modules[0])) == 2


def test_a_role_starts_as_any_model_by_name(engine):
    def specs(**roles):
        return type("O", (), {"roles": roles, "needs": frozenset(), "bank": None, "rolls_out": False})()

    origins = {"left": engine.denoiser(1), "right": engine.denoiser(2)}
    objective = specs(
        second=RoleSpec(start="critic"),
        critic=RoleSpec(start="right"),
        still=RoleSpec(start="ema", refresh=0),
    )
    crew = cast(engine.denoiser(0), origins, objective, 0.9)
    for name in ("critic", "second"):
        assert torch.equal(crew.models[name].network.last.weight, origins["right"].network.last.weight)
    assert torch.equal(crew.models["still"].network.last.weight, crew.models["student"].network.last.weight)
    assert crew.turns == ("second", "critic", "student")
    with pytest.raises(UserError, match="unknown start of role 'a' 'rigth'; did you mean right") as error:
        cast(engine.denoiser(0), origins, specs(a=RoleSpec(start="rigth")), 0.9)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="a, b start from one another"):
        cast(engine.denoiser(0), None, specs(a=RoleSpec(start="b"), b=RoleSpec(start="a")), 0.9)
    with pytest.raises(UserError, match="role 'student' is the student"):
        cast(engine.denoiser(0), None, specs(student=RoleSpec(updates=3)), 0.9)


class Weighing(Matching):
    """A learned log-weight beside the student, as the uncertainty w(t) of Karras et al. (2024, eq. 21): the loss
    `L / exp(w) + w` is least at w = log L."""

    def __init__(self):
        super().__init__(critic="none")
        self.roles = {"student": RoleSpec(modules={"w": lambda student: nn.Linear(1, 1)})}

    def losses(self, role, step):
        w = step["w"](torch.ones(1, 1)).squeeze()
        pull = step["student"](step.x0, 0.5).mean.square().mean()
        return Losses({"weighed": 4.0 / w.exp() + w + 0.0 * pull})


def test_modules_of_the_student_are_trained_saved_and_resumed(engine, tmp_path):
    def module(updates):
        return engine.module(
            Weighted({"w": Weighing()}, {"w": 1.0}), updates=updates,
            optim=Optim(lr=0.1, warmup=1, decay="constant"), checkpoint_every=30,
        )  # fmt: skip

    straight = engine.run(module(60), tmp_path / "a")
    w = straight.trained["w"](torch.ones(1, 1))
    assert float(w) == pytest.approx(1.386, abs=0.05)  # log 4
    names = read_safetensors(tmp_path / "a/checkpoints/last.safetensors")[0]
    assert "model/w.weight" in names
    engine.run(module(30), tmp_path / "b")
    again = engine.run(module(60), tmp_path / "b", resume=True)
    assert torch.equal(again.trained["w"].weight, straight.trained["w"].weight)
