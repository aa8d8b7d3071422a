"""Distances of sets of features: unbiased, at rest at equal laws, leading home; what the objective compares."""

import math

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Adversarial, Matching, Weighted, kernels
from omnidistill.objectives.features import Features
from omnidistill.random import generator
from omnidistill.testing import ConformanceError, check_objective
from omnidistill.times import Uniform

DIM, WIDTH = 2, 0.7


def draws(count, mean, std, key):
    return mean + std * torch.randn(count, DIM, generator=generator(key), dtype=torch.float64)


def mmd_of_gaussians(m, v, mu, var):
    """Of N(m 1, v I) and N(mu 1, var I) in DIM dimensions: `E exp(-|x - y|^2 / 2 b^2) = (b^2 / (b^2 + s))^(d/2)
    exp(-|m - mu|^2 / 2 (b^2 + s))`, s the sum of the variances."""

    def mean(apart, s):
        b = WIDTH**2
        return (b / (b + s)) ** (DIM / 2) * math.exp(-0.5 * DIM * apart**2 / (b + s))

    return mean(0.0, 2 * v) + mean(0.0, 2 * var) - 2 * mean(m - mu, v + var)


@pytest.mark.parametrize("m, v", [(0.0, 1.0), (0.8, 0.25)])
def test_the_u_statistic_is_unbiased_even_of_few_samples(m, v):
    """Its mean over many small sets is the closed form, 0 at equal laws; with a sample's own pairs it is far above."""
    kernel, found, biased = kernels.gaussian([WIDTH]), [], []
    for i in range(1500):
        x, y = draws(5, m, v**0.5, ("x", i)), draws(4, 0.0, 1.0, ("y", i))
        found.append(float(kernels.u_statistic(x, y, kernel)))
        biased.append(float(kernel(kernels.squares(x, x)).mean() + kernel(kernels.squares(y, y)).mean()
                            - 2 * kernel(kernels.squares(x, y)).mean()))  # fmt: skip
    found, biased = torch.tensor(found), torch.tensor(biased)
    expected, error = mmd_of_gaussians(m, v, 0.0, 1.0), 4.0 * float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(expected, abs=error) and error < 0.04
    assert float(biased.mean()) > expected + 2.0 * error


def test_the_linear_kernel_sees_means_and_nothing_else():
    found = [
        float(kernels.linear(draws(6, 0.5, 1.0, ("x", i)), draws(5, 0.0, 3.0, ("y", i)))) for i in range(4000)
    ]
    found = torch.tensor(found)
    assert float(found.mean()) == pytest.approx(DIM * 0.25, abs=4.0 * float(found.std()) / len(found) ** 0.5)


def test_pairs_within_a_condition_are_all_that_count():
    x, y = draws(8, 0.3, 1.0, "x"), draws(6, 0.0, 1.0, "y")
    a, b = torch.arange(8) % 2, torch.arange(6) % 2
    kernel = kernels.gaussian([WIDTH])
    found = kernels.u_statistic(x, y, kernel, a[:, None] == a, b[:, None] == b, a[:, None] == b)
    parts = [kernels.u_statistic(x[a == k], y[b == k], kernel) for k in (0, 1)]
    torch.testing.assert_close(found, torch.stack(parts).mean())


# --- the drifting field -----------------------------------------------------------------------------------------------


def test_the_field_is_zero_between_a_set_and_itself_and_moves_with_both_sets():
    x = draws(64, 0.0, 1.0, "x")
    # Distances come by a matrix product, whose last bits differ from processor to processor: 1e-8 where they are 0.
    assert float(kernels.field(x, x, 0.2, alone=False).abs().max()) < 1e-8
    assert (
        float(kernels.field(x, x, 0.2).abs().max()) > 1e-3
    )  # a sample does not repel itself, and is attracted
    y = draws(48, 0.5, 1.0, "y")
    torch.testing.assert_close(kernels.field(x + 3.0, y + 3.0, 0.2), kernels.field(x, y, 0.2))
    assert float(kernels.field(x, y, 0.2).mean()) > 0.01  # towards y


def test_at_equal_laws_the_field_has_mean_zero():
    many = torch.stack([kernels.field(draws(32, 0.0, 1.0, ("x", i)), draws(32, 0.0, 1.0, ("y", i)), 0.3).mean(0)
                        for i in range(400)])  # fmt: skip
    assert float((many.mean(0) / (many.std(0) / 400**0.5)).abs().max()) < 4.0
    away = torch.stack([kernels.field(draws(32, 0.0, 1.0, ("x", i)), draws(32, 0.5, 1.0, ("y", i)), 0.3).mean(0)
                        for i in range(40)])  # fmt: skip
    assert float(away.mean()) > 10.0 * float(many.mean(0).abs().max())


def test_a_drifting_loss_has_minus_the_field_as_its_gradient():
    x = draws(10, 0.0, 1.0, "x").requires_grad_()
    v = kernels.field(x, draws(12, 0.5, 1.0, "y"), 0.3)
    (gradient,) = torch.autograd.grad(kernels.drift(x, [v], normalise=False), x)
    torch.testing.assert_close(gradient, -v / x.numel())
    (again,) = torch.autograd.grad(kernels.drift(x, [v, 3.0 * v], normalise=True), x)
    torch.testing.assert_close(again, -2.0 * v / v.square().mean().sqrt() / x.numel())


def test_coverage_pulls_the_nearest_sample_to_a_mode_that_has_none():
    x = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0.0, 0.0], [0.1, 0.0], [2.0, 0.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(kernels.coverage(x, y, 0.05), x)
    assert float(gradient[2, 0]) < -0.1 and float(gradient[:2].abs().max()) < 0.05


def test_the_sliced_distance_of_shifted_and_scaled_sets_is_known():
    """Along each direction projections of `a + s x` and x are sorted alike: `E (a.l + (s - 1) x.l)^2`."""
    x = draws(500, 0.0, 1.0, "x")
    lines = torch.nn.functional.normalize(
        torch.randn(DIM, 7, generator=generator("l"), dtype=torch.float64), dim=0
    )
    shift = torch.tensor([0.4, -0.2], dtype=torch.float64)
    expected = ((shift @ lines) + 0.5 * x @ lines).square().mean()
    order = torch.randperm(500, generator=generator("order"))
    torch.testing.assert_close(kernels.sliced((shift + 1.5 * x)[order], x, lines), expected)
    with pytest.raises(UserError, match="as many vectors"):
        kernels.sliced(x[:3], x, lines)


def test_paired_distances_by_hand():
    x = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
    y = torch.tensor([[[0.0, 2.0], [0.0, 4.0]]])
    real = torch.tensor([[1.0, 1.0]])
    assert float(kernels.perceptual(x, y, real)) == pytest.approx(
        1.0
    )  # 2 at the first position, 0 at the second
    assert float(kernels.perceptual(x, y, torch.tensor([[1.0, 0.0]]))) == pytest.approx(2.0)
    assert float(kernels.squared(x, y, real)) == pytest.approx(0.5 * ((9 + 4) / 2 + 9 / 2) / 2)


# --- the objective ----------------------------------------------------------------------------------------------------

MU, VAR = 0.3, 0.5


@pytest.mark.parametrize("kernel", ["mmd", "energy", "linear", "drift"])
def test_the_student_is_at_rest_at_the_datas_law_and_goes_home_from_elsewhere(closed, kernel):
    """Of N(m, s^2) in the space of states; mean gradients over many batches, within four standard errors."""
    path = paths.rectified_flow()

    def gradients(m, s, repeats=60):
        found = []
        for i in range(repeats):
            student = closed.student(m, s, path)
            x0 = MU + VAR**0.5 * torch.randn(128, 1, generator=generator("data", i), dtype=torch.float64)
            step = closed.step("student", {"student": student}, Batch(x0), seed=i)
            losses = Features(kernel, space="state").losses("student", step)
            found.append(torch.stack(closed.gradient(losses, student.network.shift, student.network.scale)))
        return torch.stack(found)

    rest = gradients(MU, VAR**0.5)
    errors = rest.std(0) / len(rest) ** 0.5
    aware = 1 if kernel == "linear" else 2
    assert bool((rest.mean(0).abs() < 4.0 * errors)[:aware].all())
    away = gradients(MU + 0.4, VAR**0.5, 20).mean(0)[0]
    assert float(away) > 10.0 * float(errors[0])
    if kernel != "linear":
        wide = gradients(MU, 1.5 * VAR**0.5, 20).mean(0)[1]
        assert float(wide) > 5.0 * float(errors[1])


def test_patches_tell_textures_apart_whose_mean_features_are_one(closed):
    """Stripes and a chequerboard of +-1, each as it is or inverted: pixels and patches have mean 0. Patches of 2 x 2
    are +-a of one and +-b of the other, `a . b = 0` and `|a| = |b|`: in units of the mean distance, at a bandwidth h
    and with many of them, `MMD^2 = (1 - exp(-1 / 2 h^2))^2`."""
    row = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    stripes, chequers = row.expand(8, 8), torch.outer(row, row)

    class Texture(nn.Module):
        """Which of both it is, the sign of a pixel of noise says."""

        def __init__(self, pattern):
            super().__init__()
            self.pattern = nn.Parameter(pattern.clone())

        def forward(self, x, t):
            return self.pattern * x[:, :1, :1].sign()

    def patches(x, context):
        corners = [x.roll((i, j), (1, 2)) for i in (0, 1) for j in (0, 1)]
        return torch.stack(corners, -1).flatten(1, 2)

    def apart(pattern, positions):
        signs = torch.randn(16, 1, 1, generator=generator("signs"), dtype=torch.float64).sign()
        models = {"student": NetworkDenoiser(Texture(pattern), paths.rectified_flow(), "x0")}
        step = closed.step("student", models, Batch(signs * chequers))
        features = Features(space="given", given=patches, positions=positions, bandwidths=[0.7])
        return float(features.losses("student", step).terms["features"].detach())

    # Of 1024 patches 512 are of either sign, and a patch is no pair with itself.
    far = math.exp(-1.0 / 0.7**2)
    own = (511 + 512 * far) / 1023
    assert apart(stripes, True) == pytest.approx(2.0 * own - 2.0 * far**0.5)
    assert 2.0 * own - 2.0 * far**0.5 == pytest.approx((1.0 - far**0.5) ** 2, abs=2e-3)
    assert abs(apart(chequers, True)) < 2e-3
    assert abs(apart(stripes, False)) < 1e-9


TASK = GaussianMixtureTask(conditional=True, network={"width": 8, "depth": 2})
SMALL = {"bank": 8, "teacher_steps": 2}
OPTIONS = [
    {},
    {"kernel": "drift", "coverage": 1.0, "layers": "all", "within": True, "real": "teacher", **SMALL},
    {"kernel": "energy", "start": "random", "redrawn": True, "within": True},
    {"kernel": "sliced", "positions": True, "most": 3},
    {"kernel": "perceptual", "pairs": "teacher", **SMALL},
    {"kernel": "perceptual", "layers": ["blocks.layers.1", ""]},
    {"kernel": "linear", "space": "state"},
    {"kernel": "squared", "space": "state", "pairs": "teacher", **SMALL},
    {"space": "given", "given": lambda x, context: torch.tanh(x)},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("told", [False, True])
def test_every_option_conforms_and_declares_its_calls(options, told):
    check_objective(Features(**options), TASK, batch=4, target_time=told)


def test_patches_of_the_critic_are_of_the_question_that_is_asked_anyway():
    features = Features(role="fake_score", start=None, positions=True, times=None)
    parts = {"m": Matching(), "a": Adversarial(), "f": features}
    objective = Weighted(parts, dict.fromkeys(parts, 1.0))
    assert objective.cost("student") == {"student": 1, "teacher": 1, "fake_score": 2}
    check_objective(objective, TASK, batch=4)


def test_a_divergence_is_not_troubled_by_features_at_other_times():
    parts = {"m": Matching(divergence="jensen_shannon"), "a": Adversarial(), "f": Features()}
    check_objective(Weighted(parts, dict.fromkeys(parts, 1.0)), TASK, batch=4)


@pytest.mark.parametrize("kernel", ["mmd", "perceptual"])
def test_padding_changes_neither_loss_nor_gradient(closed, kernel):
    for positions in (False, kernel == "mmd"):
        objective = Features(kernel, role="target", start=None, positions=positions, times=Uniform(0.1, 0.5))
        closed.check_padding(objective, "points")


def test_a_pairs_two_answers_get_one_noise(closed):
    """At the teacher's own map they are one, and nothing is left."""
    path = paths.rectified_flow()
    x_1 = torch.randn(6, 1, generator=generator("x"), dtype=torch.float64)
    bank = {
        "states": torch.stack((x_1, 0.2 + 0.5 * x_1), 1),
        "times": torch.tensor([1.0, 0.0]),
        "context": Context(),
    }
    for scale, zero in ((0.5, True), (0.8, False)):
        models = {"student": closed.student(0.2, scale, path)}
        step = closed.step("student", models, Batch(x_1), bank=bank)
        loss = Features("squared", space="state", pairs="teacher").losses("student", step).terms["features"]
        assert (float(loss.detach()) < 1e-20) == zero


def test_the_states_of_a_pair_lie_on_the_path_with_its_anchor(closed):
    """`alpha x0 + beta y + sigma eps`: without the second term a network would be asked where it never was trained."""
    path, seen = paths.grad_tts(), []

    class Network(nn.Module):
        def feature_widths(self, layers):
            return {"layer": 1}

        def examine(self, x, t, *rest, **keywords):
            seen.append((x, t))
            raise InterruptedError

    x_1 = torch.zeros(6, 1, dtype=torch.float64)
    context = Context(anchor=torch.full_like(x_1, 50.0))
    bank = {"states": torch.stack((x_1, x_1 + 2.0), 1), "times": torch.tensor([1.0, 0.0]), "context": context}
    models = {"student": closed.student(0.2, 0.5, path), "features": Network()}
    step = closed.step("student", models, Batch(x_1, context), bank=bank)
    with pytest.raises(InterruptedError):
        Features("squared", pairs="teacher", times=Uniform(0.3, 0.4)).losses("student", step)
    ((x, t),) = seen
    alpha, beta, sigma = path.coefficients(t[6:])
    noise = x[6:, 0] - alpha * 2.0 - beta * 50.0
    assert float((noise / sigma).detach().abs().max()) < 4.0


@pytest.mark.parametrize("make, says", [
    (lambda: Features("mdd"), "unknown kernel of features 'mdd'; did you mean mmd"),
    (lambda: Features(space="stat"), "did you mean state"),
    (lambda: Features(space="given"), "give both or neither"),
    (lambda: Features(redrawn=True), "start=random"),
    (lambda: Features(bandwidths=[]), "bandwidths > 0"),
    (lambda: Features("sliced", within=True), "within=true"),
    (lambda: check_objective(Features(layers="block"), TASK), "did you mean blocks"),
    (lambda: check_objective(Features(within=True), GaussianMixtureTask(network={"width": 8, "depth": 1})), "labels"),
])  # fmt: skip
def test_wrong_options_are_said_in_a_line(make, says):
    with pytest.raises((UserError, ConformanceError), match=says) as caught:  # the suite says of whom
        make()
    assert "\n" not in str(caught.value)
