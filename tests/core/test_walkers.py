"""Walkers: what helps a student while it samples. Each is the plain student, or the plain teacher, at its limits, with
the calls that it counts; a fitted solver finds the coefficient that is known in closed form."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser, Told, Windowed
from omnidistill.errors import NotOffered, UserError
from omnidistill.networks.mlp import MLP
from omnidistill.networks.transformer import Transformer
from omnidistill.networks.unet import UNet
from omnidistill.posteriors import PointPosterior
from omnidistill.random import PerSample, generator
from omnidistill.samplers import Euler, FewStep, Heun
from omnidistill.samplers.guide import Guide
from omnidistill.samplers.guided_steps import AdaptiveGuidance
from omnidistill.samplers.multistep import Multistep
from omnidistill.samplers.reuse import Reuse
from omnidistill.samplers.walker import Settling, innermost, walkers
from omnidistill.samplers.with_teacher import Residual, TeacherAfter, TeacherBeside, TeacherFirst

F64 = torch.float64
MEAN, SPREAD = 0.7, 0.4


class GaussianData(Denoiser):
    """x0 ~ N(m, c^2); with a condition k the mean is m + k, and 9 is no condition."""

    def __init__(self, path, mean=MEAN, spread=SPREAD):
        super().__init__(path)
        self.mean, self.spread = mean, spread

    def belief(self, x_t, t, context, target_time):
        t = torch.as_tensor(t, dtype=F64).reshape(-1, 1)
        alpha, _, sigma = self.path.coefficients(t)
        mean = self.mean
        if context.condition is not None:
            k = context.condition.to(F64)[:, None]
            mean = mean + torch.where(k == 9, 0.0, k)
        scale = alpha**2 * self.spread**2 + sigma**2
        return PointPosterior(mean + self.spread**2 * alpha * (x_t - alpha * mean) / scale)

    def end(self, x_1):
        """The exact solution of the probability-flow ODE from t = 1."""
        alpha, _, sigma = self.path.coefficients(self.path.span[1])
        return (
            self.mean
            + self.spread * (x_1 - alpha * self.mean) / (alpha**2 * self.spread**2 + sigma**2).sqrt()
        )


def start(count=32, dim=1, seed=0):
    return torch.randn(count, dim, dtype=F64, generator=generator("start", seed))


def sampled(denoiser, steps, x_1, context=Context(), transition="ode", seed=0, **options):
    return FewStep(transition, **options).sample(
        denoiser, x_1, steps, context, g=generator("g", seed), x_1=x_1
    )


# --- guidance that ends -------------------------------------------------------------------------------------

LABELS = Context(torch.arange(32) % 3)


@pytest.mark.parametrize("threshold", [None, 2.0])
def test_guidance_that_never_ends_is_guidance(threshold):
    path, x_1 = paths.rectified_flow(), start()
    usual = sampled(Guided(GaussianData(path), 3.0, 9), 4, x_1, LABELS)
    walker = AdaptiveGuidance(3.0, threshold).around(GaussianData(path), null=9)
    found = sampled(walker, 4, x_1, LABELS)
    assert torch.equal(found.x0, usual.x0) and found.nfe == usual.nfe == 8


def test_guidance_that_is_never_asked_is_none():
    path, x_1 = paths.rectified_flow(), start()
    usual = sampled(GaussianData(path), 4, x_1, LABELS)
    for walker in (AdaptiveGuidance(3.0, -1.0), AdaptiveGuidance(1.0)):
        found = sampled(walker.around(GaussianData(path), null=9), 4, x_1, LABELS)
        assert torch.equal(found.x0, usual.x0) and found.nfe == usual.nfe == 4


def test_each_sample_drops_its_branch_when_its_own_agree():
    """In one dimension the cosine of two velocities is 1 or -1: a sample whose velocities have one sign drops the
    branch for the steps to come; the label 0 says nothing and always agrees."""
    path, x_1 = paths.rectified_flow(), start()
    walker = AdaptiveGuidance(3.0, 0.999).around(GaussianData(path), null=9)
    found = sampled(walker, 4, x_1, LABELS)
    inner, plain = Guided(GaussianData(path), 3.0, 9), GaussianData(path)
    times = FewStep("ode").times(plain, 4)
    x, both, asked = x_1, torch.ones(32, dtype=torch.bool), 0
    for t, s in itertools.pairwise(times):
        c, u = plain(x, t, LABELS).mean, plain(x, t, Context(torch.full((32,), 9))).mean
        x0 = torch.where(both[:, None], inner(x, t, LABELS).mean, c)
        asked += 32 + int(both.sum())
        both = both & (path.velocity(x, c, t) * path.velocity(x, u, t) < 0)[:, 0]
        x = path.bridge(x, x0, t, s)
    torch.testing.assert_close(found.x0, x)
    assert found.nfe == pytest.approx(asked / 32) and 4 < found.nfe < 8
    one = sampled(walker, 4, x_1[:1], LABELS[:1])
    torch.testing.assert_close(one.x0, found.x0[:1])


def test_guidance_needs_a_null_label_and_a_path_with_noise():
    with pytest.raises(NotOffered, match="null label"):
        AdaptiveGuidance(2.0).around(GaussianData(paths.rectified_flow()))
    text = Denoiser(paths.MaskedPath(3))
    with pytest.raises(NotOffered, match="Gaussian"):
        AdaptiveGuidance(2.0, 0.9).around(text, null=3)


# --- a teacher at its side ----------------------------------------------------------------------------------


def pair():
    path = paths.rectified_flow()
    return GaussianData(path, 0.2, 0.5), GaussianData(path, 0.9, 0.3)


@pytest.mark.parametrize("transition", ["ode", "renoise"])
def test_the_teacher_first_is_the_student_or_the_teacher_at_the_ends(transition):
    student, teacher = pair()
    x_1 = start()
    alone = [sampled(who, 4, x_1, transition=transition).x0 for who in pair()]
    for first, expected in ((0, alone[0]), (4, alone[1]), (9, alone[1])):
        walker = TeacherFirst(first).around(student, teacher)
        found = sampled(walker, 4, x_1, transition=transition)
        assert torch.equal(found.x0, expected) and found.nfe == 4
    student.calls = teacher.calls = 0
    sampled(TeacherFirst(1).around(student, teacher), 4, x_1)
    assert (student.calls, teacher.calls) == (3, 1)


def test_the_first_step_of_a_guided_teacher_counts_two():
    student, teacher = pair()
    walker = TeacherFirst(1, guidance=2.0).around(student, teacher, 9)
    assert sampled(walker, 4, start(), LABELS).nfe == 5
    with pytest.raises(UserError, match="null label"):
        sampled(TeacherFirst(1, guidance=2.0).around(student, teacher), 4, start())


def test_the_teacher_beside_is_nobody_at_strength_0_and_where_it_keeps_the_answer():
    student, teacher = pair()
    x_1 = start()
    plain = sampled(student, 4, x_1)
    off = sampled(TeacherBeside(0.0, 4).around(student, teacher), 4, x_1)
    assert torch.equal(off.x0, plain.x0) and off.nfe == 4

    class Point(Denoiser):
        """Data that are one point."""

        def belief(self, x_t, t, context, target_time):
            return PointPosterior(torch.full_like(x_t, 0.3))

    fixed = TeacherBeside(0.7, 4).around(Point(student.path), Point(student.path))
    assert torch.equal(sampled(fixed, 4, x_1).x0, torch.full_like(x_1, 0.3)), "the fixed point"


def test_the_teacher_beside_moves_the_answer_by_its_share():
    """One step to 0 at the level r: x0 = (1 - w) D + w D_T(alpha_r D + sigma_r z), whose mean over z is linear in D."""
    student, teacher = pair()
    x_1, w, level = start(100_000), 0.4, 0.6
    walker = TeacherBeside(w, 1, level=level).around(student, teacher)
    found = sampled(walker, 1, x_1)
    assert found.nfe == 2
    d = sampled(student, 1, x_1).x0
    alpha, _, sigma = student.path.coefficients(torch.tensor(level, dtype=F64))
    gain = teacher.spread**2 * alpha / (alpha**2 * teacher.spread**2 + sigma**2)
    mean = (1 - w) * d + w * (teacher.mean + gain * (alpha * d - alpha * teacher.mean))
    torch.testing.assert_close(found.x0.mean(), mean.mean(), atol=5e-3, rtol=0)
    assert float((found.x0 - mean).std()) == pytest.approx(float(w * gain * sigma), rel=0.02)
    # Towards 0 no teacher is asked: what is clean has no noise for it to take away.
    assert sampled(TeacherBeside(w, 9).around(student, teacher), 4, x_1[:4]).nfe == 4 + 3


def test_the_teacher_after_refines_whom_it_is_given():
    student, teacher = pair()
    x_1 = start(64)
    plain = sampled(student, 2, x_1)

    def settled(share, **options):
        walker = TeacherAfter(share, samples=4000, **options).around(student, teacher)
        draw = lambda count, g: (torch.empty(count, 1, dtype=F64), Context())  # noqa: E731
        walker.settle(Settling(walker, FewStep("ode"), 2, teacher, draw, 0))
        return walker

    none = sampled(settled(0.0), 2, x_1)
    assert torch.equal(none.x0, plain.x0) and none.nfe == 2
    everybody = sampled(settled(1.0, level=1.0, steps=4), 2, x_1, seed=3)
    anew = sampled(teacher, 4, student.path.prior(x_1, g=generator("g", 3)))
    torch.testing.assert_close(everybody.x0, anew.x0)
    assert everybody.nfe == 2 + 4
    # A reward that is the sample itself: the lower part of them is given away, as many as were asked for.
    third = settled(0.3, steps=2, reward=lambda x0, real, context: x0[:, 0])
    many = start(20_000, seed=5)
    own, mixed = sampled(student, 2, many).x0, sampled(third, 2, many)
    moved = (mixed.x0 != own)[:, 0]
    assert torch.equal(moved, own[:, 0] < third.threshold)
    assert float(moved.double().mean()) == pytest.approx(0.3, abs=0.03)
    assert mixed.nfe == pytest.approx(2 + 2 * float(moved.double().mean()))
    assert third.varies and not student.varies


def test_the_residual_prefers_what_the_teacher_finds_likely():
    _, teacher = pair()
    x0 = torch.full((4000, 1), teacher.mean, dtype=F64)
    near, far = (Residual(0.4)(teacher, x0 + away, Context(), generator("r")).mean() for away in (0.0, 1.0))
    assert float(near) > float(far) and teacher.calls == 2


def test_a_sample_does_not_depend_on_who_is_beside_it():
    student, teacher = pair()
    walker = TeacherAfter(0.5, steps=2, reward=lambda x0, real, context: x0[:, 0]).around(student, teacher)
    walker.threshold.fill_(0.2)

    def made(count):
        like = torch.empty(count, 1, dtype=F64)
        return FewStep().sample(walker, like, 2, g=PerSample([generator("s", i) for i in range(count)])).x0

    torch.testing.assert_close(made(9)[:3], made(3))


# --- solvers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rectified_flow", "vp_cosine", "edm", "trigflow"])
def test_a_solver_at_zero_is_its_theory(name):
    path, x_1 = getattr(paths, name)(), 3.0 * start()
    inner = GaussianData(path)
    first = sampled(Multistep([5]).around(inner), 5, x_1).x0
    torch.testing.assert_close(first, sampled(inner, 5, x_1).x0, atol=1e-12, rtol=1e-10)
    # Second order: DPM-Solver++(2M) as it is written, in lambda = log(alpha / sigma).
    found = sampled(Multistep([5], order=2).around(inner), 5, x_1).x0
    times = FewStep("ode").times(inner, 5)
    level = -path.noise_level(times).log()
    x, former = x_1, None
    for i in range(5):
        alpha, _, sigma = path.coefficients(times[i + 1])
        d = inner(x, times[i]).mean
        h = level[i + 1] - level[i]
        use = d
        if former is not None and i < 4 and bool(level[i - 1].isfinite()):
            r = (level[i] - level[i - 1]) / h
            use = (1 + 1 / (2 * r)) * d - 1 / (2 * r) * former
        ratio = sigma / path.coefficients(times[i]).sigma
        x = ratio * x - alpha * torch.expm1(-h) * use if i < 4 and bool(level[i].isfinite()) else (
            path.bridge(x, use, times[i], times[i + 1]))  # fmt: skip
        former = d
    torch.testing.assert_close(found, x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("steps", [8, 16, 32])
def test_the_second_order_is_better_than_the_first(steps):
    path, x_1 = paths.trigflow(), start()
    inner = GaussianData(path)
    first, second = (
        (sampled(Multistep([1], order=order).around(inner), steps, x_1).x0 - inner.end(x_1)).abs().max()
        for order in (1, 2)
    )
    assert float(second) < 0.6 * float(first)


def settled(inner, steps, **options):
    walker = Multistep(steps, fit="projection", **options).around(inner)
    draw = lambda count, g: (torch.empty(count, 1, dtype=F64), Context())  # noqa: E731
    walker.settle(Settling(walker, FewStep("ode"), 4, inner, draw, 0))
    return walker


def test_the_projection_finds_the_coefficient_of_a_gaussian():
    """Centred Gaussian data: everything is a multiple of x_1, so lambda is a ratio of numbers, and the fitted solver
    ends where the ODE does in exactly as many steps as it has."""
    path, x_1 = paths.trigflow(), start()
    inner = GaussianData(path, mean=0.0)
    walker = settled(inner, [2, 3, 4], substeps=64)
    one = torch.ones(1, 1, dtype=F64)
    for n in (2, 3, 4):
        times = FewStep("ode").times(inner, n)
        x, former, lambdas = one, None, [0.0]
        for i, (t, s) in enumerate(itertools.pairwise(times)):
            d = inner(x, t).mean
            base = path.bridge(x, d, t, s)
            alpha, _, sigma = path.coefficients(s)
            start_ = path.coefficients(1.0)
            exact = (
                (alpha**2 * SPREAD**2 + sigma**2) / (start_.alpha**2 * SPREAD**2 + start_.sigma**2)
            ).sqrt() * one
            if i:
                along = path.bridge(x, 2 * d - former, t, s) - base
                lambdas.append(float((exact - base) / along))
                base = exact
            x, former = base, d
        numbers = walker.beliefs[str(n)]
        torch.testing.assert_close(numbers.diagonal(), torch.tensor(lambdas, dtype=F64), atol=2e-3, rtol=5e-3)
        torch.testing.assert_close(numbers.diagonal(-1), -numbers.diagonal()[1:])
        error = (sampled(walker, n, x_1).x0 - inner.end(x_1)).abs().max()
        plain = (sampled(inner, n, x_1).x0 - inner.end(x_1)).abs().max()
        assert float(error) < 2e-3 and float(error) < 0.02 * float(plain), (n, float(error), float(plain))
    assert torch.equal(sampled(walker, 5, x_1).x0, sampled(inner, 5, x_1).x0), "no numbers at five steps"
    assert sampled(walker, 4, x_1).nfe == 4 and not walker.learns


def test_times_of_its_own_fall_from_the_top_to_0_and_carry_a_gradient():
    walker = Multistep([4], learned=["times"]).around(GaussianData(paths.edm()))
    torch.testing.assert_close(
        walker.nodes(4), FewStep("ode").times(walker.denoiser, 4), atol=1e-12, rtol=1e-12
    )
    assert walker.nodes(3) is None
    with torch.no_grad():
        walker.times["4"].copy_(torch.tensor([2.0, -1.0, 0.5, 0.0]))
    times = walker.nodes(4)
    assert times[0] == walker.path.span[1] and times[-1] == 0 and bool((times.diff() < 0).all())
    (gradient,) = torch.autograd.grad(times[1], walker.times["4"])
    assert bool((gradient != 0).all())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": [0]}, "at least 1"),
        ({"order": 3}, "order 1 or 2"),
        ({"fit": "grid"}, "unknown fit"),
        ({"learned": ["belief"]}, "did you mean beliefs"),
        ({"samples": 0}, "samples and substeps"),
    ],
)
def test_wrong_solvers_are_one_line(options, said):
    with pytest.raises(UserError, match=said):
        Multistep(**options)


def test_tokens_have_no_solver():
    with pytest.raises(NotOffered, match="deterministic trajectories"):
        Multistep().around(Denoiser(paths.MaskedPath(3)))


# --- reuse --------------------------------------------------------------------------------------------------


def shaken(network, seed=0):
    g = generator("shaken", seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=g))
    return network


def networks():
    torch.manual_seed(0)
    flow = paths.rectified_flow()
    return {
        "mlp": (NetworkDenoiser(shaken(MLP(2, 16, 4)), flow, "flow"), torch.randn(5, 2)),
        "unet": (
            NetworkDenoiser(shaken(UNet((8, 16), num_classes=None)), flow, "flow"),
            torch.randn(3, 1, 8, 8),
        ),
        "transformer": (
            NetworkDenoiser(shaken(Transformer(4, 6, 16, 3, 2)), paths.MaskedPath(4), "logits"),
            torch.full((5, 6), 4),
        ),
    }


@pytest.mark.parametrize("part", ["deep", "encoder"])
@pytest.mark.parametrize("name", ["mlp", "unet", "transformer"])
def test_reuse_at_every_step_is_the_network_and_else_costs_its_share(name, part):
    inner, x_1 = networks()[name]
    transition = "ancestral" if name == "transformer" else "ode"
    plain = sampled(inner, 6, x_1, transition=transition)
    whole = Reuse(part, interval=1).around(inner)
    found = sampled(whole, 6, x_1, transition=transition)
    assert torch.equal(found.x0, plain.x0) and found.nfe == plain.nfe == 6
    third = Reuse(part, interval=3).around(inner)
    some = sampled(third, 6, x_1, transition=transition)
    assert 0.02 < third.share < 0.98
    assert some.nfe == pytest.approx(2 + 4 * third.share)
    assert torch.equal(some.x0, sampled(third, 6, x_1, transition=transition).x0)
    if transition == "ode":
        assert not torch.equal(some.x0, plain.x0)
    assert not any("forward" in vars(module) for module in inner.modules()), "nothing is left behind"


def test_what_is_reused_does_not_run_and_what_is_fresh_does():
    inner, x_1 = networks()["unet"]
    ran = []
    for name in ("down.0", "down.2", "middle", "up.0", "up.2"):
        # Counts what happens inside: what stands in for a module runs no convolution.
        inner.network.get_submodule(
            name if name != "middle" else "middle.before"
        ).conv1.register_forward_hook(lambda module, inputs, output, name=name: ran.append(name))
    sampled(Reuse("deep", interval=2).around(inner), 2, x_1)
    assert ran == ["down.0", "down.2", "middle", "up.0", "up.2", "down.0", "up.2"]
    ran.clear()
    sampled(Reuse("encoder", interval=2).around(inner), 2, x_1)
    assert ran == ["down.0", "down.2", "middle", "up.0", "up.2", "up.0", "up.2"]


def test_the_share_is_that_of_the_operations():
    """A perceptron of four equal blocks between thin layers: reusing two of them saves a bit less than half."""
    inner, x_1 = networks()["mlp"]
    walker = Reuse("deep", interval=2).around(inner)
    sampled(walker, 2, x_1)
    width, dim, embedding = 16, 2, 64
    block = 2 * 5 * width * width
    film = 2 * 5 * embedding * 2 * width
    ends = 2 * 2 * 5 * dim * width
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        inner.network(x_1, torch.zeros(5))
    assert counter.get_total_flops() >= 4 * block + film + ends
    assert walker.share == pytest.approx(1 - 2 * block / counter.get_total_flops())


def test_keys_are_shares_of_the_walk():
    inner, x_1 = networks()["mlp"]
    walker = Reuse("deep", keys=[0, 0.5]).around(inner)
    assert sampled(walker, 4, x_1).nfe == pytest.approx(2 + 2 * walker.share)
    assert sampled(walker, 8, x_1).nfe == pytest.approx(2 + 6 * walker.share)


def test_a_network_that_names_no_blocks_is_told_what_to_give():
    bare = NetworkDenoiser(nn.Linear(2, 2), paths.rectified_flow(), "flow")
    with pytest.raises(NotOffered, match="names no 'deep' blocks"):
        Reuse().around(bare)
    with pytest.raises(UserError, match=r"no module 'bloc'; it has"):
        Reuse(modules=["bloc"]).around(networks()["mlp"][0])
    with pytest.raises(NotOffered, match="closed form"):
        Reuse().around(GaussianData(paths.rectified_flow()))


# --- together -----------------------------------------------------------------------------------------------


def test_walkers_nest_and_count_everybody_once():
    torch.manual_seed(0)
    inner = NetworkDenoiser(shaken(MLP(2, 16, 4, num_classes=3)), paths.rectified_flow(), "flow")
    teacher = NetworkDenoiser(shaken(MLP(2, 16, 4, num_classes=3), 1), paths.rectified_flow(), "flow")
    guide = AdaptiveGuidance(2.0).around(Told(inner, 1.5), null=3)
    reuse = Reuse(interval=2).around(guide)
    both = TeacherBeside(0.5, 2).around(TeacherFirst(1).around(reuse, teacher), teacher)
    assert innermost(both) is inner and [type(w).__name__ for w in walkers(both)] == [
        "AdaptiveGuidance", "Reuse", "TeacherFirst", "TeacherBeside",
    ]  # fmt: skip
    x_1 = torch.randn(6, 2, generator=generator("x"))
    found = sampled(both, 4, x_1, Context(torch.arange(6) % 3))
    # Step 0 is the teacher's, and it is asked again beside; at step 1 the student begins: key, reused, key.
    assert found.nfe == pytest.approx(1 + 1 + 2 + 1 + 2 * reuse.share + 2)


def test_outside_of_a_walk_it_answers_as_the_one_inside():
    student, teacher = pair()
    x = start()
    assert torch.equal(TeacherFirst(4).around(student, teacher)(x, 0.5).mean, student(x, 0.5).mean)


def test_windows_have_walks_of_their_own():
    """A long state in windows of three: each group of windows remembers its own beliefs."""

    class Wide(GaussianData):
        pass

    path = paths.rectified_flow()
    x_1 = torch.randn(2, 7, dtype=F64, generator=generator("w"))
    walker = Multistep([4], order=2).around(Wide(path))
    whole = sampled(walker, 4, x_1).x0
    windowed = sampled(Windowed(walker, 4, 2), 4, x_1).x0
    torch.testing.assert_close(windowed, whole)  # elements are independent here


def test_teachers_samplers_walk_too():
    student, _ = pair()
    x_1 = start()
    for sampler in (Euler(), Heun()):
        walker = AdaptiveGuidance(1.0).around(student)
        a, b = (sampler.sample(who, x_1, 3, x_1=x_1).x0 for who in (walker, student))
        assert torch.equal(a, b)


# --- a guide plugged in ----------------------------------------------------------------------------------------------


def guided_pair(name="mlp"):
    torch.manual_seed(0)
    flow = paths.rectified_flow()
    made = {
        "mlp": lambda: NetworkDenoiser(shaken(MLP(2, 16, 3, num_classes=3)), flow, "flow"),
        "unet": lambda: NetworkDenoiser(shaken(UNet((8, 16), num_classes=3)), flow, "flow"),
        "transformer": lambda: NetworkDenoiser(
            shaken(Transformer(4, 6, 16, 3, 2, num_classes=3)), paths.MaskedPath(4), "logits"
        ),
    }[name]()
    x = {"mlp": torch.randn(5, 2), "unet": torch.randn(5, 1, 8, 8), "transformer": torch.full((5, 6), 4)}[
        name
    ]
    return made, x, Context(torch.arange(5) % 3)


@pytest.mark.parametrize("name", ["mlp", "unet", "transformer"])
def test_a_guide_starts_as_the_network_and_at_scale_1_stays_it(name):
    inner, x, context = guided_pair(name)
    plain = inner(x, 0.5, context).parameters
    guide = Guide(3.0).around(inner)
    assert torch.equal(guide(x, 0.5, context).parameters, plain)
    shaken(guide.write)
    assert not torch.equal(guide(x, 0.5, context).parameters, plain)
    one = replace(context, guidance=torch.ones(5))
    assert torch.equal(guide(x, 0.5, one).parameters, plain)
    usual = replace(context, guidance=torch.full((5,), 3.0))
    assert torch.equal(guide(x, 0.5, usual).parameters, guide(x, 0.5, context).parameters)
    assert torch.equal(inner(x, 0.5, context).parameters, plain), "nothing is left behind"
    own = sum(value.numel() for value in guide.learned().values())
    assert own > 0 and not any(name.startswith("denoiser") for name in guide.learned())


def test_a_guide_is_trained_alone_and_learns_what_guidance_says():
    """A small perceptron whose labels move its answer: after some steps of Adam the guide has most of the difference
    between the guided belief and the conditional one, with one call in the place of two."""
    inner, _, _ = guided_pair()
    inner.requires_grad_(False)
    guide = Guide(3.0, width=16).around(inner)
    g = generator("guide")
    optimiser = torch.optim.Adam([p for p in guide.parameters() if p.requires_grad], 0.01)

    def error():
        x, context = torch.randn(256, 2, generator=g), Context(torch.arange(256) % 3)
        t = torch.rand(256, generator=g, dtype=F64)
        wanted = Guided(inner, 3.0, 3)(x, t, context).mean
        own, before = guide(x, t, context).mean, inner(x, t, context).mean
        return (own - wanted).square().mean(), (before - wanted).square().mean()

    for _ in range(150):
        optimiser.zero_grad()
        loss, _ = error()
        loss.backward()
        optimiser.step()
    reached, before = error()
    assert float(reached.detach()) < 0.2 * float(before)
    assert all(p.grad is None for p in inner.parameters())
    assert sampled(guide, 4, torch.randn(5, 2), Context(torch.arange(5) % 3)).nfe == 4
    # Plugged into another network with the same blocks.
    other = Guide(3.0, width=16).around(guided_pair()[0])
    other.load_state_dict(guide.learned(), strict=False)
    x, context = torch.randn(4, 2), Context(torch.arange(4) % 3)
    torch.testing.assert_close(other(x, 0.5, context).mean, guide(x, 0.5, context).mean)


def test_a_guide_needs_blocks():
    with pytest.raises(NotOffered, match="names no blocks for a guide"):
        Guide().around(NetworkDenoiser(nn.Linear(2, 2), paths.rectified_flow(), "flow"))
    with pytest.raises(NotOffered, match="closed form"):
        Guide().around(GaussianData(paths.rectified_flow()))
    with pytest.raises(UserError, match="whole number"):
        Guide(width=0)
