"""A critic is asked once for all that is wanted about one noised rollout, and answers as if asked apart."""

import pytest
import torch

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Adversarial, Matching, Step, Weighted
from omnidistill.objectives.questions import Question, merged
from omnidistill.random import generator
from omnidistill.times import Uniform

TASK = GaussianMixtureTask(conditional=True, network={"width": 16, "depth": 1})
EARLY, LATE = Uniform(0.02, 0.5), Uniform(0.5, 0.98)


def models():
    torch.manual_seed(0)
    made = {
        n: NetworkDenoiser(TASK.network(), TASK.path, **TASK.reading()) for n in ("student", "fake_score")
    }
    with torch.no_grad():
        for parameter in made["fake_score"].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    head = Adversarial().roles["fake_score"].modules["discriminator"](made["fake_score"])
    return {**made, "teacher": TASK.exact_teacher(), "discriminator": head}


def step(role, made):
    batch = TASK.batch(32, generator("b"))
    return Step(role, batch, made, generator("g"), like=torch.empty_like(batch.x0), null=TASK.null)


def dmd2(matching=None, adversarial=None):
    parts = {"m": matching or Matching(), "a": adversarial or Adversarial()}
    return Weighted(parts, {"m": 1.0, "a": 0.1})


@pytest.mark.parametrize("objective, student, critic", [
    (dmd2(), 1, 2),
    (dmd2(adversarial=Adversarial(times=Uniform(0.02, 0.98))), 1, 2),
    (dmd2(adversarial=Adversarial(times=LATE)), 2, 3),
    (dmd2(Matching(times=EARLY, critic_times=LATE)), 1, 2),
    (dmd2(Matching(drop_condition=0.3)), 1, 2),
    (dmd2(Matching(fake_guidance=2.0)), 3, 2),
    (dmd2(adversarial=Adversarial(view=lambda x: 2 * x)), 2, 3),
    (Weighted({"a": Adversarial(start="teacher")}, {"a": 1.0}), 1, 2),
])  # fmt: skip
def test_one_question_where_the_times_allow(objective, student, critic):
    for role, calls in (("student", student), ("fake_score", critic)):
        made = models()
        objective.losses(role, step(role, made))
        assert made["fake_score"].calls == calls == objective.cost(role)["fake_score"]
        assert made["student"].calls == 1


def test_the_network_of_the_critic_is_called_once_an_update():
    """And the part behind the features sees the noised rollouts alone."""
    made, seen = models(), []
    made["fake_score"].network.blocks.register_forward_hook(lambda m, i, o: seen.append(("blocks", len(o))))
    made["fake_score"].network.last.register_forward_hook(lambda m, i, o: seen.append(("last", len(o))))
    dmd2().losses("fake_score", step("fake_score", made))
    assert seen == [("blocks", 64), ("last", 32)]
    seen.clear()
    dmd2().losses("student", step("student", made))
    assert seen == [("blocks", 32), ("last", 32)]


@pytest.mark.parametrize("role", ["student", "fake_score"])
def test_an_answer_is_that_of_questions_asked_apart(role):
    made = models()
    for name, model in made.items():
        model.requires_grad_(name in (role, "discriminator"))
    joint, apart = step(role, made), step(role, made)
    objective = dmd2()
    losses = objective.losses(role, joint)
    critic, times = made["fake_score"], Uniform(0.02, 0.98)
    x_t, t = apart.noised(times)
    belief, context = critic(x_t, t, apart.context), apart.context
    answer = next(iter(joint._answers.values()))
    torch.testing.assert_close(answer.belief.mean, belief.mean)
    torch.testing.assert_close(answer.features, critic.features(x_t, t, context))
    assert answer.x_t.requires_grad == (role == "student")
    logits = made["discriminator"](critic.features(x_t, t, context))
    wanted = list(made[role].parameters())
    if role == "student":
        own = Matching().losses(role, apart).terms["matching"]
        expected = own + 0.1 * torch.nn.functional.softplus(-logits).mean()
    else:
        later = times(32, TASK.path, apart.g)
        noised = TASK.path.corrupt(apart.x0, later, g=apart.g)
        real = made["discriminator"](critic.features(noised, later, context))
        torch.testing.assert_close(answer.real, critic.features(noised, later, context))
        adversarial = torch.nn.functional.softplus(logits) + torch.nn.functional.softplus(-real)
        expected = 1e-2 * adversarial.mean() + Matching().losses(role, apart).terms["denoising"]
    total = torch.stack(list(losses.terms.values())).sum()
    torch.testing.assert_close(total, expected)
    found, right = (torch.autograd.grad(value, wanted, allow_unused=True) for value in (total, expected))
    for a, b in zip(found, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_questions_merge_by_model_times_and_dropped_conditions():
    belief, look = Question("f", EARLY, belief=True, drop=0.1), Question("f", None, features=True, real=True)
    assert merged([look, belief]) == [Question("f", EARLY, True, True, True, 0.1)]
    apart = [belief, Question("f", LATE, features=True), Question("g", EARLY, belief=True)]
    assert merged(apart) == apart
    assert merged([look]) == [Question("f", Uniform(), False, True, True)]
    assert [q.calls for q in (belief, look)] == [1, 2]
