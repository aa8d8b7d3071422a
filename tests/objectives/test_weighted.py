"""Objectives added by weight: sums, roles that two of them share, banks, and calls counted once for what is shared."""

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask, MarkovTextTask
from omnidistill.objectives import (
    Adversarial,
    BankSpec,
    Consistency,
    Denoising,
    Losses,
    Matching,
    Nodes,
    Regression,
    RoleSpec,
    StudentSpec,
    Weighted,
)
from omnidistill.random import generator
from omnidistill.testing import check_objective
from omnidistill.training.roles import cast

SMALL = {"width": 16, "depth": 1}


class Constant:
    """A loss of this value under this name, for these roles."""

    needs, bank, rolls_out = frozenset(), None, False

    def __init__(self, value, name="constant", roles=("student",), **specs):
        self.value, self.name, self.trains, self.roles = value, name, roles, specs

    def losses(self, role, step):
        if role not in self.trains:
            return None
        return Losses({self.name: torch.tensor(self.value)}, {"shown": torch.tensor(self.value)})

    def cost(self, role):
        return {role: 1} if role in self.trains else {}


def total(losses):
    return float(torch.stack(list(losses.terms.values())).sum())


def test_the_students_terms_are_scaled_and_others_are_not():
    parts = {"a": Constant(2.0, "a", ("student", "critic")), "b": Constant(5.0, "b", ("student", "critic"))}
    both = Weighted(parts, {"a": 3.0, "b": 0.1})
    assert total(both.losses("student", None)) == pytest.approx(3.0 * 2.0 + 0.1 * 5.0)
    assert total(both.losses("critic", None)) == pytest.approx(7.0)
    assert both.losses("nobody", None) is None


def test_two_parts_of_one_family_lose_no_term():
    """They give their terms one name; both still count."""
    both = Weighted({"near": Constant(2.0), "far": Constant(5.0)}, {"near": 1.0, "far": 2.0})
    losses = both.losses("student", None)
    assert total(losses) == pytest.approx(12.0)
    assert set(losses.terms) == {"constant", "far/constant"}
    assert {float(v) for v in losses.diagnostics.values()} == {2.0, 5.0}


def test_a_sum_has_the_sum_of_the_gradients(closed):
    """`a L_1 + b L_2` on one generator: the parts draw one after the other, so each is repeated at its own draw."""
    path = closed.flow()
    models = {
        "teacher": closed.gaussian(0.0, 1.0, path),
        "student": closed.student(0.5, 0.8, path),
        "fake_score": closed.gaussian(0.5, 0.64, path),
    }
    batch, like = closed.free(64)
    network = models["student"].network
    parts = {"one": Matching(), "two": Matching(normaliser="none", weighting="snr")}

    def gradient(objective):
        step = closed.step("student", models, batch, like)
        return closed.gradient(objective.losses("student", step), network.shift, network.scale)

    # Both look at the same rollout and noised copy, whoever comes first.
    one, two = gradient(parts["one"]), gradient(parts["two"])
    both = gradient(Weighted(parts, {"one": 0.7, "two": 2.5}))
    for a, b, c in zip(one, two, both, strict=True):
        torch.testing.assert_close(c, 0.7 * a + 2.5 * b, rtol=1e-12, atol=1e-14)


def test_shared_roles_merge():
    both = Weighted({"m": Matching(critic_updates=5), "a": Adversarial()}, {"m": 1.0, "a": 0.1})
    spec = both.roles["fake_score"]
    assert (spec.start, spec.updates, list(spec.modules)) == ("teacher", 5, ["discriminator"])
    assert both.needs == Matching().needs | Adversarial().needs
    assert both.rolls_out


@pytest.mark.parametrize("parts, message", [
    ((Matching(critic_updates=5), Matching(critic_updates=2)), r"disagree on fake_score\.updates: 5 and 2|2 and 5"),
    ((Matching(critic_lr=0.5), Matching(critic_lr=2.0)), r"fake_score\.lr"),
    ((Consistency(decay=0.9), Consistency(decay=0.99)), r"target\.average"),
    ((Matching(critic="frozen"), Adversarial()), "trains fake_score and another keeps it"),
    ((Matching(critic="frozen"), Matching()), "trains fake_score and another keeps it"),
    ((Regression(steps=8), Regression(steps=16)), r"banks with different steps: \[8, 16\]"),
])  # fmt: skip
def test_conflicts_are_one_line(parts, message):
    with pytest.raises(UserError, match=message) as caught:
        Weighted(dict(enumerate(parts)), dict.fromkeys(range(len(parts)), 1.0))
    assert "\n" not in str(caught.value)


def test_names_must_fit():
    with pytest.raises(UserError, match="at least one part"):
        Weighted({}, {})
    with pytest.raises(UserError, match="same names"):
        Weighted({"a": Denoising()}, {"b": 1.0})


def test_a_head_without_a_critic_is_refused():
    task = GaussianMixtureTask(network=SMALL)
    network = task.exact_teacher()
    with pytest.raises(UserError, match="no objective says what 'fake_score' is"):
        cast(network, network, Weighted({"a": Adversarial()}, {"a": 1.0}), 0.9)


def test_banks_are_joined():
    parts = {"r": Regression(pairs=100, steps=8), "c": Consistency(pairs="stored", jumps=Nodes(8), bank=30)}
    assert Weighted(parts, {"r": 1.0, "c": 1.0}).bank == BankSpec(100, 8, states=True)
    assert Weighted({"d": Denoising()}, {"d": 1.0}).bank is None


def test_a_rollout_is_paid_once():
    both = Weighted({"m": Matching(), "a": Adversarial(), "d": Denoising()}, {"m": 1.0, "a": 0.1, "d": 0.1})
    # One rollout and one question to the critic for matching and the head, one call of denoising's own.
    assert both.cost("student") == {"student": 2, "teacher": 1, "fake_score": 1}
    assert both.cost("fake_score") == {"student": 1, "fake_score": 2}
    assert (
        RoleSpec(average=0.9).trained is False and RoleSpec(refresh=0).trained is False and RoleSpec().trained
    )


POINTS = {
    "matching": Matching(),
    "matching frozen": Matching(critic="frozen"),
    "sds": Matching(critic="none", weighting="snr"),
    "consistency": Consistency(jumps=Nodes(4)),
    "jump": Consistency(target="jump", jumps=Nodes(4), rounds=2),
    "stored": Consistency(pairs="stored", jumps=Nodes(4), target="self", bank=8),
    "denoising": Denoising(target="teacher"),
    "regression": Regression(pairs=8, steps=4),
    "dmd2": Weighted({"m": Matching(critic_updates=2), "a": Adversarial()}, {"m": 1.0, "a": 0.01}),
    "dmd": Weighted({"m": Matching(), "r": Regression(pairs=8, steps=4)}, {"m": 1.0, "r": 0.25}),
    "all": Weighted(
        {"m": Matching(), "a": Adversarial(), "c": Consistency(jumps=Nodes(4)), "d": Denoising()},
        {"m": 1.0, "a": 0.1, "c": 0.5, "d": 0.2},
    ),
}
TOKENS = {
    "matching": Matching(normaliser="none"),
    "reverse": Matching(normaliser="none", gap="reverse"),
    "sdtt": Consistency(target="jump", divergence="backward", jumps=Nodes(4), rounds=2),
    "cdlm": Consistency(pairs="bridge", target="self"),
    "denoising": Denoising(weighting="nelbo"),
    "both": Weighted(
        {"m": Matching(), "c": Consistency(pairs="bridge", target="self")}, {"m": 1.0, "c": 1.0}
    ),
}


@pytest.mark.parametrize("name", POINTS)
def test_every_objective_conforms_on_points(name):
    """Calls in a real step equal those declared, gradients stay in their role, draws come from the generator."""
    check_objective(POINTS[name], GaussianMixtureTask(network=SMALL))


@pytest.mark.parametrize("name", TOKENS)
def test_every_objective_conforms_on_tokens(name):
    task = MarkovTextTask(vocab=5, length=8, network={**SMALL, "heads": 2})
    check_objective(TOKENS[name], task)


@pytest.mark.parametrize("inputs", ["simulated", "data"])
def test_rollouts_of_several_steps_start_where_inference_would(closed, inputs):
    """All steps of the grid are drawn; simulated inputs follow the student's own earlier steps (here known in closed
    form: a student that answers 2 wherever it is asked), data inputs the noised data."""
    path = closed.flow()
    student = closed.student(2.0, 0.0, path)
    batch = closed.step("student", {"student": student}, _points(4096)).batch
    seen = {}
    for seed in range(12):
        step = closed.step(
            "student", {"student": student}, batch, seed=seed, student=StudentSpec(4, inputs=inputs)
        )
        rollout = step.rollout
        t = float(rollout.t[0])
        assert len(rollout.t.unique()) == 1 and rollout.x0.requires_grad
        seen[t] = rollout.x_t
    assert set(seen) == {1.0, 0.75, 0.5, 0.25}
    for t, x in seen.items():
        source = 2.0 if inputs == "simulated" else 0.0
        assert float(x.mean()) == pytest.approx((1 - t) * source, abs=0.06)
        spread = t if inputs == "simulated" else ((1 - t) ** 2 + t**2) ** 0.5
        assert float(x.std()) == pytest.approx(spread, abs=0.05)


def _points(count):
    from omnidistill.context import Batch

    return Batch(torch.randn(count, 1, generator=generator("points"), dtype=torch.float64))
