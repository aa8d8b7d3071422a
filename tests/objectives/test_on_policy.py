"""On-policy distillation: KL of transitions in closed form, states as sampling meets them, teachers of more steps."""

from itertools import pairwise

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers.routed import Routed
from omnidistill.errors import UserError
from omnidistill.objectives import OnPolicy, Step, StudentSpec, Weighted
from omnidistill.objectives.matching import Matching
from omnidistill.posteriors import CategoricalPosterior
from omnidistill.random import generator
from omnidistill.samplers import FewStep, Heun

KERNELS = [("kl", "ancestral"), ("kl", "renoise"), ("kl", "gamma"), ("mean", "ode"), ("mean", "ancestral")]


def sampler(transition):
    return FewStep(transition, gamma=0.6 if transition == "gamma" else None)


def spec(transition="ode", steps=4):
    return StudentSpec(steps, sampler(transition))


def weights(path, transition, t, s):
    """(c, std) of `x_s = ... + c x0 + std z`, written out for a path of alpha = 1 - t, sigma = t."""
    if s == 0.0:
        return 1.0, None
    a, b = 1.0 - t, 1.0 - s
    if transition == "renoise":
        return b, s
    if transition == "gamma":
        return b - (1 - 0.6**2) ** 0.5 * s * a / t, 0.6 * s
    if transition == "ode":
        return b - s * a / t, None
    # The process's own posterior: q(x_s | x_t, x0) = N(..., s^2 (1 - (a/b)^2 s^2 / t^2)).
    variance = s**2 * (1.0 - (a / b * s / t) ** 2)
    return b - (s**2 - variance) ** 0.5 * a / t, variance**0.5


@pytest.mark.parametrize(("kernel", "transition"), KERNELS)
def test_the_kl_is_that_of_the_transitions(closed, kernel, transition):
    """A student whose belief is off by 0.3 everywhere: `c^2 0.3^2 / 2 std^2` a step, `c^2 0.3^2 / 2` without noise."""
    path = paths.rectified_flow()
    teacher = closed.student(0.1, 0.5, path)
    models = {"teacher": teacher, "student": closed.student(0.4, 0.5, path)}
    batch, like = closed.free(64)
    step = closed.step("student", models, batch, like, student=spec(transition))
    losses = OnPolicy(kernel, asked="all").losses("student", step)
    times = sampler(transition).times(teacher, 4).tolist()
    expected = []
    for t, s in pairwise(times):
        c, std = weights(path, transition, t, s)
        expected.append(0.5 * (c * 0.3) ** 2 / (std**2 if kernel == "kl" and s > 0 else 1.0))
        assert losses.diagnostics[f"on_policy/at_{t:.3g}"] == pytest.approx(expected[-1], rel=1e-6)
    assert losses.terms["on_policy"].item() == pytest.approx(sum(expected) / 4, rel=1e-6)


@pytest.mark.parametrize("transition", ["renoise", "ode", "ancestral", "gamma"])
def test_the_law_of_a_step_is_what_it_draws(closed, transition):
    path, few = paths.vp_linear(), sampler(transition)
    denoiser = closed.student(0.1, 0.5, path)
    x_t = torch.full((40000, 1), 0.7, dtype=torch.float64)
    for t, s in ((0.8, 0.4), (0.3, 0.0)):
        t, s = (torch.tensor(v, dtype=torch.float64) for v in (t, s))
        drawn = few.step(denoiser, x_t, t, s, Context(), generator("law"))
        mean, std = few.law(path, x_t[:1], denoiser(x_t[:1], t).mean, t, s)
        assert drawn.mean().item() == pytest.approx(mean.item(), abs=0.02)
        assert drawn.std().item() == pytest.approx(float(std) if transition != "ode" else 0.0, abs=0.02)


@pytest.mark.parametrize(("kernel", "transition"), KERNELS)
@pytest.mark.parametrize("asked", ["one", "all"])
def test_at_the_teacher_nothing_moves(closed, kernel, transition, asked):
    path = paths.rectified_flow()
    models = {"teacher": closed.student(0.1, 0.5, path), "student": closed.student(0.1, 0.5, path)}
    batch, like = closed.free(16)
    step = closed.step("student", models, batch, like, student=spec(transition))
    losses = OnPolicy(kernel, asked=asked).losses("student", step)
    assert losses.terms["on_policy"].item() == 0.0
    assert all(g == 0 for g in closed.gradient(losses, *models["student"].parameters()))


def test_states_are_those_that_sampling_visits(closed):
    path = paths.rectified_flow()
    student, seen = closed.student(0.4, 0.5, path), []
    teacher = closed.student(0.1, 0.5, path)
    answer = teacher.belief

    def belief(x_t, *rest):
        seen.append(x_t)
        return answer(x_t, *rest)

    teacher.belief = belief
    batch, like = closed.free(8)
    step = closed.step(
        "student", {"teacher": teacher, "student": student}, batch, like, student=spec("renoise")
    )
    OnPolicy("mean", asked="all").losses("student", step)
    made = FewStep("renoise").sample(student, like, 4, g=generator("step", 0), keep=True)
    assert len(seen) == 4
    for visited, state in zip(seen, made.states, strict=False):
        assert torch.equal(visited, state) and not visited.requires_grad


def test_each_step_has_its_own_gradient_and_none_runs_through_states(closed):
    """The sum of four gradients of the belief alone, at states that are constants."""
    path = paths.rectified_flow()
    student = closed.student(0.4, 0.5, path)
    models = {"teacher": closed.student(0.1, 0.7, path), "student": student}
    batch, like = closed.free(32)
    step = closed.step("student", models, batch, like, student=spec())
    got = closed.gradient(OnPolicy("mean", asked="all").losses("student", step), *student.parameters())
    walk = FewStep("ode").trajectory(student, like, 4, g=generator("step", 0), keep="none")
    total = 0.0
    for x, t, s in zip(walk.states[:-1], walk.times[:-1], walk.times[1:], strict=True):
        c = 1.0 - s - s * (1.0 - t) / t
        gap = student(x, t).mean - models["teacher"](x, t).mean.detach()
        total = total + 0.5 * ((c * gap) ** 2).mean() / 4
    wanted = torch.autograd.grad(total, tuple(student.parameters()))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_a_teacher_of_many_steps_is_one_jump_of_the_student(closed):
    """On a Gaussian the jump's belief leads where the probability flow does: x_s = a_s m + sd_s/sd_t (x_t - a_t m)."""
    path = paths.rectified_flow()
    teacher = closed.gaussian(0.5, 0.3, path)
    batch, like = closed.free(4)
    step = closed.step("student", {"teacher": teacher, "student": closed.student(0.0, 1.0, path)}, batch, like,
                       student=spec())  # fmt: skip
    objective = OnPolicy("mean", asked="all", substeps=64, second_order=True)
    for visit in objective._visits(step):
        jump = objective._target(step, teacher, visit)
        at = path.bridge(visit.x_t, jump.mean, visit.t, visit.s)

        def deviation(time):
            return (0.3 * (1 - time) ** 2 + time**2) ** 0.5

        exact = (1 - visit.s) * 0.5 + deviation(visit.s) / deviation(visit.t) * (
            visit.x_t - (1 - visit.t) * 0.5
        )
        torch.testing.assert_close(at, exact, rtol=0, atol=5e-4)
        once = OnPolicy("mean", asked="all")._target(step, teacher, visit)
        assert (path.bridge(visit.x_t, once.mean, visit.t, visit.s) - exact).abs().max() > 1e-2


def test_a_student_of_four_steps_learns_the_teachers_many(closed):
    """A free belief at each of four times ends where the teacher's Heun run of 64 steps does; the teacher's own four
    steps do not."""
    path = paths.rectified_flow()
    teacher = closed.gaussian(0.5, 0.05, path)

    class Free(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.scale = (
                torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(2)
            )

        def forward(self, x, t, condition=None, **keywords):
            k = (4 * (1.0 - t[:, None])).round().long()
            return self.shift[k] + self.scale[k] * x

    from omnidistill.denoisers import NetworkDenoiser

    student = NetworkDenoiser(Free(), path, "x0")
    optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
    objective = OnPolicy("mean", asked="all", substeps=8, second_order=True)
    batch, like = closed.free(64)
    for update in range(100):
        step = closed.step("student", {"teacher": teacher, "student": student}, batch, like, seed=update,
                           student=spec())  # fmt: skip
        loss = objective.losses("student", step).terms["on_policy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x_1 = torch.linspace(-2, 2, 33, dtype=torch.float64)[:, None]
    many = Heun().sample(teacher, x_1, 64, x_1=x_1).x0
    own = FewStep("ode").sample(student, x_1, 4, x_1=x_1).x0
    four = FewStep("ode").sample(teacher, x_1, 4, x_1=x_1).x0
    assert (own - many).abs().max() < 0.03 < 0.1 < (four - many).abs().max()


def tokens(closed, kind_of=None, **options):
    path = paths.MaskedPath(3)
    g = generator("tables")
    teacher, student = (
        closed.Float64Logits(
            closed.Table(torch.randn(64, 3, 3, generator=g, dtype=torch.float64), 3), path, "logits"
        )
        for _ in range(2)
    )
    like = torch.zeros(64, 3, dtype=torch.long)
    models = {"teacher": teacher, "student": student}
    batch = Batch(torch.randint(3, (64, 3), generator=g), Context())
    return models, closed.step("student", models, batch, like, student=spec("ancestral", 3), **options)


@pytest.mark.parametrize("kind", ["forward", "backward", "jsd"])
def test_tokens_have_the_kl_of_what_is_drawn(closed, kind):
    """Written out over the tokens of each undecided place."""
    models, step = tokens(closed)
    losses = OnPolicy("belief", kind, asked="all").losses("student", step)
    walk = FewStep("ancestral").trajectory(
        models["student"], step.like, 3, g=generator("step", 0), keep="none"
    )
    total = 0.0
    for x, t in zip(walk.states[:-1], walk.times[:-1], strict=True):
        p, q = (models[name](x, t).probs for name in ("teacher", "student"))
        pairs = {"forward": [(p, q, 1.0)], "backward": [(q, p, 1.0)]}
        pairs["jsd"] = [(p, (p + q) / 2, 0.5), (q, (p + q) / 2, 0.5)]
        open_ = (x == 3).double()
        total += sum(w * ((a * (a.clamp_min(1e-300) / b.clamp_min(1e-300)).log()).sum(-1) * open_).mean()
                     for a, b, w in pairs[kind]) / 3  # fmt: skip
    assert losses.terms["on_policy"].item() == pytest.approx(total.item(), rel=1e-9)


def test_generalised_jensen_shannon(closed):
    """beta = 1/2 is the Jensen-Shannon divergence; divided by beta it tends to KL(T || S) as beta does to 0."""
    models, step = tokens(closed)
    visits = OnPolicy("belief", asked="all")._visits(step)
    belief, target = visits[0].belief, models["teacher"](visits[0].x_t, visits[0].t)
    assert isinstance(belief, CategoricalPosterior)
    half = OnPolicy("belief", beta=0.5)._divergence(belief, target, None)
    torch.testing.assert_close(half, belief.divergence(target, "jsd"), rtol=1e-9, atol=1e-12)
    small = OnPolicy("belief", beta=1e-5)._divergence(belief, target, None) / 1e-5
    torch.testing.assert_close(small, belief.divergence(target, "forward"), rtol=1e-3, atol=1e-6)
    large = OnPolicy("belief", beta=1 - 1e-5)._divergence(belief, target, None) / 1e-5
    torch.testing.assert_close(large, belief.divergence(target, "backward"), rtol=1e-3, atol=1e-6)


def test_a_share_of_updates_looks_at_data(closed):
    own = 0
    for seed in range(200):
        _, step = tokens(closed, seed=seed)
        with torch.no_grad():
            visits = OnPolicy("belief", beta=0.5, share=0.25, asked="all")._visits(step)
        own += len(visits) == 3
        if len(visits) == 1:
            kept = visits[0].x_t
            assert torch.equal(kept[kept != 3], step.x0[kept != 3])
    assert own / 200 == pytest.approx(0.25, abs=0.09)


def test_several_teachers_are_asked_by_route(closed):
    path = paths.rectified_flow()
    one, other = closed.student(0.1, 0.5, path), closed.student(0.9, 0.5, path)
    routed = Routed({"one": one, "other": other}, lambda context: context.condition)
    student = closed.student(0.5, 0.5, path)
    batch = Batch(None, Context(torch.tensor([0, 1])), 2)
    step = closed.step("student", {"teacher": routed, "student": student}, batch,
                       torch.empty(2, 1, dtype=torch.float64), student=spec(steps=1))  # fmt: skip
    (gradient, _) = closed.gradient(OnPolicy("mean").losses("student", step), *student.parameters())
    assert gradient.item() == pytest.approx(0.0, abs=1e-12), "0.4 above one teacher, 0.4 below the other"


def test_the_anchor_is_the_students_start_and_is_added_by_weight(closed):
    path = paths.rectified_flow()
    models = {name: closed.student(shift, 0.5, path) for name, shift in
              (("teacher", 0.0), ("student", 0.3), ("reference", 0.5))}  # fmt: skip
    batch, like = closed.free(8)
    objective = OnPolicy("mean", anchor=0.25)
    assert objective.roles["reference"].start == "student" and objective.roles["reference"].refresh == 0
    losses = objective.losses("student", closed.step("student", models, batch, like, student=spec(steps=1)))
    assert losses.terms["on_policy"].item() == pytest.approx(0.5 * 0.09)
    assert losses.terms["anchor"].item() == pytest.approx(0.25 * 0.5 * 0.04)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [("mean", {}), ("mean", {"substeps": 3, "second_order": True}), ("mean", {"anchor": 0.1})],
)
@pytest.mark.parametrize("asked", ["one", "all"])
def test_declared_cost_is_counted(closed, kernel, options, asked):
    path = paths.rectified_flow()
    names = ("teacher", "student", "reference")
    models = {name: closed.student(0.1, 0.5, path) for name in names}
    objective = OnPolicy(kernel, asked=asked, **options)
    batch, like = closed.free(4)
    objective.losses("student", closed.step("student", models, batch, like, student=spec(steps=1)))
    assert {name: models[name].calls for name in names if models[name].calls} == objective.cost("student")


def test_one_rollout_serves_matching_and_the_walk(closed):
    """The student is asked once for both."""
    path = paths.rectified_flow()
    models = {name: closed.student(0.1, 0.5, path) for name in ("teacher", "student", "fake_score")}
    batch, like = closed.free(4)
    both = Weighted({"m": Matching(), "o": OnPolicy("mean")}, {"m": 1.0, "o": 1.0})
    step = closed.step("student", models, batch, like, student=StudentSpec(1))
    both.losses("student", step)
    assert models["student"].calls == 1 == both.cost("student")["student"]


@pytest.mark.parametrize("kind", ["points", "tokens"])
def test_padding_changes_nothing(closed, kind):
    closed.check_padding(OnPolicy("belief", "forward" if kind == "tokens" else "l2"), kind)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel": "kullback"}, "unknown kernel 'kullback'"),
        ({"beta": 0.5}, "belongs to kernel=belief, got beta=0.5, kernel=mean"),
        ({"kernel": "belief", "beta": 1.0}, "between 0 and 1"),
        ({"substeps": 0}, "from 1 on, got 0"),
        ({"share": 1.5}, "got 0.0 and 1.5"),
    ],
)
def test_wrong_options_are_one_line(options, said):
    with pytest.raises(UserError, match=said):
        OnPolicy(**options)


def test_a_deterministic_walk_has_no_kl(closed):
    path = paths.rectified_flow()
    models = {name: closed.student(0.1, 0.5, path) for name in ("teacher", "student")}
    batch, like = closed.free(4)
    step: Step = closed.step("student", models, batch, like, student=spec("ode"))
    with pytest.raises(UserError, match=r"needs a noisy transition, student\.transition=ode has none"):
        OnPolicy("kl", asked="all").losses("student", step)
