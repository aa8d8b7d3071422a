"""Consistency at its fixed points: exact maps of a Gaussian, exact posteriors of a Markov chain, two steps as one."""

from dataclasses import replace

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, Guided, NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import ChainDenoiser, GaussianMixtureTask, MarkovTextTask
from omnidistill.exact.chain import MarkovChain
from omnidistill.objectives import Consistency, Gap, Nodes
from omnidistill.objectives.step import reduce
from omnidistill.paths import grid
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator

MEAN, SPREAD = 0.4, 0.6  # of the Gaussian data


class Exact(Denoiser):
    """The consistency function `f(x, t) = m + c (x - alpha m) / S`, S^2 = alpha^2 c^2 + sigma^2, times (1 + wrong)."""

    def __init__(self, path, wrong=0.0):
        super().__init__(path)
        self.wrong = torch.nn.Parameter(torch.tensor(wrong, dtype=torch.float64))

    def belief(self, x_t, t, context, target_time):
        alpha, _, sigma = self.path.coefficients(torch.as_tensor(t))
        scale = (alpha**2 * SPREAD**2 + sigma**2).sqrt()
        alpha, scale = (c.reshape(-1, *[1] * (x_t.ndim - 1)) for c in (alpha, scale))
        return PointPosterior(MEAN + (1 + self.wrong) * SPREAD * (x_t - alpha * MEAN) / scale)


class Between:
    """Always the pair (t, t - h)."""

    nodes = 1

    def __init__(self, t, h):
        self.t, self.h = t, h

    def __call__(self, count, path, g, progress=0.0, round_=0):
        t = torch.full((count,), self.t, dtype=torch.float64)
        return t, t - self.h


def gaussian_data(count, seed=0, dim=1):
    noise = torch.randn(count, dim, generator=generator("data", seed), dtype=torch.float64)
    return Batch(MEAN + SPREAD * noise)


def order(errors):
    """Convergence orders between successive halvings."""
    e = torch.tensor(errors, dtype=torch.float64)
    return torch.log2(e[:-1] / e[1:])


# --- points: the exact map is the fixed point ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rectified_flow", "trigflow", "edm", "vp_cosine"])
@pytest.mark.parametrize("second, expected", [(False, 2.0), (True, 3.0)])
def test_local_error_of_a_teacher_step(closed, name, second, expected):
    """Consistency distillation at the exact map: the target misses f(x_t) by O(h^2) with one Euler step of the
    teacher and by O(h^3) with the trapezoid, so the fixed point is the exact map as the grid is refined."""
    path = getattr(paths, name)()
    teacher, exact = closed.gaussian(MEAN, SPREAD**2, path), Exact(path)
    t = float(path.time_from_noise_level(1.2))
    errors = []
    for h in (0.04, 0.02, 0.01, 0.005):
        models = {"teacher": teacher, "student": exact, "target": exact}
        objective = Consistency(second_order=second, jumps=Between(t, h * t))
        step = closed.step("student", models, gaussian_data(64))
        pair = objective._pair(step)
        errors.append((exact(pair.x_r, pair.r).mean - exact(pair.x_t, pair.t).mean).abs().mean().item())
    assert (order(errors)[-1] - expected).abs() < 0.15
    # Compared with what the step itself does, the error is small: the map moved by O(h).
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("second", [False, True])
def test_distillation_leaves_the_exact_map_alone(closed, second):
    """At the exact map the gradient of the loss vanishes with h; at another map of the family it does not, and it
    points back."""
    path = paths.rectified_flow()
    gradients = {}
    for wrong in (0.0, 0.1, -0.1):
        for h in (0.1, 0.05):
            exact = Exact(path, wrong)
            # A target nearer to the data than the student: the exact one, as an average would be after long training.
            models = {
                "teacher": closed.gaussian(MEAN, SPREAD**2, path),
                "student": exact,
                "target": Exact(path),
            }
            objective = Consistency(second_order=second, divergence="l2", jumps=Between(0.6, h))
            losses = objective.losses("student", closed.step("student", models, gaussian_data(4096)))
            gradients[wrong, h] = float(closed.gradient(losses, exact.wrong)[0])
    assert abs(gradients[0.0, 0.05]) < 0.05 * abs(gradients[0.1, 0.05])
    assert abs(gradients[0.0, 0.05] / gradients[0.0, 0.1]) < 0.3  # faster than h
    assert gradients[0.1, 0.05] > 0 > gradients[-0.1, 0.05]


def test_training_pairs_are_biased_by_the_square_of_the_jump(closed):
    """Consistency training: over x0 given x_t the target's mean misses f(x_t) by O(h^2), the order of one Euler step,
    while a single pair misses by O(h) noise."""
    path, t = paths.rectified_flow(), 0.6
    exact = Exact(path)
    posterior = closed.gaussian(MEAN, SPREAD**2, path)
    x_t = torch.tensor([[1.3]], dtype=torch.float64)
    alpha, _, sigma = path.coefficients(t)
    spread = (SPREAD**2 * sigma**2 / (alpha**2 * SPREAD**2 + sigma**2)).sqrt()
    # Gauss-Hermite nodes of q(x0 | x_t), so the expectation is exact (the map is affine in x0).
    import numpy as np

    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(20))
    x0 = posterior(x_t, t).mean + spread * nodes[:, None]
    weights = weights / weights.sum()
    bias, noise = [], []
    for h in (0.1, 0.05, 0.025, 0.0125):
        x_r = path.bridge(x_t.expand_as(x0), x0, t, t - h)
        target = exact(x_r, t - h).mean[:, 0]
        mean = (weights * target).sum()
        bias.append((mean - exact(x_t, t).mean).abs().item())
        noise.append((weights * (target - mean) ** 2).sum().sqrt().item())
    assert (order(bias) - 2.0).abs().max() < 0.2
    assert (order(noise) - 1.0).abs().max() < 0.2


def test_bridge_pairs_share_their_noise(closed):
    """x_t and x_r are one x0 and one eps at two levels (Song et al. 2023, sec. 5)."""
    for path in (paths.rectified_flow(), paths.edm(), paths.vp_linear()):
        models = {"student": Exact(path)}
        step = closed.step("student", models, gaussian_data(16))
        pair = Consistency(pairs="bridge", target="self", jumps=Nodes(8))._pair(step)
        (a, _, s), (a_r, _, s_r) = ((c[:, None] for c in path.coefficients(u)) for u in (pair.t, pair.r))
        eps = (pair.x_t - a * step.x0) / s
        torch.testing.assert_close(pair.x_r, a_r * step.x0 + s_r * eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairs", ["bridge", "teacher", "independent"])
def test_students_are_trained_at_the_temperature_at_which_they_are_asked(closed, pairs):
    """At temperature T the state is `alpha x0 + T sigma eps`, with the eps of temperature 1."""
    states = []
    for temperature in (1.0, 0.25, 0.0):
        path = paths.rectified_flow(temperature=temperature)
        models = {"student": Exact(path), "target": Exact(path), "teacher": Exact(path)}
        step = closed.step("student", models, gaussian_data(16))
        pair = Consistency(pairs=pairs, jumps=Between(0.8, 0.3))._pair(step)
        states.append(pair.x_t - 0.2 * step.x0)
    hot, cool, cold = states
    torch.testing.assert_close(cool, 0.25 * hot, rtol=1e-9, atol=1e-12)
    assert float(hot.abs().mean()) > 0.3 and float(cold.abs().max()) < 1e-12


@pytest.mark.parametrize("kind", ["x0", "v", "flow", "edm", "trigflow", "consistency"])
@pytest.mark.parametrize("target", ["self", "average", "teacher"])
def test_at_the_end_the_target_is_the_data(closed, kind, target):
    """The boundary f(x, 0) = x: a pair that ends at r = 0 is matched with x_r itself, whatever the network says."""
    path = paths.rectified_flow()
    wild = NetworkDenoiser(closed.Affine(3.0, -2.0), path, kind)
    models = {"teacher": wild, "student": wild, "target": wild}
    objective = Consistency(pairs="bridge", target=target, jumps=Nodes(1))
    step = closed.step("student", models, gaussian_data(8))
    pair = objective._pair(step)
    assert bool((pair.r == 0).all())
    assert torch.equal(objective._target(step, pair).mean, pair.x_r)
    torch.testing.assert_close(pair.x_r, step.x0)


def test_teacher_steps_divide_the_jump(closed):
    """`teacher_steps=n` is n Euler steps uniform in t between t and r."""
    path = paths.rectified_flow()
    teacher = closed.gaussian(MEAN, SPREAD**2, path)
    models = {"teacher": teacher, "student": Exact(path), "target": Exact(path)}
    step = closed.step("student", models, gaussian_data(5))
    pair = Consistency(teacher_steps=3, jumps=Between(0.9, 0.6))._pair(step)
    x = pair.x_t
    for t, s in ((0.9, 0.7), (0.7, 0.5), (0.5, 0.3)):
        x = x + (s - t) * (x - teacher(x, t).mean) / t  # Euler on the rectified flow: v = (x - D) / t
    torch.testing.assert_close(pair.x_r, x, rtol=1e-9, atol=1e-12)


def test_stored_pairs_are_neighbours_of_one_trajectory(closed):
    """They need no data and carry the contexts they were made under, not those of the batch."""
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    count, nodes = 12, 4
    times = grid(task.path, nodes)
    labels = torch.arange(count) % 2
    states = torch.arange(count, dtype=torch.float64)[:, None] + 100 * torch.arange(nodes + 1)
    bank = {"states": states.unsqueeze(-1), "times": times, "context": Context(labels)}
    seen = []

    class Watch(Exact):
        def belief(self, x_t, t, context, target_time):
            seen.append((x_t, t, context.condition))
            return super().belief(x_t, t, context, target_time)

    student = Watch(task.path)
    objective = Consistency(pairs="stored", target="self", jumps=Nodes(nodes))
    assert "data" not in objective.needs and objective.bank.states and objective.bank.steps == nodes
    batch = Batch(None, Context(torch.full((count,), 7)), count)
    like = torch.empty(count, 1, dtype=torch.float64)
    objective.losses("student", closed.step("student", {"student": student}, batch, like, bank=bank))
    (x_r, r, near), (x_t, t, far) = seen  # the target is asked first
    assert torch.equal(near, labels) and torch.equal(far, labels)
    rows = torch.arange(count)
    node = ((x_t[:, 0] - rows) / 100).long()
    assert torch.equal(x_t[:, 0], rows + 100.0 * node) and torch.equal(x_r[:, 0], rows + 100.0 * (node + 1))
    assert torch.equal(t, times[node]) and torch.equal(r, times[node + 1])
    assert len(node.unique()) > 1
    with pytest.raises(UserError, match=r"step\.bank"):
        objective.losses("student", closed.step("student", {"student": student}, batch, like))


def test_a_range_of_guidance_is_told_and_used(closed):
    """One scale per sample in the range, the same for the teacher's step and for what the student is told."""
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    told = []

    class Hears(Exact):
        wants_guidance = True

        def belief(self, x_t, t, context, target_time):
            told.append(context.guidance)
            return super().belief(x_t, t, context, target_time)

    teacher = task.exact_teacher()
    models = {"teacher": teacher, "student": Hears(task.path), "target": Exact(task.path)}
    batch = task.batch(64, generator(3))
    batch = replace(batch, x0=batch.x0.double())
    objective = Consistency(guidance=(1.5, 4.0), jumps=Nodes(6))
    step = closed.step("student", models, batch, null=task.null)
    objective.losses("student", step)
    (scale,) = told
    assert scale.shape == (64,) and scale.min() >= 1.5 and scale.max() <= 4.0 and scale.std() > 0.3
    # The same draws again: the teacher's step is the one under these scales.
    again = closed.step("student", models, batch, null=task.null)
    again.draw_guidance(1.5, 4.0)
    assert torch.equal(again.context.guidance, scale)
    pair = objective._pair(again)
    belief = Guided(teacher, None, task.null)(pair.x_t, pair.t, again.context)
    torch.testing.assert_close(pair.x_r, task.path.bridge(pair.x_t, belief.mean, pair.t, pair.r))
    plain = teacher(pair.x_t, pair.t, Context(batch.context.condition))
    assert not torch.allclose(plain.mean, belief.mean, atol=1e-2)


def test_gap_weight_and_named_weights(closed):
    path = paths.rectified_flow()
    models = {
        "teacher": closed.gaussian(MEAN, SPREAD**2, path),
        "student": Exact(path, 0.2),
        "target": Exact(path),
    }
    values = {}
    for name in ("uniform", "gap", "snr", "truncated_snr"):
        objective = Consistency(weighting=name, jumps=Between(0.75, 0.2))
        step = closed.step("student", models, gaussian_data(8))
        values[name] = float(objective.losses("student", step).terms["consistency"].detach())
    assert values["gap"] == pytest.approx(values["uniform"] / 0.2)
    assert values["snr"] == pytest.approx(values["uniform"] * (0.25 / 0.75) ** 2)
    assert values["truncated_snr"] == pytest.approx(values["uniform"])


# --- two jumps as one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rectified_flow", "trigflow", "edm", "vp_cosine", "vp_linear"])
def test_progressive_distillation_target_inverts_two_ddim_steps(closed, name):
    """One DDIM step with the target lands where two of the teacher do; at s = 0 too, where the target is the end."""
    path = getattr(paths, name)()
    task = GaussianMixtureTask([[-1.0, 0.3], [0.8, -0.5]], 0.3, path=path)
    teacher = task.exact_teacher()
    models = {"teacher": teacher, "student": Exact(path)}
    batch = Batch(task.batch(64, generator(1)).x0.double())
    objective = Consistency(target="jump", jumps=Nodes(4), weighting="truncated_snr")
    step = closed.step("student", models, batch)
    pair = objective._pair(step)
    assert bool((pair.s == 0).any()) and bool((pair.s > 0).any())
    target = objective._target(step, pair).mean
    middle = path.bridge(pair.x_t, teacher(pair.x_t, pair.t).mean, pair.t, pair.r)
    torch.testing.assert_close(pair.x_r, middle, rtol=0, atol=1e-9)
    end = path.bridge(middle, teacher(middle, pair.r).mean, pair.r, pair.s)
    torch.testing.assert_close(path.bridge(pair.x_t, target, pair.t, pair.s), end, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target[pair.s == 0], end[pair.s == 0], rtol=0, atol=1e-9)


def test_sdtt_target_is_the_belief_that_revealed_a_token(closed):
    """A token of x_r that is shown takes the first belief, one still masked the second (SDTT, alg. 1)."""
    task = MarkovTextTask(vocab=5, length=9)
    teacher = ChainDenoiser(task.chain, task.path, torch.float64)
    objective = Consistency(target="jump", jumps=Nodes(3), divergence="backward")
    student = closed.Float64Logits(closed.RaggedNet(vocab=5), task.path, "logits")
    batch = task.batch(32, generator(0))
    step = closed.step("student", {"teacher": teacher, "student": student}, batch)
    pair = objective._pair(step)
    target = objective._target(step, pair).log_probs
    first, second = teacher(pair.x_t, pair.t).log_probs, teacher(pair.x_r, pair.r).log_probs
    hidden = pair.x_r == 5
    revealed = (pair.x_t == 5) & ~hidden
    assert revealed.any() and hidden.any()
    torch.testing.assert_close(target[revealed], first[revealed], rtol=0, atol=1e-12)
    torch.testing.assert_close(target[hidden], second[hidden], rtol=0, atol=1e-12)
    assert not torch.allclose(first[hidden], second[hidden], atol=1e-2)
    # The loss is KL(student || target) over what x_t masks, divided by the length.
    again = closed.step("student", {"teacher": teacher, "student": student}, batch)
    loss = objective.losses("student", again).terms["consistency"]
    q = student(pair.x_t, pair.t).log_probs
    kl = (q.exp() * (q - target)).sum(-1)
    expected = torch.where(pair.x_t == 5, kl, 0.0).sum(1).div(9).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


def test_rounds_halve_the_grid_and_ask_the_mentor(closed):
    """Round 0 follows the teacher on the full grid, later ones the mentor on grids of half as many steps."""
    path = paths.rectified_flow()
    models = {"teacher": Exact(path), "mentor": Exact(path), "student": Exact(path, 0.1)}
    objective = Consistency(target="jump", jumps=Nodes(8), rounds=3)
    assert objective.roles["mentor"].refresh == 2 and not objective.roles["mentor"].trained
    for update in range(9):
        for model in models.values():
            model.calls = 0
        step = closed.step("student", models, gaussian_data(64), update=update, total=9)
        pair = objective._pair(step)
        objective._target(step, pair)
        round_ = update // 3
        size = 8 >> round_
        assert bool(torch.isin(pair.t, grid(path, size)).all())
        torch.testing.assert_close(pair.t - pair.s, torch.full((64,), 1 / size, dtype=torch.float64))
        torch.testing.assert_close(pair.t - pair.r, pair.r - pair.s)
        assert (models["teacher"].calls, models["mentor"].calls) == ((2, 0) if round_ == 0 else (0, 2))


# --- tokens: the posterior is a martingale over the bridge --------------------------------------------------------


def bridges(path, x_t, x0, t, s):
    """Every x_s that the bridge may visit, Long[m n], and its probability given x_t and x0."""
    reveal = float((path.alpha(s) - path.alpha(t)) / (1 - path.alpha(t)))
    states = [(x_t.clone(), 1.0)]
    for i in range(len(x_t)):
        if x_t[i] != path.mask_id:
            continue
        more = []
        for state, p in states:
            shown = state.clone()
            shown[i] = x0[i]
            more += [(state, p * (1 - reveal)), (shown, p * reveal)]
        states = more
    return states


def chain():
    transition = torch.tensor([[0.7, 0.2, 0.1], [0.15, 0.25, 0.6], [0.3, 0.5, 0.2]], dtype=torch.float64)
    return MarkovChain.of(transition)


def test_exact_beliefs_are_a_martingale_and_cross_entropy_keeps_them(closed):
    """Enumerated over all x0 given x_t and all x_s of the bridge: E D(x_s) = D(x_t) to rounding. Hence the gradient
    of the cross-entropy at the exact student is zero, and that of the backward KL is not: it sharpens."""
    law, path = chain(), paths.MaskedPath(3)
    teacher = ChainDenoiser(law, path, torch.float64)
    x_t = torch.tensor([3, 1, 3, 3])
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (0.8, 0.45))
    whole = torch.cartesian_prod(*[torch.arange(3)] * 4)
    fits = whole[whole[:, 1] == 1]
    weight = law.log_likelihood(fits).softmax(0)  # p(x0 | x_t): the mask's place tells nothing
    rows, probs = [], []
    for x0, w in zip(fits, weight, strict=True):
        for x_s, p in bridges(path, x_t, x0, t, s):
            rows.append(x_s)
            probs.append(float(w) * p)
    x_s, p = torch.stack(rows), torch.tensor(probs, dtype=torch.float64)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)
    target = teacher(x_s, s)
    here = teacher(x_t[None], t)
    masked = x_t == 3
    mean = (p[:, None, None] * target.probs).sum(0)
    torch.testing.assert_close(mean[masked], here.probs[0, masked], rtol=0, atol=1e-12)
    # A belief that moved would be noticed: single targets are far from the mean.
    assert (target.probs[:, masked] - mean[masked]).abs().max() > 0.1

    gradients = {}
    for kind in ("nll", "forward", "backward", "jsd"):
        logits = here.parameters.detach().clone().requires_grad_()  # free logits for this one state
        error = here.replace(logits.expand(len(p), -1, -1)).divergence(target, kind)
        loss = reduce(error, p * len(p), None, path.unresolved(x_t[None], t).expand(len(p), -1))
        (gradients[kind],) = torch.autograd.grad(loss, logits)
    assert gradients["nll"].abs().max() < 1e-12 and gradients["forward"].abs().max() < 1e-12
    assert gradients["backward"].abs().max() > 1e-3
    # Downhill from there the entropy falls.
    colder = here.replace(here.parameters - 0.1 * gradients["backward"])

    def entropy(belief):
        return -(belief.probs * belief.log_probs).sum(-1)[0, masked].sum()

    assert float(entropy(colder)) < float(entropy(here))


def test_the_objective_keeps_an_exact_student_within_noise(closed):
    """The same through `losses`: free logits for every state of a short chain. The gradient of
    the cross-entropy at the exact table is zero within Monte-Carlo error; at another table it is not."""
    law, path = chain(), paths.MaskedPath(3)
    teacher = ChainDenoiser(law, path, torch.float64)
    states = torch.cartesian_prod(*[torch.arange(4)] * 3).flip(1)  # index = sum x_i 4^i
    exact = teacher(states, 0.5).parameters
    x0 = law.sample(20_000, 3, generator(0))
    found = {}
    for name, table in (("exact", exact), ("flat", torch.zeros_like(exact))):
        for kind in ("nll", "backward"):
            student = closed.Float64Logits(closed.Table(table.clone(), 3), path, "logits")
            objective = Consistency(pairs="bridge", target="teacher", divergence=kind, jumps=Gap(largest=0.5))
            step = closed.step("student", {"teacher": teacher, "student": student}, Batch(x0))
            losses = objective.losses("student", step)
            (gradient,) = closed.gradient(losses, student.network.logits)
            found[name, kind] = float(gradient.norm())
    assert found["exact", "nll"] < 0.1 * found["flat", "nll"]
    assert found["exact", "backward"] > 3 * found["exact", "nll"]


def test_resolved_tokens_are_copied(closed):
    """The discrete boundary: at r = 0 everything is shown and the target is x_r, which is x0."""
    task = MarkovTextTask(vocab=5, length=8)
    student = closed.Float64Logits(closed.RaggedNet(vocab=5), task.path, "logits")
    step = closed.step("student", {"student": student}, task.batch(6, generator(2)))
    objective = Consistency(pairs="bridge", target="self", jumps=Nodes(1))
    pair = objective._pair(step)
    assert torch.equal(pair.x_r, step.x0)
    assert torch.equal(objective._target(step, pair).probs.argmax(-1), step.x0)
    assert objective._target(step, pair).probs.amax(-1).min() == 1.0


# --- the rest -----------------------------------------------------------------------------------------------------


def test_no_gradient_through_the_target(closed):
    """With `self` the student appears twice; the gradient is that of its first appearance alone."""
    path = paths.rectified_flow()
    student = Exact(path, 0.3)
    objective = Consistency(pairs="bridge", target="self", divergence="l2", jumps=Between(0.7, 0.3))
    step = closed.step("student", {"student": student}, gaussian_data(32))
    (gradient,) = closed.gradient(objective.losses("student", step), student.wrong)
    step = closed.step("student", {"student": student}, gaussian_data(32))
    pair = objective._pair(step)
    target = student(pair.x_r, pair.r).mean.detach()
    loss = 0.5 * (student(pair.x_t, pair.t).mean - target).square().mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, student.wrong)[0])


def test_a_student_told_the_end_of_its_jump_is_trained_for_it(closed):
    """With a target time the sampler tells the student where it will jump; so does training for `jump`."""
    asked = []

    class Told(Exact):
        wants_target = True

        def belief(self, x_t, t, context, target_time):
            asked.append(target_time)
            return super().belief(x_t, t, context, target_time)

    path = paths.rectified_flow()
    models = {"teacher": Exact(path), "mentor": Told(path), "student": Told(path)}
    objective = Consistency(target="jump", jumps=Nodes(4), rounds=2)
    for update, calls in ((0, 1), (5, 3)):
        asked.clear()
        step = closed.step("student", models, gaussian_data(16), update=update, total=10)
        objective.losses("student", step)
        again = closed.step("student", models, gaussian_data(16), update=update, total=10)
        count = len(asked)
        pair = objective._pair(again)
        assert count == calls
        assert torch.equal(asked[count - 1], pair.s)
        if update:  # the mentor is a student too: asked for r first, then for s
            assert torch.equal(asked[0], pair.r) and torch.equal(asked[1], pair.s)


@pytest.mark.parametrize("kind", ["points", "tokens"])
@pytest.mark.parametrize("options", [
    {"pairs": "bridge", "target": "self"},
    {"pairs": "bridge", "target": "average"},
    {"pairs": "teacher", "target": "average", "second_order": True},
    {"pairs": "teacher", "target": "teacher", "teacher_steps": 2},
    {"pairs": "teacher", "target": "jump"},
    {"pairs": "bridge", "target": "teacher", "divergence": "whole"},
])  # fmt: skip
def test_padding_changes_neither_loss_nor_gradient(closed, kind, options):
    if options.get("divergence") == "whole":
        options = {**options, "divergence": "huber" if kind == "points" else "jsd"}
    closed.check_padding(Consistency(jumps=Nodes(4), **options), kind)


@pytest.mark.parametrize("options", [
    {"pairs": "bridge", "target": "self"},
    {"pairs": "bridge", "target": "average"},
    {"pairs": "teacher", "target": "average"},
    {"pairs": "teacher", "target": "average", "second_order": True, "teacher_steps": 2},
    {"pairs": "teacher", "target": "teacher"},
    {"pairs": "teacher", "target": "average", "guidance": 2.0},
    {"pairs": "teacher", "target": "average", "guidance": 0.0},
    {"pairs": "teacher", "target": "teacher", "guidance": (1.0, 3.0)},
    {"pairs": "teacher", "target": "jump", "guidance": 2.0},
])  # fmt: skip
def test_calls_are_those_declared(closed, options):
    task = GaussianMixtureTask([[-1.0], [1.0]], 0.5, conditional=True)
    models = {"teacher": task.exact_teacher(), "student": Exact(task.path), "target": Exact(task.path)}
    models["student"].wants_guidance = True
    objective = Consistency(jumps=Nodes(4), **options)
    objective.losses("student", closed.step("student", models, task.batch(8, generator(0)), null=task.null))
    calls = {name: model.calls for name, model in models.items() if model.calls}
    assert calls == objective.cost("student")
    assert objective.losses("fake_score", closed.step("student", models, gaussian_data(2))) is None


@pytest.mark.parametrize("options, message", [
    ({"pairs": "bridges"}, "did you mean bridge"),
    ({"target": "averag"}, "did you mean average"),
    ({"target": "jump", "pairs": "bridge"}, "pairs must be 'teacher'"),
    ({"rounds": 2}, "rounds=2 needs target 'jump'"),
    ({"teacher_steps": 0}, "must be >= 1"),
])  # fmt: skip
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Consistency(**options)
    assert "\n" not in str(caught.value)
