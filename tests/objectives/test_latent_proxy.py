"""A proxy of the rewards: it learns what the expert prefers, and the student follows its gradient instead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.configuration.compose import build, compose
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.exact.rewards import Half
from omnidistill.objectives import Consistency, LatentProxy, Nodes, Reward, Weighted
from omnidistill.objectives.heads import Head
from omnidistill.objectives.latent_proxy import disagreement
from omnidistill.random import generator
from omnidistill.runs import setup
from omnidistill.testing import check_objective
from omnidistill.training.roles import cast

SLOPE = (0.7, -1.3)
TASK = GaussianMixtureTask(conditional=True, network={"width": 8, "depth": 1})


class Itself(nn.Module):
    """A network whose features are its input, and nothing in it to learn."""

    feature_module, feature_axis, feature_channels = "inner", 1, 2

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        return self.inner(x)


class Linear(nn.Module):
    """Features to their product with a slope that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.slope


def expert(x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
    return x0_hat @ torch.tensor(SLOPE, dtype=x0_hat.dtype)


def fixed(count: int, path: paths.Path, g: torch.Generator) -> Tensor:
    return torch.full((count,), 0.5, dtype=torch.float64)


@pytest.fixture
def scene(closed):
    """`step(role, update) -> Step` of a student `0.3 + 0.8 x_t` in the plane, with a linear proxy of its answers."""
    path = paths.rectified_flow()
    models = {
        "student": closed.student(0.3, 0.8, path),
        "proxy": NetworkDenoiser(Itself(), path, "x0"),
        "proxy_head": Linear(),
    }

    def step(role: str, update: int = 0):
        x0 = torch.randn(256, 2, generator=generator("data", update), dtype=torch.float64)
        made = closed.step(role, models, Batch(x0), seed=update)
        models["proxy_head"].requires_grad_(role == "proxy")
        return made

    return models, step


def test_a_linear_expert_is_learned_and_the_students_gradient_is_its_own(scene, closed) -> None:
    models, step = scene
    head, student = models["proxy_head"], models["student"].network
    proxied = Reward(
        {"r": expert}, {"r": 2.0}, inputs="noised", times=fixed, proxy=LatentProxy(["data"], temperature=3.0)
    )
    optimiser = torch.optim.LBFGS(head.parameters(), lr=1.0, max_iter=20, line_search_fn="strong_wolfe")

    def loss(update: int) -> Tensor:
        return proxied.losses("proxy", step("proxy", update)).terms["proxy"]

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(0)
        value.backward()
        return value

    for _ in range(3):
        optimiser.step(closure)
    torch.testing.assert_close(
        head.slope.detach(), 2.0 * torch.tensor(SLOPE, dtype=torch.float64), atol=1e-4, rtol=0.0
    )
    again = proxied.losses("proxy", step("proxy", 1))  # other samples
    assert float(again.terms["proxy"].detach()) < 1e-9
    right, of = again.diagnostics["proxy/agreement"].tolist()
    assert right == of == 256
    found = proxied.losses("student", step("student", 2))
    direct = Reward({"r": expert}, {"r": 2.0}, inputs="noised", times=fixed)
    exact = direct.losses("student", step("student", 2))
    for mine, theirs in zip(
        closed.gradient(found, student.shift, student.scale),
        closed.gradient(exact, student.shift, student.scale),
        strict=True,
    ):
        assert float(mine) == pytest.approx(float(theirs), rel=1e-3)
    assert list(found.terms) == ["reward/proxy"]
    assert float(found.diagnostics["reward/r/mean"]) == pytest.approx(
        float(exact.diagnostics["reward/r/mean"])
    )


def test_no_gradient_passes_through_the_expert(scene, closed) -> None:
    """A decoder inside the reward is asked without a graph, and one that nothing can be differentiated by will do."""
    models, step = scene
    decoder, seen = nn.Linear(2, 1).double(), []

    def decoded(x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        value = decoder(x0_hat).squeeze(1)
        seen.append((x0_hat.requires_grad, value.requires_grad))
        return value

    objective = Reward({"d": decoded}, inputs="noised", times=fixed, proxy=LatentProxy(["data"]))
    head, student = models["proxy_head"], models["student"].network
    (slope,) = closed.gradient(objective.losses("proxy", step("proxy")), head.slope)
    assert seen == [(False, False)] * 2 and bool((slope != 0).all())
    seen.clear()
    with torch.no_grad():
        head.slope.copy_(torch.tensor([1.0, 2.0]))
    losses = objective.losses("student", step("student"))
    (shift,) = closed.gradient(losses, student.shift)
    assert float(shift) == pytest.approx(-3.0), "the proxy's own gradient"
    assert [value for _, value in seen] == [False] and decoder.weight.grad is None
    seen.clear()
    quiet = step("student")
    quiet.logged = False
    assert not objective.losses("student", quiet).diagnostics and not seen, "the expert is for the log alone"
    steps = Reward({"h": Half([1.0])}, inputs="noised", times=fixed, proxy=LatentProxy(["data"]))
    with torch.no_grad():
        head.slope.zero_()
    (slope,) = closed.gradient(steps.losses("proxy", step("proxy")), head.slope)
    assert float(slope[0]) < -0.01, "descent prefers the better side"


def test_the_loss_in_closed_form() -> None:
    """Of two samples the divergence of two coins; none at `R + a function of the condition`; for large tau a regression
    of differences."""
    g = generator("pairs")
    r, h = (torch.randn(2, 5, generator=g, dtype=torch.float64) for _ in range(2))
    p, q = (torch.sigmoid((of[0] - of[1]) / 0.7) for of in (r, h))
    coin = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(disagreement(r, h, 0.7), coin.mean())
    r, h = (torch.randn(3, 5, generator=g, dtype=torch.float64) for _ in range(2))
    assert float(disagreement(r, r + h[0], 0.7)) == pytest.approx(0.0, abs=1e-12)
    apart = r - h
    pairs = [apart[0] - apart[1], apart[0] - apart[2], apart[1] - apart[2]]
    exact = torch.stack([d.square().mean() for d in pairs]).sum() / (8.0 * 1e3**2)
    torch.testing.assert_close(disagreement(r, h, 1e3), exact, rtol=1e-4, atol=0.0)


def test_what_is_compared(scene) -> None:
    """The expert sees the student's answer and each rival, under the batch's own condition and data."""
    models, step = scene
    seen = []

    def watching(x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        seen.append((x0_hat, x0))
        return x0_hat.sum(1)

    models["teacher"] = NetworkDenoiser(Itself(), paths.rectified_flow(), "x0")
    proxy = LatentProxy(["teacher", "data"])
    made = step("proxy")
    Reward({"w": watching}, inputs="noised", times=fixed, proxy=proxy).losses("proxy", made)
    (own, x0), (teachers, _), (data, _) = seen
    torch.testing.assert_close(own, 0.3 + 0.8 * teachers)  # both at one state, with which the teacher answers
    assert torch.equal(data, made.batch.x0) and torch.equal(x0, made.batch.x0)


@pytest.mark.parametrize(
    ("proxy", "inputs", "student", "own"),
    [
        ({}, "noised", {"student": 2, "proxy": 1}, {"student": 1, "proxy": 3, "target": 1}),
        ({"frozen": True, "layers": "all"}, "rollout", {"student": 2, "proxy": 1},
         {"student": 1, "proxy": 3, "target": 1}),
        ({"rivals": ["teacher"], "start": "student"}, "rollout", {"student": 2, "proxy": 1},
         {"student": 1, "proxy": 2, "teacher": 1}),
    ],
)  # fmt: skip
def test_conforms_beside_consistency_and_counts(proxy, inputs, student, own) -> None:
    """`check_objective` compares the calls made with those declared, and who has gradients."""
    reward = Reward({"half": Half([1.0])}, inputs=inputs, proxy=LatentProxy(**proxy))
    objective = Weighted({"c": Consistency(jumps=Nodes(4)), "r": reward}, {"c": 1.0, "r": 0.5})
    check_objective(objective, TASK)
    assert objective.cost("student") == {"teacher": 1, "target": 1} | student
    assert objective.cost("proxy") == own


@pytest.mark.parametrize("role", ["student", "fake_score"])
def test_padding_changes_nothing(role, closed) -> None:
    torch.manual_seed(0)

    def norm(x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
        return -(x0_hat * context.mask).square().flatten(1).sum(1)

    proxy = LatentProxy(role="fake_score", name="discriminator")
    objective = Reward({"norm": norm}, inputs="noised", times=fixed, proxy=proxy)
    closed.check_padding(objective, "points", role, discriminator=Head(8).double())


def test_without_data_the_teacher_is_a_rival() -> None:
    assert "data" not in Reward({"h": Half([1.0])}, proxy=LatentProxy(["teacher"])).needs
    assert "data" in Reward({"h": Half([1.0])}, proxy=LatentProxy(["data"])).needs


def test_of_a_frozen_proxy_the_head_alone_is_trained() -> None:
    student, origin = (NetworkDenoiser(TASK.network(), TASK.path, **TASK.reading()) for _ in range(2))
    for frozen in (False, True):
        objective = Reward({"h": Half([1.0])}, proxy=LatentProxy(["data"], frozen=frozen, updates=2))
        crew = cast(student, origin, objective, ema=0.9)
        assert crew.parts["proxy"] == (("proxy_head",) if frozen else ("proxy", "proxy_head"))
        assert crew.turns == ("proxy", "proxy", "student")


def configured(options: str) -> Weighted:
    """The recipe's objective with a proxy of these options."""
    reward = "{half: {_target_: omnidistill.exact.rewards.Half, direction: [1.0]}}"
    given = [
        *(
            "task=exact/gaussian_mixture",
            "task.conditional=true",
            "recipe=rg-lcd",
            "tuned=false",
            "out=unused",
        ),
        f"families.reward.rewards={reward}",
        f"families.reward.proxy={{_target_: omnidistill.objectives.latent_proxy.LatentProxy{options}}}",
    ]
    cfg = compose("config", given)
    return setup.objective_of(cfg, build(cfg.task))


def test_an_option_of_the_recipe() -> None:
    """What is compared is what its consistency term keeps; an option that is not one is refused in a line."""
    objective = configured(", updates: 3, temperature: 0.5")
    assert objective.roles["proxy"].updates == 3 and objective.roles["target"].average == 0.95
    assert objective.cost("proxy") == {"student": 1, "target": 1, "proxy": 3}
    with pytest.raises(UserError, match="heat") as refused:
        configured(", heat: 0.5")
    assert "\n" not in str(refused.value)


def test_a_rival_that_nobody_keeps_is_missed_before_the_first_update() -> None:
    student = NetworkDenoiser(TASK.network(), TASK.path, **TASK.reading())
    with pytest.raises(UserError, match="no objective says what 'target' is"):
        cast(student, student, Reward({"h": Half([1.0])}, proxy=LatentProxy()), ema=0.9)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rivals": []}, "rivals of a proxy"),
        ({"rivals": ["student"]}, "rivals of a proxy"),
        ({"rivals": ["data", "data"]}, "rivals of a proxy"),
        ({"temperature": 0.0}, "temperature of a proxy is above 0, got 0"),
        ({"role": "teacher"}, "a role of its own"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, line) -> None:
    with pytest.raises(UserError, match=line) as refused:
        LatentProxy(**options)
    assert "\n" not in str(refused.value)
