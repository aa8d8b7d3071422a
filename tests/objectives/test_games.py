"""Losses of discriminators: the optimum of each on two Gaussians, the student at equal laws, penalties, conditions."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Adversarial, Matching, Step, StudentSpec, Weighted, penalties
from omnidistill.objectives.games import GAMES, game
from omnidistill.objectives.heads import Head, Jury
from omnidistill.objectives.questions import Question, Seen
from omnidistill.objectives.verdicts import accuracies
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.testing import ConformanceError, check_objective
from omnidistill.times import Uniform

P, Q, STD = 0.6, -0.4, 0.8  # real N(P, STD^2), fake N(Q, STD^2)
GRID = torch.linspace(-6.0, 6.0, 2401, dtype=torch.float64)


def law(mean: float) -> torch.Tensor:
    """Probabilities of the grid's points."""
    return torch.softmax(-0.5 * ((GRID - mean) / STD) ** 2, 0)


def risk(name: str, logits: torch.Tensor, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """`E L_D` by sums over the grid: over pairs where a game is of pairs, else over each law."""
    play = game(name)
    if play.relative:
        near = slice(None, None, 12)
        p, q, d = real[near] / real[near].sum(), fake[near] / fake[near].sum(), logits[near]
        return (p[:, None] * q * play.discriminator(d[:, None], d)).sum()
    zero = torch.zeros_like(logits)
    apart = play.discriminator(zero, zero)
    of_real = play.discriminator(logits, zero) - 0.5 * apart
    of_fake = play.discriminator(zero, logits) - 0.5 * apart
    return (real * of_real).sum() + (fake * of_fake).sum()


def optimum(name: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    if name == "hinge":
        return torch.sign(real - fake)
    return real / (real + fake) if name == "least_squares" else real.log() - fake.log()


@pytest.mark.parametrize("name", GAMES)
def test_the_optimum_of_two_gaussians_is_the_closed_form(name):
    """No other discriminator has a lower risk, and where the risk is smooth its gradient is zero there."""
    real, fake = law(P), law(Q)
    best = optimum(name, real, fake).requires_grad_()
    least = risk(name, best, real, fake)
    (slope,) = torch.autograd.grad(least, best)
    least = float(least.detach())
    if name != "hinge":
        assert float(slope.abs().max()) < 1e-12
    g = torch.Generator().manual_seed(0)
    for size in (0.05, 0.3, 1.0):
        for _ in range(8):
            wave = torch.randn(4, generator=g, dtype=torch.float64)
            bent = sum(a * torch.sin((k + 1) * GRID / 3.0 + a) for k, a in enumerate(wave))
            assert float(risk(name, best.detach() + size * bent, real, fake)) > least
    # It is far better than telling nothing apart, and worth what nothing is at equal laws.
    flat = torch.full_like(GRID, game(name).middle)
    assert least < 0.92 * float(risk(name, flat, real, fake))
    level = optimum(name, real, real)
    torch.testing.assert_close(level, flat)


@pytest.mark.parametrize("name", GAMES)
def test_the_student_is_at_rest_at_equal_laws_and_goes_home_from_elsewhere(name):
    """`d/dm E L_G` for fake N(m, STD^2) under the optimum: 0 at m = P, and of the sign of m - P before and behind."""

    def slope(m: float) -> float:
        d = optimum(name, law(P), law(m))
        if name == "hinge":  # a step; smoothed, as heads are
            d = torch.tanh(20.0 * (law(P).log() - law(m).log()))
        mean = torch.tensor(m, dtype=torch.float64, requires_grad=True)
        fake = torch.softmax(-0.5 * ((GRID - mean) / STD) ** 2, 0)
        loss = game(name).student(d[::12, None], d[None, :])
        p = law(P)[::12] / law(P)[::12].sum()
        return float(torch.autograd.grad((p[:, None] * fake * loss).sum(), mean)[0])

    assert abs(slope(P)) < 1e-9
    assert slope(P + 0.5) > 1e-3 and slope(P - 0.5) < -1e-3


def test_accuracies_are_of_each_side_and_of_each_bin_of_time():
    real, fake = torch.tensor([1.0, -1.0, 2.0, 0.5]), torch.tensor([-1.0, -2.0, 1.0, 0.2])
    at = torch.tensor([0.1, 0.1, 0.6, 0.9], dtype=torch.float64)
    path = paths.rectified_flow()
    shown = accuracies(game("softplus"), real, fake, at, at, path)
    assert float(shown["adversarial/accuracy"]) == pytest.approx(0.5 * (0.75 + 0.5))
    bins = [v.tolist() for k, v in shown.items() if k.startswith("adversarial/accuracy/")]
    # 1 of 2 real and 2 of 2 fake; nobody; one of each, the real alone; the same.
    assert bins == [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]
    pairs = accuracies(game("relativistic"), real, fake, at, at, path)
    assert float(pairs["adversarial/accuracy"]) == 1.0
    middle = accuracies(game("least_squares"), real, fake, at, at, path)
    assert float(middle["adversarial/accuracy"]) == pytest.approx(0.5 * (0.5 + 0.75))


# --- penalties --------------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """`x A x / 2 + b x`, whose gradient is `A x + b`."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        a = torch.randn(3, 3, generator=g, dtype=torch.float64)
        self.a, self.b = (
            nn.Parameter(a + a.mT),
            nn.Parameter(torch.randn(3, generator=g, dtype=torch.float64)),
        )

    def forward(self, x):
        return 0.5 * ((x @ self.a) * x).sum(1) + x @ self.b


def test_the_exact_penalty_is_that_of_the_known_gradient_and_differentiates():
    d, x = Quadratic(), torch.randn(16, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = penalties.exact(d, x)
    expected = (0.5 * x @ (d.a + d.a.mT) + d.b).square().sum(1)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found.mean(), (d.a, d.b)),
        torch.autograd.grad(expected.mean(), (d.a, d.b)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_perturbed_penalty_tends_to_the_exact_one():
    """Its mean over xi is `|A x + b|^2 + sigma^2 (tr(A^2) / 2 + tr(A)^2 / 4)` for a quadratic."""
    d, count = Quadratic(), 400_000
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).expand(count, 3)
    exact = float((x[:1] @ d.a + d.b).square().sum())
    bias = float(0.5 * (d.a @ d.a).trace() + 0.25 * d.a.trace() ** 2)
    errors = []
    for sigma in (0.5, 0.05, 0.005):
        found = penalties.perturbed(d, x, d(x), sigma, generator("xi"))
        mean, error = float(found.mean()), 4.0 * float(found.std()) / count**0.5
        assert mean == pytest.approx(exact + sigma**2 * bias, abs=error)
        errors.append(abs(mean - exact))
    assert errors[0] > 10.0 * error > errors[2]


def test_the_exact_penalty_differentiates_twice_through_attention():
    layer = nn.Linear(8, 8)

    def logits(x):
        q = layer(x).reshape(3, 1, 4, 8)
        return nn.functional.scaled_dot_product_attention(q, q, q).flatten(1).pow(2).sum(1)

    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(3))
    penalties.exact(logits, x).mean().backward()
    assert float(layer.weight.grad.abs().max()) > 0.0


def test_penalties_of_a_jury_are_those_of_its_mean():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    d = Quadratic()
    both = penalties.exact(lambda x: torch.stack((d(x), 3.0 * d(x)), 1), x)
    torch.testing.assert_close(both, 4.0 * penalties.exact(d, x))


TASK = GaussianMixtureTask(conditional=True, network={"width": 8, "depth": 2})
SMALL = {"start": "teacher", "bank": 8, "teacher_steps": 2}
OPTIONS = [
    {"loss": "hinge", "layers": "all"},
    {"loss": "relativistic", "paired": True, "r1": 1.0, "r2": 0.5},
    {"loss": "relativistic", "r1": 1.0, "penalty": "perturbed", "mismatch": 1.0},
    {"layers": ["blocks.layers.0", "blocks"], "heads": 6, "drawn": 2, "renewed": 0.3},
    {"start": "random", "frozen": True, "r1": 1.0, "penalty": "features"},
    {"frozen": True, "real": "teacher", "mismatch": 0.5, "mismatched": "fake"},
    {"critic": "eye", "start": "student", "frozen": True, "loss": "least_squares"},
    {"step_heads": True, "r1": 1.0, "mismatch": 0.5},
    {
        "step_heads": True,
        "layers": "all",
        "drawn": 2,
        "loss": "relativistic",
        "r2": 0.5,
        "penalty": "features",
    },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_conforms_and_declares_its_calls(options):
    check_objective(Adversarial(**{**SMALL, **options}), TASK, batch=4)


@pytest.mark.parametrize("penalty", ["exact", "perturbed"])
def test_penalties_inside_are_those_of_the_discriminator_as_a_function_of_the_noised_data(penalty):
    torch.manual_seed(0)
    critic = NetworkDenoiser(TASK.network(), TASK.path, **TASK.reading()).double()
    head = Head(8, 8).double()
    objective = Adversarial(critic_weight=1.0, r1=3.0, penalty=penalty, sigma=1e-5)

    batch = TASK.batch(16, generator("b"))
    batch = Batch(batch.x0.double(), batch.context)
    models = {"student": critic, "fake_score": critic, "discriminator": head}
    step = Step("fake_score", batch, models, generator("g"), like=torch.empty_like(batch.x0))
    found = objective.losses("fake_score", step)
    (answer,) = step._answers.values()
    x, t, context = answer.data
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(head(critic.features(x, t, context)).sum(), x)
    if penalty == "perturbed":
        # The same noise as was drawn: it is the last draw of the step's generator.
        again = Step("fake_score", batch, models, generator("g"), like=torch.empty_like(batch.x0))
        objective._answer(again, "fake_score")
        xi = torch.randn(x.shape, generator=again.g, dtype=torch.float64)
        expected = (slope * xi).sum(1).square().mean()
    else:
        expected = slope.square().sum(1).mean()
    torch.testing.assert_close(found.terms["r1"], 0.5 * 3.0 * expected, rtol=1e-3, atol=0.0)


# --- pairs and conditions ---------------------------------------------------------------------------------------------


def test_a_pair_shares_time_and_noise_and_differs_by_the_samples_alone(closed):
    path = paths.rectified_flow()
    batch = Batch(torch.randn(6, 1, generator=generator("x"), dtype=torch.float64))
    student = closed.student(0.9, 0.7, path)

    class Same(nn.Module):
        feature_module, feature_axis, feature_channels = "identity", 1, 1

        def __init__(self):
            super().__init__()
            self.identity = nn.Identity()

        def forward(self, x, t, condition=None, **keywords):
            return self.identity(x)

    models = {"student": student, "fake_score": NetworkDenoiser(Same(), path, "x0")}
    step = closed.step("fake_score", models, batch)
    asked = Question("fake_score", Uniform(0.1, 0.9), features=True, real=True, paired=True)
    answer = step.answer(asked)
    alpha = path.coefficients(answer.t).alpha[:, None]
    torch.testing.assert_close(answer.data.t, answer.t)
    torch.testing.assert_close(answer.real - answer.features, alpha * (step.x0 - step.rollout.x0.detach()))


class ByLabel(nn.Module):
    """A head whose features are (x, label): knows p(c | x) of two labels, N(1, 1) and N(-1, 1), up to a factor."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, features):
        return self.slope * features[:, 0] * (1.0 - 2.0 * features[:, 1])


class Told(nn.Module):
    feature_module, feature_axis, feature_channels = "both", 1, 2

    def __init__(self):
        super().__init__()
        self.both = nn.Identity()

    def forward(self, x, t, condition=None, **keywords):
        return self.both(torch.cat((x, condition[:, None].to(x.dtype)), 1))[:, :1]


def test_the_contrast_of_conditions_is_least_at_the_log_likelihood(closed):
    """`D(x, c) - D(x, c')` is at its optimum `log p(x | c) / p(x | c')` for labels that are drawn apart from each
    other, here `2 x` for c = 0 and c' = 1: slope 1 in `slope x (1 - 2 c)`; flat where labels say nothing about x."""
    count = 200_000
    g = generator("labels")
    labels = torch.randint(2, (count,), generator=g)
    noise = torch.randn(count, 1, generator=g, dtype=torch.float64)
    path = paths.rectified_flow()
    found = {}
    for apart, slopes in ((1.0, (0.6, 1.0, 1.6)), (0.0, (0.0,))):
        x0 = apart * (1.0 - 2.0 * labels[:, None].double()) + noise
        for slope in slopes:
            head, critic = ByLabel(slope), NetworkDenoiser(Told(), path, "x0")
            step = closed.step("fake_score", {"student": critic, "fake_score": critic, "discriminator": head},
                               Batch(x0, Context(condition=labels)))  # fmt: skip
            objective = Adversarial(mismatch=1.0, critic_weight=1.0)

            data = Seen(x0, torch.zeros(count, dtype=torch.float64), step.context)
            real = head(critic.features(x0, data.t, step.context))
            loss = objective._mismatched(step, head, data, real)
            found[apart, slope] = float(torch.autograd.grad(loss, head.slope)[0])
    assert abs(found[1.0, 1.0]) < 5e-3 and found[1.0, 0.6] < -0.02 and found[1.0, 1.6] > 0.02
    assert abs(found[0.0, 0.0]) < 5e-3


# --- juries -----------------------------------------------------------------------------------------------------------


def test_a_jury_reads_each_layer_and_some_of_it_is_renewed():
    torch.manual_seed(0)
    jury = Jury([4, 6], width=8, heads=5, drawn=2, renewed=0.5)
    features = torch.randn(3, 10)
    logits = jury(features)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(logits[:, 3], jury.heads[3](features[:, 4:]))
    torch.testing.assert_close(jury(features, [4])[:, 0], jury.heads[4](features[:, :4]))
    assert sorted({k for i in range(40) for k in jury.draw(generator(i))}) == list(range(5))
    assert all(len(jury.draw(generator(i))) == 2 for i in range(5))
    before = [{k: v.clone() for k, v in head.state_dict().items()} for head in jury.heads]
    count = jury.renew(generator("renew"))
    changed = [
        any(not torch.equal(v, b[k]) for k, v in h.state_dict().items())
        for h, b in zip(jury.heads, before, strict=True)
    ]
    assert 0 < sum(changed) == count < 5
    # New heads are of the size of fresh ones.
    fresh = torch.stack([Head(4, 8).layers[1].weight.std() for _ in range(20)]).mean()
    renewed = torch.stack(
        [h.layers[1].weight.std() for h, c in zip(jury.heads, changed, strict=True) if c]
    ).mean()
    assert 0.6 < float(renewed / fresh) < 1.4


@pytest.mark.parametrize("jury", [False, True])
def test_heads_that_are_told_the_step_see_errors_of_steps_that_cancel(jury):
    """Real are two points, each as often. One step makes the first alone, the other the second: together the data's
    law, and nothing to tell apart for who is not told. Told, the optimum at a point that the step makes is log 1/2."""
    torch.manual_seed(0)
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    fake, real, t = points, points.repeat_interleave(2, 0), torch.tensor([1.0, 0.5])
    play, found = game("softplus"), {}
    for told in (False, True):
        head = Jury([2, 2], 32, told=told) if jury else Head(2, 32, told)
        read = (lambda x: torch.cat((x, x), 1)) if jury else (lambda x: x)
        fit = torch.optim.Adam(head.parameters(), 1e-2)
        for _ in range(1500):
            for_fake, for_real = ({"t": t}, {"t": t.repeat(2)}) if told else ({}, {})
            logits = head(read(fake), **for_fake), head(read(real), **for_real)
            loss = play.discriminator(logits[1], torch.zeros_like(logits[1])).mean()
            loss = loss + play.discriminator(torch.zeros_like(logits[0]), logits[0]).mean()
            fit.zero_grad()
            loss.backward()
            fit.step()
        found[told] = logits[0].detach().flatten()
    torch.testing.assert_close(found[False], torch.zeros_like(found[False]), rtol=0, atol=0.02)
    expected = torch.full_like(found[True], 0.5).log()
    torch.testing.assert_close(found[True], expected, rtol=0, atol=0.05)


def test_an_objective_tells_its_heads_the_students_step():
    """Real samples are judged as if made at the step of the rollout beside them."""
    told = []

    class Spy(nn.Module):
        def forward(self, features, t):
            told.append((len(features), t))
            return features.sum(1)

    student = NetworkDenoiser(TASK.network(), TASK.path, "x0")
    models = {"student": student, "eye": student, "discriminator": Spy()}
    options = {"critic": "eye", "start": "teacher", "times": Uniform(0.3, 0.7), "step_heads": True}
    batch, spec = TASK.batch(4, generator("data")), StudentSpec(4, FewStep("renoise"))
    for role, count in (("student", 4), ("eye", 8)):
        step = Step(role, batch, models, generator("step"), like=batch.x0, student=spec)
        Adversarial(**options).losses(role, step)
        rows, t = told.pop()
        assert rows == len(t) == count and not told
        torch.testing.assert_close(t.view(-1, 4), step.rollout.t.expand(count // 4, -1))


def test_a_renewed_head_that_is_told_the_step_starts_as_one_that_is_not():
    head, features, t = Head(4, 8, told=True), torch.randn(3, 4), torch.rand(3)
    torch.nn.init.ones_(head.time.outer.weight)
    assert not torch.equal(head(features, t), head(features, t + 0.3))
    head.redraw(generator("renew"))
    torch.testing.assert_close(head(features, t), head(features, t + 0.3), rtol=0, atol=0)


def weighed(**options):
    """Matching by a density ratio that is read off a discriminator with these options."""
    parts = {"m": Matching(divergence="jensen_shannon"), "a": Adversarial(**options)}
    return Weighted(parts, dict.fromkeys(parts, 1.0))


@pytest.mark.parametrize("make, says", [
    (lambda: Adversarial(loss="hing"), "unknown loss of a discriminator 'hing'; did you mean hinge"),
    (lambda: Adversarial(penalty="exakt"), "unknown penalty of a discriminator 'exakt'; did you mean exact"),
    (lambda: Adversarial(r1=-1.0), "r1, r2 >= 0"),
    (lambda: Adversarial(real="dta"), "did you mean data"),
    (lambda: Adversarial(heads=2, drawn=3), "drawn=3 of heads=2"),
    (lambda: Adversarial(renewed=1.0), "renewed"),
    (lambda: Adversarial(loss="relativistic", mismatch=1.0, mismatched="fake"), "contrastive"),
    (lambda: Adversarial(view=lambda x: x, paired=True), "view"),
    (lambda: check_objective(Adversarial(start="teacher", layers=["blocks.layer.0"]), TASK), "blocks.layers.0"),
    (lambda: check_objective(Adversarial(start="teacher", layers="all", heads=1), TASK), "unread"),
    (lambda: check_objective(weighed(loss="hinge"), TASK), "loss=softplus"),
    (lambda: check_objective(weighed(step_heads=True), TASK), "step_heads out"),
    (lambda: check_objective(weighed(layers="all"), TASK), "leave families.adversarial.critic, layers"),
])  # fmt: skip
def test_wrong_options_are_said_in_a_line(make, says):
    with pytest.raises((UserError, ConformanceError), match=says) as caught:  # the suite says of whom
        make()
    assert "\n" not in str(caught.value)


def test_stages_end_and_something_is_always_trained():
    parts = {"a": Adversarial(start="teacher"), "b": Adversarial(critic="eye", start="teacher", name="other")}
    weights = dict.fromkeys(parts, 1.0)
    objective = Weighted(parts, weights, begins={"b": 0.5}, ends={"a": 0.5})
    assert [objective._runs("a", o) for o in (0.0, 0.49, 0.5)] == [True, True, False]
    assert [objective._runs("b", o) for o in (0.0, 0.49, 0.5, 1.0)] == [False, False, True, True]
    with pytest.raises(UserError, match=r"nothing is trained after 0\.5"):
        Weighted(parts, weights, begins={"b": 0.6}, ends={"a": 0.5})
    with pytest.raises(UserError, match=r"end\.c is of no part"):
        Weighted(parts, weights, ends={"c": 0.5})
