"""Translation between two Gaussians far apart, of which the exact map is known: a shift from mean to mean."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.objectives import Adversarial, StudentSpec, Translation, Weighted
from omnidistill.objectives.heads import Head
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.samplers.translation import partners, start
from omnidistill.testing import check_objective

MEANS, STD = torch.tensor([-3.0, 2.0], dtype=torch.float64), 0.3
SPEC = StudentSpec(inputs="translated")
PATHS = ["rectified_flow", "vp_cosine", "edm", "trigflow"]


class Shift(nn.Module):
    """`G(x, b) = x + m_b - m_a + e_b`, a being whose mean is nearest to x; of a state with x in the noise's place."""

    feature_module, feature_axis, feature_channels = "inner", 1, 1

    def __init__(self, gain: float = 1.0, errors=(0.0, 0.0)) -> None:
        super().__init__()
        self.gain, self.inner, self.seen = gain, nn.Identity(), []
        self.errors = nn.Parameter(torch.tensor(errors, dtype=torch.float64))

    def forward(self, x, t, condition, **keywords):
        x = self.inner(x)
        self.seen.append((x.detach(), t, condition))
        x = x / self.gain
        near = (x - MEANS).abs().argmin(1)
        return x + (MEANS[condition] - MEANS[near] + self.errors[condition]).unsqueeze(1)


def batch(*counts: int) -> Batch:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator("labels"))]
    noise = torch.randn(len(labels), 1, generator=generator("data"), dtype=torch.float64)
    return Batch(MEANS[labels].unsqueeze(1) + STD * noise, Context(labels))


def step_of(closed, path, errors=(0.0, 0.0), of: Batch | None = None, role="student", **more):
    alpha, _, sigma = path.coefficients(1.0)
    student = NetworkDenoiser(Shift(float(alpha + sigma), errors), path, "x0")
    options = {"student": SPEC} | {k: more.pop(k) for k in ("student", "seed") if k in more}
    return closed.step(role, {"student": student, **more}, of or batch(40, 60), **options)


@pytest.mark.parametrize("counts", [(5, 5), (3, 4, 6), (1, 9), (7, 2, 2), (2, 1), (4,)])
def test_partners_are_of_another_label_wherever_there_is_one(counts) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for seed in range(20):
        rows = partners(labels, generator(seed), generator("structure", seed))
        assert rows.sort().values.tolist() == list(range(len(labels)))
        same = int((labels[rows] == labels).sum())
        assert same == max(0, 2 * max(counts) - len(labels))  # no permutation has fewer


def test_every_sample_of_the_other_label_is_as_likely() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    seen = torch.zeros(6, 6)
    for seed in range(3000):
        rows = partners(labels, generator(seed), generator("structure", seed))
        seen[torch.arange(6), rows] += 1 / 3000
    other = (labels[:, None] != labels).float() / 3
    assert float((seen - other).abs().max()) < 0.04


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("divergence", ["l1", "l2", "huber"])
def test_the_exact_map_has_no_loss_and_no_gradient(closed, name: str, divergence: str) -> None:
    step = step_of(closed, getattr(paths, name)())
    found = Translation(divergence=divergence).losses("student", step)
    assert all(float(term.detach()) < 1e-7 for term in found.terms.values())
    (gradient,) = closed.gradient(found, step["student"].network.errors)
    # Of the l1 norm zero is a corner, where rounding decides about the sign.
    assert divergence == "l1" or float(gradient.abs().max()) < 1e-7
    labels = step.context.condition
    torch.testing.assert_close(
        step.rollout.x0, step.source.x0 + (MEANS[labels] - MEANS[step.source.labels])[:, None]
    )


def test_the_losses_of_a_shift_that_is_off_and_where_they_lead(closed) -> None:
    """There and back is off by e_a + e_b, which opposite errors hide; at home by e_b. Both in closed form."""
    step = step_of(closed, paths.rectified_flow(), (0.3, 0.1), batch(50, 50))
    found = Translation(divergence="l2", identity=2.0).losses("student", step)
    assert float(found.terms["cycle"].detach()) == pytest.approx(0.5 * 0.4**2)
    assert float(found.terms["identity"].detach()) == pytest.approx(2.0 * 0.5 * (0.3**2 + 0.1**2) / 2)
    errors = step["student"].network.errors
    cycle, home = (torch.autograd.grad(term, errors, retain_graph=True)[0] for term in found.terms.values())
    assert cycle.tolist() == pytest.approx([0.4, 0.4])  # each error is in every round once
    assert home.tolist() == pytest.approx([0.3, 0.1])
    shown = found.diagnostics
    assert float(shown["translation/crossed"]) == 1.0
    moved = ((5.0 + 0.1) ** 2 + (5.0 - 0.3) ** 2) / 2
    assert float(shown["translation/moved"]) == pytest.approx(moved**0.5)
    hidden = step_of(closed, paths.rectified_flow(), (0.2, -0.2), batch(50, 50))
    found = Translation(divergence="l2").losses("student", hidden)
    assert float(found.terms["cycle"].detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(found.terms["identity"].detach()) == pytest.approx(0.5 * 0.2**2)


@pytest.mark.parametrize("role", ["student", "fake_score"])
def test_the_discriminator_judges_a_translation_under_the_label_it_is_to_have(closed, role: str) -> None:
    path, critic = paths.rectified_flow(), Shift()
    others = {"fake_score": NetworkDenoiser(critic, path, "x0"), "discriminator": Head(1, 4).double()}

    class Early:
        def __call__(self, count, path, g):
            return torch.full((count,), 0.02, dtype=torch.float64)

    step = step_of(closed, path, of=batch(40, 40), role=role, **others)
    Adversarial(times=Early(), loss="relativistic").losses(role, step)
    ((seen, _, told),) = critic.seen  # noised translations, then noised data, asked about together
    assert (
        len(seen) == 160
        and torch.equal(told[:80], told[80:])
        and torch.equal(told[:80], step.context.condition)
    )
    assert torch.equal((seen - MEANS).abs().argmin(1), told)  # noise of 0.02 hides nobody's mean
    assert bool((step.source.labels != step.context.condition).all())


@pytest.mark.parametrize(
    "options, calls",
    [
        ({}, {"student": 3}),
        ({"identity": 0.0}, {"student": 2}),
        ({"cycle": 0.0, "cycle_features": 10.0}, {"student": 3, "features": 2}),
        ({"cycle": 0.0, "identity": 0.0, "identity_features": 1.0}, {"student": 2, "features": 2}),
        ({"cycle_features": 10.0, "identity_features": 1.0}, {"student": 3, "features": 4}),
    ],
)
def test_calls_and_conformance(closed, options, calls) -> None:
    task = GaussianMixtureTask([[1.0, 0.0], [-1.0, 0.0]], conditional=True, network={"width": 16, "depth": 2})
    assert Translation(**options).cost("student") == calls
    assert check_objective(Translation(**options), task, student=SPEC)
    both = Weighted({"t": Translation(**options), "a": Adversarial(start="teacher")}, {"t": 1.0, "a": 0.5})
    assert both.cost("student") == {**calls, "fake_score": 1}
    assert check_objective(both, task, student=SPEC)


def test_as_a_network_sees_it_the_exact_map_is_right_too(closed) -> None:
    path = paths.rectified_flow()
    features = NetworkDenoiser(Shift(), path, "x0")
    found = []
    for errors in ((0.0, 0.0), (9.0, 9.0)):
        step = step_of(closed, path, errors, features=features)
        objective = Translation(cycle_features=10.0, identity_features=1.0)
        found.append(objective.losses("student", step).terms)
    assert float(found[0]["cycle_features"].detach()) == float(found[0]["identity_features"].detach()) == 0.0
    # A unit vector of one number is its sign: beyond the other mean all of label 0 have turned round.
    assert float(found[1]["identity_features"].detach()) == pytest.approx(4.0 * 0.4)


def test_states_of_two_axes_and_padding_alike_change_nothing(closed) -> None:
    losses = []
    for more in (0, 3):
        x0 = torch.zeros(4, 5 + more, 3, dtype=torch.float64)
        x0[:, :5] = torch.randn(4, 5, 3, generator=generator("rows"), dtype=torch.float64)
        mask = (torch.arange(5 + more) < 5).expand(4, -1).unsqueeze(-1)
        student = closed.ragged_denoiser("points", paths.rectified_flow(), 1)
        of = Batch(x0, Context(torch.tensor([0, 1, 1, 0]), mask=mask))
        found = Translation().losses(
            "student", closed.step("student", {"student": student}, of, student=SPEC)
        )
        losses.append([float(term.detach()) for term in found.terms.values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9) and min(losses[0]) > 0


def test_a_walk_of_several_steps_starts_from_data_too(closed) -> None:
    """With the exact map, which is sure of itself wherever it is asked with data in the noise's place."""
    path = paths.rectified_flow()
    step = step_of(closed, path, student=StudentSpec(2, FewStep("ode"), "translated"), seed=3)
    made = step.rollout
    if float(made.t[0]) == 1.0:
        torch.testing.assert_close(made.x_t, start(path, step.source.x0))
    else:  # half of the way from the data to what was made of them
        first = step.source.x0 + (MEANS[step.context.condition] - MEANS[step.source.labels])[:, None]
        torch.testing.assert_close(made.x_t, 0.5 * (step.source.x0 + first))


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Translation(cycle=-1.0), "cycle=-1"),
        (lambda: Translation(cycle=0.0, identity=0.0), "not all of them 0"),
        (lambda: StudentSpec(inputs="other"), "translated"),
        (lambda: start(paths.MaskedPath(3), torch.zeros(2, 3)), "needs a Gaussian path without an anchor"),
        (lambda: start(paths.ouve(), torch.zeros(2, 3)), "needs a Gaussian path without an anchor"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(make, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()


def test_batches_that_cannot_be_translated_are_refused(closed) -> None:
    path = paths.rectified_flow()
    x0, labels = batch(2, 2).x0, batch(2, 2).context.condition
    lengths = torch.tensor([[True], [False], [True], [True]])
    for of, says in (
        (Batch(x0, Context()), "no labels"),
        (Batch(x0, Context(x0)), "no labels"),
        (Batch(None, Context(labels), 4), "no data"),
        (Batch(x0, Context(torch.tensor([0, 1, 0, 1]), mask=lengths)), "differ in length"),
    ):
        with pytest.raises(UserError, match=says):
            Translation().losses(
                "student",
                step_of(closed, path, of=of, student=SPEC)
                if of.x0 is not None
                else closed.step(
                    "student", {"student": closed.student(0.0, 1.0, path)}, of, x0, student=SPEC
                ),
            )
    for spec in (StudentSpec(), StudentSpec(2, inputs="translated")):
        with pytest.raises(UserError, match=r"student\.inputs=translated and student\.steps=1"):
            Translation().losses("student", step_of(closed, path, student=spec))
