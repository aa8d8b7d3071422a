"""Rewards without a gradient: policy gradients against enumerated ones, NFT's optimum, preferences, wrong rewards."""

import itertools

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import RunError, UserError
from omnidistill.exact.rewards import Count, Half, Towards
from omnidistill.objectives import NegativeAware, PolicyGradient, Preference, Reward, StudentSpec, Weighted
from omnidistill.objectives.policy_gradient import log_likelihood
from omnidistill.random import generator
from omnidistill.samplers import FewStep

VOCAB, LENGTH = 2, 2


def table(closed, seed=0):
    g = generator("policy", seed)
    path = paths.MaskedPath(VOCAB)
    logits = torch.randn((VOCAB + 1) ** LENGTH, LENGTH, VOCAB, generator=g, dtype=torch.float64)
    return closed.Float64Logits(closed.Table(logits, VOCAB), path, "logits"), path


def expected_reward(student, path, steps, reward):
    """E R over all walks of a masked student, enumerated: with a graph to its logits."""
    times = FewStep("ancestral").times(student, steps)
    states = {(VOCAB,) * LENGTH: torch.ones((), dtype=torch.float64)}
    for t, s in itertools.pairwise(times):
        after = {}
        for state, p in states.items():
            x = torch.tensor([state])
            probs = student(x, t).probs[0]
            for draw in itertools.product(range(VOCAB), repeat=LENGTH):
                chance = p
                for place, token in enumerate(draw):
                    if state[place] == VOCAB:
                        chance = chance * probs[place, token]
                    elif state[place] != token:
                        chance = chance * 0.0
                law = path.bridge_law(x, torch.tensor([draw]), t, s)[0]
                for end in itertools.product(range(VOCAB + 1), repeat=LENGTH):
                    q = torch.stack([law[i, token] for i, token in enumerate(end)]).prod()
                    if float(q) > 0:
                        after[end] = after.get(end, 0.0) + chance * q
        states = after
    return sum(p * float(reward(torch.tensor([end]), None, Context())) for end, p in states.items())


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("advantage", ["reward", "mean"])
def test_the_gradient_is_that_of_the_enumerated_reward(closed, steps, advantage):
    """Within Monte-Carlo error; of `mean` up to its factor 1 - 1/group."""
    student, path = table(closed)
    count, group = 40000, 8

    def reward(x0, clean, context):
        return (x0[:, 0] == 1).double() + 2.0 * (x0[:, 0] == x0[:, 1]).double()

    objective = PolicyGradient({"r": reward}, group=group, advantage=advantage, clip=1e9)
    step = closed.step("student", {"student": student}, Batch(None, Context(), count),
                       torch.zeros(count, LENGTH, dtype=torch.long),
                       student=StudentSpec(steps, FewStep("ancestral")))  # fmt: skip
    (got,) = closed.gradient(objective.losses("student", step), student.network.logits)
    student.requires_grad_(True)
    (exact,) = torch.autograd.grad(-expected_reward(student, path, steps, reward), student.network.logits)
    factor = 1.0 - 1.0 / group if advantage == "mean" else 1.0
    assert exact.abs().max() > 0.05
    torch.testing.assert_close(got, factor * exact, rtol=0, atol=0.012)


def test_a_gaussian_step_has_the_density_of_its_noise(closed):
    """Two steps of re-noising: the first draws N((1 - s) x0, s^2), the last draws nothing."""
    path = paths.rectified_flow()
    student = closed.student(0.3, 0.5, path)
    like = torch.empty(5, 2, dtype=torch.float64)
    step = closed.step(
        "student", {"student": student}, Batch(None, Context(), 5), like, student=StudentSpec(2, FewStep())
    )
    walk = FewStep().trajectory(student, like, 2, g=generator("walk"), keep="each")
    got = log_likelihood(step, walk)
    s = float(walk.times[1])
    exact = torch.distributions.Normal((1 - s) * student(walk.states[0], walk.times[0]).mean, s)
    constant = torch.distributions.Normal(0.0, s).log_prob(torch.zeros(()))
    torch.testing.assert_close(got[:, 0], (exact.log_prob(walk.states[1].detach()) - constant).sum(1))
    assert got.shape == (5, 1)


def test_groups_share_a_condition_and_advantages_forget_what_it_is_worth(closed):
    """A constant per condition moves nothing; where all are equal there is no advantage, and no NaN."""
    path = paths.rectified_flow()
    student = closed.student(0.3, 0.5, path)
    batch = Batch(None, Context(torch.arange(8)), 8)
    found = {}
    for worth in (0.0, 100.0):

        def reward(x0, clean, context, worth=worth):
            assert context.condition.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
            return x0.flatten(1).sum(1) + worth * context.condition

        step = closed.step("student", {"student": student}, batch, torch.empty(8, 1, dtype=torch.float64),
                           student=StudentSpec(2, FewStep()))  # fmt: skip
        found[worth] = PolicyGradient({"r": reward}, group=4).losses("student", step).terms["policy_gradient"]
    assert found[0.0].item() == pytest.approx(found[100.0].item(), rel=1e-9) and found[0.0].item() != 0.0
    step = closed.step("student", {"student": student}, batch, torch.empty(8, 1, dtype=torch.float64),
                       student=StudentSpec(2, FewStep()))  # fmt: skip
    even = PolicyGradient({"r": lambda x0, clean, context: torch.ones(len(x0))}, group=4)
    assert even.losses("student", step).terms["policy_gradient"].item() == 0.0


class Held(nn.Module):
    """One number for each of two points."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x, t, condition=None, **keywords):
        return self.values[condition][:, None].expand_as(x)


def test_nfts_optimum_moves_the_old_belief_towards_what_was_judged_well(closed):
    """`D_old + (2/b) E[r] (E_r[x0] - E[x0])`: with samples -1 and 1, r the reward of 1, at t where x_t says nothing."""
    path = paths.rectified_flow()
    b, clip = 2.0, 5.0
    x0 = torch.tensor([-1.0, 1.0]).repeat(32)[:, None].double()
    advantage = torch.tensor([-1.0, 1.0]).repeat(32).double() * (64 / 63) ** -0.5
    r = 0.5 + advantage / (2 * clip)
    # Old belief E[x0] = 0; the optimum of  r |b d - x0|^2 + (1 - r) |-b d - x0|^2  over d.
    exact = float(((2 * r - 1) * x0[:, 0]).mean() / b)

    def last(count, path, g):
        return torch.ones(count, dtype=torch.float64)

    objective = NegativeAware({"r": lambda x, clean, context: x[:, 0]}, group=64, clip=clip, strength=b,
                              normaliser="none", times=last)  # fmt: skip
    student, old = (NetworkDenoiser(Held([value]), path, "x0") for value in (exact, 0.0))

    class Fixed(FewStep):
        def sample(self, *arguments, **keywords):
            return type("S", (), {"x0": x0})

    context = Context(torch.zeros(64, dtype=torch.long))
    for away in (0.0, 0.1, -0.1):
        with torch.no_grad():
            student.network.values.fill_(exact + away)
        step = closed.step("student", {"student": student, "old": old}, Batch(None, context, 64),
                           torch.empty_like(x0), student=StudentSpec(1, Fixed()))  # fmt: skip
        (gradient,) = closed.gradient(objective.losses("student", step), student.network.values)
        assert gradient.item() == pytest.approx(2 * b * away, abs=1e-9)
    assert exact == pytest.approx(2 / b * float(r.mean()) * float((r * x0[:, 0]).sum() / r.sum()), rel=1e-9)


class Drift(nn.Module):
    """The exact flow map of N(m, v) on a rectified flow, as a belief, and `away` of it: psi(x, t, r)."""

    def __init__(self, mean, variance, away=0.0):
        super().__init__()
        self.mean, self.variance = mean, variance
        self.away = nn.Parameter(torch.tensor(away, dtype=torch.float64))

    def forward(self, x, t, condition=None, *, target_time=None, **keywords):
        t, r = (u.reshape(-1, 1).to(x.dtype) for u in (t, target_time))

        def deviation(u):
            return (self.variance * (1 - u) ** 2 + u**2) ** 0.5

        x_r = (1 - r) * self.mean + deviation(r) / deviation(t) * (x - (1 - t) * self.mean)
        average = torch.where(t > r, (x - x_r) / (t - r).clamp_min(1e-9), 0.0)
        # At r = t the posterior mean.
        gain = self.variance * (1 - t) / deviation(t) ** 2
        here = self.mean + gain * (x - (1 - t) * self.mean)
        return torch.where(t > r, x - t * average, here) + self.away


@pytest.mark.parametrize("r", [0.6, 0.3, 0.0])
def test_of_a_flow_map_the_optimum_is_in_closed_form(closed, r):
    """`res = D - x0 = c (x0 - E[x0 | x_t])` for the exact map, `c = -r/t - (t - r)/t d psi/dx`; with advantages
    (x0 - m) / s that are not clipped the loss is least at `psi_old - c Var[x0 | x_t] / (b clip s)`. At r = t, c = -1:
    DiffusionNFT's own optimum."""
    t, b, clip, mean, variance = 0.6, 1.5, 50.0, 0.4, 0.5
    path = paths.rectified_flow()
    count = 400_000
    x0 = mean + variance**0.5 * torch.randn(count, 1, generator=generator("map"), dtype=torch.float64)
    models = {"old": NetworkDenoiser(Drift(mean, variance), path, "x0", target_time=True)}
    spread = (variance * (1 - t) ** 2 + t**2) ** 0.5

    def slope():
        if r == t:
            return variance * (1 - t) / spread**2
        x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        times = (torch.full((1,), u, dtype=torch.float64) for u in (t, r))
        (found,) = torch.autograd.grad(
            Drift(mean, variance)(x, next(times), target_time=next(times)).sum(), x
        )
        return float(found)

    c = -r / t - (t - r) / t * slope()
    posterior = variance * t**2 / spread**2
    best = -c * posterior / (b * clip * variance**0.5)

    def at(count, path, g):
        return torch.full((count,), t, dtype=torch.float64)

    objective = NegativeAware({"r": lambda x, clean, context: x[:, 0]}, group=count, clip=clip, strength=b,
                              normaliser="none", times=at, jumps=True, at_once=float(r == t), to_data=0.0,
                              derivative="forward")  # fmt: skip
    objective._end = lambda step, t: torch.full_like(t, r)

    class Fixed(FewStep):
        def sample(self, *arguments, **keywords):
            return type("S", (), {"x0": x0})

    for away in (0.0, 0.05, -0.05):
        models["student"] = NetworkDenoiser(Drift(mean, variance, best + away), path, "x0", target_time=True)
        step = closed.step("student", models, Batch(None, Context(), count), torch.empty_like(x0),
                           student=StudentSpec(1, Fixed()))  # fmt: skip
        (gradient,) = closed.gradient(objective.losses("student", step), models["student"].network.away)
        # Half of it from each of the two policies.
        assert gradient.item() == pytest.approx(2 * b * away, abs=2e-3)


def test_a_flow_map_that_nothing_prefers_stays(closed):
    """All walks judged alike: no gradient at the old map, whether it is exact or not; jumps are counted."""
    path = paths.rectified_flow()
    models = {
        name: NetworkDenoiser(Drift(0.4, 0.5, 0.3), path, "x0", target_time=True)
        for name in ("student", "old")
    }
    batch, like = closed.free(64)
    step = closed.step("student", models, batch, like, student=StudentSpec(1, FewStep("ode")))
    objective = NegativeAware(
        {"r": lambda x, clean, context: torch.zeros(len(x))}, jumps=True, normaliser="none"
    )
    (gradient,) = closed.gradient(objective.losses("student", step), models["student"].network.away)
    assert gradient.item() == pytest.approx(0.0, abs=1e-12)
    assert {name: model.calls for name, model in models.items()} == objective.cost("student")
    models = {name: closed.student(0.0, 0.5, path) for name in ("student", "old")}
    with pytest.raises(UserError, match=r"student\.target_time=true"):
        objective.losses("student", closed.step("student", models, batch, like))


def test_an_anchor_halts_a_reward_in_closed_form(closed):
    """A student that answers m + s eps, `-|x - 3|^2 / 2` rewarded, anchored at m_0: no gradient at
    m = (3 + a m_0) / (1 + a)."""
    path = paths.rectified_flow()
    batch, like = closed.free(200_000)
    a, start = 2.0, 0.5
    best = (3.0 + a * start) / (1.0 + a)
    for away in (0.0, 0.3, -0.3):
        models = {
            "student": closed.student(best + away, 0.5, path),
            "reference": closed.student(start, 0.5, path),
        }
        objective = Reward({"near": Towards([3.0])}, anchor=a)
        step = closed.step("student", models, batch, like)
        losses = objective.losses("student", step)
        shift, _ = closed.gradient(losses, *models["student"].parameters())
        assert shift.item() == pytest.approx((1.0 + a) * away, abs=0.01)
    assert {name: model.calls for name, model in models.items()} == objective.cost("student")


def test_samples_are_measured_by_what_is_rewarded_and_watched(closed):
    objective = Reward({"near": Towards([3.0])}, watched={"half": Half([1.0])})
    x0 = torch.tensor([[3.0], [1.0], [-1.0]])
    assert objective.rewards.figures(x0, None, Context(), part=2) == {
        "reward_near": pytest.approx(-(0 + 2 + 8) / 3),
        "reward_half": pytest.approx(2 / 3),
    }

    def needs_data(x, clean, context):
        if clean is None:
            raise UserError("needs the clean samples")
        return -(x - clean).abs().sum(1)

    objective = Reward({"near": Towards([3.0]), "off": needs_data})
    assert objective.rewards.figures(x0, None, Context()).keys() == {"reward_near"}
    assert objective.rewards.figures(x0, x0, Context())["reward_off"] == 0.0


@pytest.mark.parametrize("family", ["reward", "policy_gradient", "negative_aware", "preference", "paired"])
def test_options_of_the_base_are_known_by_name(family):
    """Where a constructor hands options on to its base, a wrong name is still found, with near ones."""
    from omnidistill.configuration.compose import build
    from omnidistill.configuration.listing import packaged

    node = {**packaged("common.yaml")["families"][family], "wieghts": {}}
    with pytest.raises(UserError, match=r"unknown option .*wieghts.*weights"):
        build(node)


def test_a_better_walk_becomes_more_likely_and_pairs_judged_alike_are_left_out(closed):
    path = paths.rectified_flow()
    models = {"student": closed.student(0.0, 0.5, path), "reference": closed.student(0.0, 0.5, path)}
    batch, like = closed.free(4000)
    spec = StudentSpec(2, FewStep())
    step = closed.step("student", models, batch, like, student=spec)
    losses = Preference({"up": lambda x0, clean, context: x0[:, 0]}).losses("student", step)
    assert losses.terms["preference"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-6)
    shift, _ = closed.gradient(losses, *models["student"].parameters())
    assert shift.item() < -0.1, "the mean of the steps moves up"
    step = closed.step("student", models, batch, like, student=spec)
    alike = Preference({"same": lambda x0, clean, context: torch.zeros(len(x0))}).losses("student", step)
    assert alike.terms["preference"].item() == 0.0 and alike.diagnostics["preference/judged_alike"] == 1.0


def learned(closed, objective, updates, lr, models, path, spec, dim=1):
    optimizer = torch.optim.Adam(models["student"].parameters(), lr=lr)
    for update in range(updates):
        like = torch.empty(256, dim, dtype=torch.float64)
        step = closed.step("student", models, Batch(None, Context(), 256), like, seed=update, student=spec)
        terms = objective.losses("student", step).terms
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    return spec.sampler.sample(models["student"], torch.empty(4000, dim, dtype=torch.float64), spec.steps,
                               g=generator("judge")).x0  # fmt: skip


@pytest.mark.parametrize("anchor", [0.0, 3.0])
def test_a_reward_that_cannot_be_differentiated_is_raised_and_an_anchor_holds_the_student(closed, anchor):
    path = paths.rectified_flow()
    models = {"student": closed.student(-0.5, 0.5, path), "reference": closed.student(-0.5, 0.5, path)}
    spec = StudentSpec(2, FewStep())
    before = spec.sampler.sample(
        models["student"], torch.empty(4000, 1, dtype=torch.float64), 2, g=generator("judge")
    ).x0
    objective = PolicyGradient({"half": Half([1.0])}, group=16, anchor=anchor)
    after = learned(closed, objective, 60, 0.02, models, path, spec)
    gain = float((after > 0).double().mean() - (before > 0).double().mean())
    assert (gain > 0.5) if not anchor else (0.02 < gain < 0.45), gain


def test_caps_and_watched_rewards(closed):
    path = paths.rectified_flow()
    batch, like = closed.free(64)
    student = closed.student(0.0, 0.5, path)
    objective = Reward({"near": Towards([3.0])}, caps={"near": -100.0}, watched={"half": Half([1.0])})
    losses = objective.losses("student", closed.step("student", {"student": student}, batch, like))
    shift, _ = closed.gradient(losses, *student.parameters())
    assert shift.item() == 0.0, "every reward is above the cap, so nothing is gained"
    assert float(losses.diagnostics["reward/half/watched"]) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("family", [Reward, PolicyGradient, NegativeAware, Preference])
def test_wrong_rewards_are_one_line(closed, family):
    path = paths.rectified_flow()
    names = ("student", "old", "reference")
    models = {name: closed.student(0.0, 0.5, path) for name in names}
    batch, like = closed.free(8)

    def losses(reward):
        step = closed.step("student", models, batch, like, student=StudentSpec(2, FewStep()))
        return family({"r": reward}).losses("student", step)

    with pytest.raises(RunError, match="reward 'r' is NaN or infinite for 8 of 8 samples"):
        losses(lambda x0, clean, context: x0.flatten(1).sum(1) / 0.0)
    with pytest.raises(UserError, match=r"reward 'r' answers \(\) for 8 samples"):
        losses(lambda x0, clean, context: x0.mean())
    name = getattr(family, "family", "reward")
    with pytest.raises(
        UserError, match=rf"objective\.{name} has nothing to reward; give families\.{name}\.rewards"
    ):
        family({})
    with pytest.raises(UserError, match="weights names s, the rewards are r"):
        family({"r": Count()}, {"s": 1.0})


def test_walks_that_draw_nothing_and_groups_that_do_not_fit_are_one_line(closed):
    path = paths.rectified_flow()
    student = closed.student(0.0, 0.5, path)
    batch, like = closed.free(8)
    for spec in (StudentSpec(1, FewStep()), StudentSpec(4, FewStep("ode"))):
        step = closed.step("student", {"student": student}, batch, like, student=spec)
        with pytest.raises(UserError, match=r"draw nothing: use student\.steps >= 2"):
            PolicyGradient({"r": Half([1.0])}).losses("student", step)
    step = closed.step("student", {"student": student}, batch, like, student=StudentSpec(2, FewStep()))
    with pytest.raises(UserError, match="groups of 3 walks do not divide the 8 samples"):
        PolicyGradient({"r": Half([1.0])}, group=3).losses("student", step)
    with pytest.raises(UserError, match="group is 1, give 2 or more"):
        PolicyGradient({"r": Half([1.0])}, group=1)


@pytest.mark.parametrize("make", [
    lambda r: PolicyGradient(r), lambda r: PolicyGradient(r, anchor=1.0), lambda r: NegativeAware(r),
    lambda r: NegativeAware(r, anchor=1.0), lambda r: Preference(r), lambda r: Reward(r),
])  # fmt: skip
def test_declared_cost_is_counted(closed, make):
    """Of tokens, which draw in their only step; of numbers where the loss asks for no draw."""
    objective = make({"r": Count()} if "gaussian" not in make({"r": Count()}).needs else {"r": Half([1.0])})
    names = ("student", "old", "reference")
    points = "gaussian" in objective.needs or isinstance(objective, Reward)
    if points:
        path = paths.rectified_flow()
        models = {name: closed.student(0.0, 0.5, path) for name in names}
        batch, like = closed.free(8)
    else:
        models, batch, like = (
            {n: table(closed)[0] for n in names},
            Batch(None, Context(), 8),
            torch.zeros(8, 2).long(),
        )
    if isinstance(objective, Reward):
        objective = Reward({"r": Towards([0.0])})
    spec = StudentSpec(1, FewStep("renoise" if points else "ancestral"))
    objective.losses("student", closed.step("student", models, batch, like, student=spec))
    assert {name: models[name].calls for name in names if models[name].calls} == objective.cost("student")


def test_jumps_of_one_hots_are_refused(closed):
    from omnidistill.exact.markov_text import MarkovTextTask
    from omnidistill.random import generator

    task = MarkovTextTask(vocab=3, length=3, path="onehot")
    teacher = task.exact_teacher()
    teacher.wants_target = True
    batch = task.batch(8, generator("b"))
    models = {"student": teacher, "old": teacher}
    step = closed.step("student", models, batch, student=StudentSpec(1, FewStep("ode")))
    judge = {"r": lambda x, x0, context: x.flatten(1).sum(1)}
    with pytest.raises(UserError, match=r"beliefs on .* are logits.*families\.negative_aware\.jumps=false"):
        NegativeAware(judge, jumps=True, group=4).losses("student", step)


def test_padding_changes_no_policy_gradient(closed):
    found = []
    for more in (0, 3):
        batch, path = closed.ragged("tokens", more)
        student = closed.ragged_denoiser("tokens", path, 1)
        step = closed.step(
            "student", {"student": student}, batch, student=StudentSpec(2, FewStep("ancestral"))
        )
        losses = PolicyGradient({"r": Count(1)}, group=2, advantage="mean").losses("student", step)
        found.append([*losses.terms.values(), *closed.gradient(losses, *student.parameters())])
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(long, short, rtol=1e-9, atol=1e-12)


def test_rewards_and_matching_add_by_weight(closed):
    from omnidistill.objectives import Matching

    both = Weighted(
        {"m": Matching(), "p": PolicyGradient({"r": Half([1.0])}, anchor=0.1)}, {"m": 1.0, "p": 0.1}
    )
    path = paths.rectified_flow()
    models = {
        name: closed.student(0.1, 0.5, path) for name in ("teacher", "student", "fake_score", "reference")
    }
    batch, like = closed.free(8)
    step = closed.step("student", models, batch, like, student=StudentSpec(2, FewStep()))
    assert set(both.losses("student", step).terms) == {"matching", "policy_gradient", "anchor"}


def test_hyper_sds_later_stages_begin_where_they_have_a_weight():
    from omnidistill.configuration.compose import compose
    from omnidistill.runs import setup

    given = [
        "task=exact/gaussian_mixture",
        "task.network={width: 8, depth: 1}",
        "recipe=hyper-sd",
        "out=unused",
    ]
    near = "families.reward.rewards={near: {_target_: omnidistill.exact.rewards.Towards, point: [1.0]}}"
    for more, begins in (
        ((), {}),
        (("objective.reward=0.1", near), {"reward": 0.7}),
        (("objective.reward=0.1", near, "objective.matching=1"), {"reward": 0.7, "matching": 0.85}),
    ):
        cfg = compose("config", [*given, *more])
        objective = setup.objective_of(cfg, setup.task_of(cfg))
        assert objective.begins == begins and {"segments", "adversarial"} <= objective.parts.keys()
        assert set(objective.parts) == {"segments", "adversarial", *begins}
