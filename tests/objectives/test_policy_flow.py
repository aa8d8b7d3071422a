"""Imitation by a policy: no loss for one that is the teacher's belief, asked where it leads, counted."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.denoisers import PolicyDenoiser
from omnidistill.denoisers.policies import checked
from omnidistill.errors import UserError
from omnidistill.objectives import PolicyFlow, StudentSpec
from omnidistill.samplers import FewStep

MEAN, SPREAD = 0.4, 0.6
PATH = paths.rectified_flow()


class Exact(nn.Module):
    """What a policy of one Gaussian answers, `x0` its parameterisation, for N(m, c^2): mean, weight, log of the spread.

    The denoiser reads the spread in units of 1, since x0 moves by 1 with the output.
    """

    def __init__(self, shift: float = 0.0, wide: float = 0.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))
        self.wide = nn.Parameter(torch.tensor(wide, dtype=torch.float64))

    def forward(self, x, t, condition=None, **keywords):
        alpha, _, sigma = (c[:, None] for c in PATH.coefficients(t.double()))
        total = (alpha * SPREAD) ** 2 + sigma**2
        mean = MEAN + self.shift + alpha * SPREAD**2 / total * (x - alpha * MEAN)
        log_std = 0.5 * (SPREAD**2 * sigma**2 / total).log() + self.wide
        return torch.cat((mean, torch.zeros_like(mean), log_std.expand_as(mean)), 1)


def student(shift=0.0, wide=0.0, kind="mixture"):
    return PolicyDenoiser(Exact(shift, wide), PATH, "x0", policy=checked(kind, 1, 4, 1))


def step(closed, made, inputs="simulated", steps=2, update=0, seed=0):
    batch, like = closed.free(128)
    teacher = closed.gaussian(MEAN, SPREAD**2, PATH)
    spec = StudentSpec(steps, FewStep("ode"), inputs)
    return closed.step(
        "student", {"student": made, "teacher": teacher}, batch, like, seed, student=spec, update=update
    )


@pytest.mark.parametrize("warm_up", [0, 10])
def test_no_loss_for_the_teachers_own_belief_and_home_from_beside(closed, warm_up):
    """One Gaussian, conditioned on every state that it leads to, is the teacher's belief there."""
    objective = PolicyFlow(warm_up=warm_up)
    for seed in range(3):
        loss = objective.losses("student", step(closed, student(), update=4, seed=seed)).terms["policy_flow"]
        assert float(loss.detach()) < 1e-16
    for away in (0.1, -0.1):
        made = student(shift=away)
        loss = objective.losses("student", step(closed, made)).terms["policy_flow"]
        assert float(torch.autograd.grad(loss, made.network.shift)[0]) * away > 0
        # Too wide a belief follows the state too closely: only later states of the segment can tell.
        made = student(wide=away)
        loss = objective.losses("student", step(closed, made)).terms["policy_flow"]
        assert float(torch.autograd.grad(loss, made.network.wide)[0]) * away > 0
    one = PolicyFlow(states=1).losses("student", step(closed, made))
    assert float(one.terms["policy_flow"].detach()) < 1e-16


def test_the_teacher_is_asked_where_the_policy_leads(closed):
    """With a policy that misses, states of the segment are on its own trajectory; in the warm-up on the teacher's."""
    from omnidistill.denoisers.policies import walked

    for update, own in ((0, False), (10, True)):
        seen, made = [], student(shift=0.5)
        here = step(closed, made, steps=1, update=update)
        ask = here.models["teacher"].belief
        here.models["teacher"].belief = lambda x, t, c, s, ask=ask, seen=seen: (
            seen.append((x, t)) or ask(x, t, c, s)
        )
        PolicyFlow(states=3, warm_up=10).losses("student", here)
        (x, t), *later = seen
        policy = made.policy(x, t)
        for y, a in later:
            near = torch.allclose(y, walked(policy, x, t, a, PATH, 1), atol=1e-9)
            assert near is own
        if not own:  # the teacher's first belief alone leads to the second state
            torch.testing.assert_close(
                later[0][0], PATH.bridge(x, ask(x, t, here.context, None).mean, t, later[0][1])
            )


def test_segments_start_where_the_students_steps_do(closed):
    from omnidistill.context import Batch

    class Seen(Exact):
        def forward(self, x, t, condition=None, **keywords):
            times.append(float(t[0]))
            return super().forward(x, t)

    for inputs, calls in (("simulated", {1.0: 1, 0.5: 2}), ("data", {1.0: 1, 0.5: 1})):
        for seed in range(6):
            times, made = [], student()
            made.network = Seen()
            here = step(closed, made, inputs, seed=seed)
            here.batch = Batch(torch.full((128, 1), MEAN, dtype=torch.float64))
            PolicyFlow().losses("student", here)
            assert made.calls == calls[times[-1]] and set(times) <= {1.0, 0.5}


def test_calls_are_counted(closed):
    for states in (1, 4):
        objective, made = PolicyFlow(states=states), student()
        here = step(closed, made, steps=1)
        objective.losses("student", here)
        assert {name: model.calls for name, model in here.models.items()} == objective.cost("student")
    assert PolicyFlow(guidance=2.0).cost("student") == {"student": 1, "teacher": 8}
    assert "condition" in PolicyFlow(guidance=2.0).needs


def test_mistakes_are_one_line(closed):
    with pytest.raises(UserError, match="states >= 1"):
        PolicyFlow(states=0)
    plain = closed.student(0.0, 1.0, PATH)
    with pytest.raises(UserError, match=r"has no policy to be asked again; set student\.policy"):
        PolicyFlow().losses("student", step(closed, plain))
