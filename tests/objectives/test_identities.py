"""The three identities of flow maps at exact maps, to 1e-9: of a Gaussian, of a mixture, with an anchor, of tokens.

With `y = (x - beta a) / alpha` and k = sigma / alpha all Gaussian paths have the same trajectories,
`d(y / k) = D(y, k) d(1 / k)`, D the mean of x0 given `x0 + k eps = y`; a path says where on them t and r are.
"""

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.exact import GaussianMixtureTask, MarkovTextTask
from omnidistill.objectives import FlowMap
from omnidistill.objectives.identities import arrived, eulerian, two_jumps, with_rate
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import PointPosterior, SimplexPosterior
from omnidistill.random import generator
from omnidistill.times import Uniform

COUNT = 6
BOUND = 1e-9


def collocation(nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre nodes on [-1, 1], their weights, and the matrix of integrals from -1 to each of them."""
    s, weights = legendre.leggauss(nodes)
    values = legendre.legvander(s, nodes)
    degree = np.arange(1, nodes)
    integrals = (values[:, 2:] - values[:, :-2]) / (2 * degree + 1)
    integrals = np.concatenate(((s + 1)[:, None], integrals), 1)
    onto = (values[:, :-1] * weights[:, None]).T * (np.arange(nodes)[:, None] + 0.5)
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in (s, weights, integrals @ onto))


NODES, WEIGHTS, INTEGRALS = collocation(96)


class Law:
    """A law of x0 by its posterior mean, `mean(y, k)` of y shaped [nodes b ...], and samples."""

    def belief(self, psi: Tensor, error: Tensor):
        return PointPosterior((1.0 + error) * psi)

    def psi(self, y: Tensor, k: Tensor, end: Tensor) -> Tensor:
        """The mean of D along the trajectory from k to `end` in 1 / k. The trajectory is the fixed point of
        `y / k = y_t / k_t + int D d(1 / k)` at nodes even in log k, on all of it at once."""
        s, weights = (a.reshape(a.shape + (1,) * y.ndim) for a in (NODES, WEIGHTS))
        width = 0.5 * (end / k).log()
        there = k * (width * (1.0 + s)).exp()
        found = self.mean(y.expand_as(there * y), there)
        for _ in range(40):
            way = torch.tensordot(INTEGRALS, found / there, 1)
            found = self.mean(there * (y / k - width * way), there)
        return (weights * found / there).sum(0) / (weights / there).sum(0)


class Normal(Law):
    """`N(0.7, 0.4^2)` in each coordinate."""

    def mean(self, y: Tensor, k: Tensor) -> Tensor:
        return 0.7 + 0.16 / (0.16 + k**2) * (y - 0.7)

    def sample(self, g: torch.Generator) -> Tensor:
        return 0.7 + 0.4 * torch.randn(COUNT, 3, generator=g, dtype=torch.float64)


class Mixed(Law):
    """Two Gaussians of unequal weight that overlap. Their responsibilities as one sigmoid: a derivative forwards
    through `Mixture.posterior_mean` costs twenty times as much, and the two are compared below."""

    task = GaussianMixtureTask([[1.0, 0.0, 0.0], [-1.0, 0.5, 0.3]], 0.6, [0.6, 0.4])

    def mean(self, y: Tensor, k: Tensor) -> Tensor:
        (one, two), (share, rest) = self.task.mixture.means, self.task.mixture.weights
        variance = self.task.mixture.std**2
        middle = (y - 0.5 * (one + two)) @ (one - two)
        odds = (share / rest).log() + middle.unsqueeze(-1) / (variance + k**2)
        centre = two + odds.sigmoid() * (one - two)
        return centre + variance / (variance + k**2) * (y - centre)

    def sample(self, g: torch.Generator) -> Tensor:
        return self.task.batch(COUNT, g).x0.double()


class Tokens(Law):
    """Three tokens of three kinds that depend on each other, as one-hots: `p(s | y) ~ p(s) exp(sum_i y_i,s_i / k^2)`
    of the 27 texts s, and of these the marginals."""

    task = MarkovTextTask(vocab=3, length=3, path="onehot")

    def __init__(self) -> None:
        texts = torch.cartesian_prod(*[torch.arange(3)] * 3)
        chain = self.task.chain
        steps = [chain.transition[texts[:, i], texts[:, i + 1]] for i in (0, 1)]
        self.log_p = (chain.initial[texts[:, 0]] * steps[0] * steps[1]).log()
        self.texts = torch.nn.functional.one_hot(texts, 3).double().flatten(1)

    def belief(self, psi: Tensor, error: Tensor):
        return SimplexPosterior((1.0 + error) * SimplexPosterior.of(psi).logits)

    def mean(self, y: Tensor, k: Tensor) -> Tensor:
        likely = (self.log_p + (y / k**2).flatten(-2) @ self.texts.T).softmax(-1)
        return (likely @ self.texts).unflatten(-1, (3, 3))

    def sample(self, g: torch.Generator) -> Tensor:
        return self.task.batch(COUNT, g).x0.double()


class Exact(Denoiser):
    """The exact psi of a law on any Gaussian path; times `1 + error`, of tokens their logits."""

    wants_target = True

    def __init__(self, path, law: Law, error: float = 0.0) -> None:
        super().__init__(path)
        self.law = law
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64))

    def belief(self, x_t, t, context, target_time):
        there = (t, t if target_time is None else target_time)
        (alpha, beta, sigma), (alpha_r, _, sigma_r) = (
            (per_sample(c.expand(len(x_t)), x_t) for c in self.path.coefficients(as_time(u, x_t)))
            for u in there
        )
        y = (x_t - beta * (0.0 if context.anchor is None else context.anchor)) / alpha
        return self.law.belief(self.law.psi(y, sigma / alpha, sigma_r / alpha_r), self.error)


def test_the_maps_are_those_of_known_trajectories_and_denoisers() -> None:
    path, g = paths.rectified_flow(), generator("maps")
    x, t = Mixed().sample(g), torch.full((COUNT,), 0.6, dtype=torch.float64)
    told = Exact(path, Mixed())(x, t, target_time=t)
    torch.testing.assert_close(told.mean, Mixed.task.exact_teacher()(x, t).mean, rtol=0, atol=1e-14)
    law, teacher = Tokens(), Tokens.task.exact_teacher()
    x = law.task.path.corrupt(law.sample(g), t, g=g)
    exact = Exact(law.task.path, law)(x, t, target_time=t)
    torch.testing.assert_close(exact.probs, teacher(x, t).probs, rtol=0, atol=1e-14)
    k, end = torch.tensor([[3.0], [0.02]], dtype=torch.float64)
    kept = ((0.16 + end**2) / (0.16 + k**2)).sqrt()  # of `y - m` along a Gaussian's trajectory
    y = Normal().sample(g)
    landed = 0.7 + kept * (y - 0.7)
    psi = (landed - end / k * y) / (1.0 - end / k)
    torch.testing.assert_close(Normal().psi(y, k.expand(COUNT, 1), end), psi, rtol=0, atol=1e-12)


def target_of(identity: str, student: Exact, x: Tensor, t: Tensor, r: Tensor, context: Context):
    """psi and what the identity says that it is."""
    path, g = student.path, generator("identity")
    teacher = Exact(path, student.law)
    if identity == "semigroup":
        return student(x, t, context, target_time=r), two_jumps(student, x, t, r, context, g)
    if identity == "lagrangian":
        psi, rate = with_rate(student, x, t, r, context, None, "forward")
        return psi, arrived(student, psi, rate, x, t, r, context, g)
    goal = teacher(x, t, context)
    velocity = path.velocity(x, goal.sample(), t, context)
    psi, rate = with_rate(student, x, t, r, context, velocity.detach(), "forward")
    return psi, psi.replace(psi.parameters - eulerian(path, psi, goal, goal, rate, t, r, 1.0))


def apart(identity: str, path, law: Law, error: float = 0.0) -> float:
    """The largest difference between psi and the identity's right-hand side."""
    g = generator("states", identity)
    x0, share = law.sample(g), torch.rand(2, COUNT, generator=g, dtype=torch.float64)
    t, r = 0.5 + 0.4 * share[0], 0.1 + 0.3 * share[1]
    anchor = torch.randn(x0.shape, generator=g, dtype=torch.float64)
    context = Context(anchor=anchor if "anchored" in path.offers else None)
    x = path.corrupt(x0, t, context, g=g)
    psi, target = target_of(identity, Exact(path, law, error), x, t, r, context)
    return float((psi.sample() - target.sample()).abs().max().detach())


PATHS = ("rectified_flow", "vp_cosine", "trigflow", "edm", "vp_linear")
ANCHORED = ("ouve", "grad_tts", "brownian_bridge", "residual_shift")
CASES = [
    *((name, law) for law in (Normal(), Mixed()) for name in PATHS),
    *((name, Mixed()) for name in ANCHORED),
    ("onehot", Tokens()),
]


@pytest.mark.parametrize("identity", ["semigroup", "lagrangian", "eulerian"])
@pytest.mark.parametrize(
    "name, law", CASES, ids=lambda value: value if isinstance(value, str) else type(value).__name__
)
def test_the_exact_map_keeps_every_identity_and_another_one_does_not(
    name: str, law: Law, identity: str
) -> None:
    path = law.task.path if name == "onehot" else getattr(paths, name)()
    assert apart(identity, path, law) < BOUND
    assert apart(identity, path, law, error=0.05) > 1e-4


TOKENS = (
    {"identity": "lagrangian"},
    {"identity": "eulerian"},
    {"identity": "eulerian", "along": "student", "warm_up": 2},
    {"identity": "eulerian", "to_data": 0.5, "normalise": 1.0},
)


@pytest.mark.parametrize("options", TOKENS, ids=str)
def test_on_the_simplex_the_objective_is_at_rest_at_the_exact_map_and_leads_there(closed, options) -> None:
    law = Tokens()
    path, objective = law.task.path, FlowMap(times=Uniform(0.2, 0.9), divergence="forward", **options)

    def found(error: float):
        student = Exact(path, law, error)
        models = {"teacher": law.task.exact_teacher(), "student": student}
        batch = Batch(law.sample(generator("tokens")))
        losses = objective.losses("student", closed.step("student", models, batch, update=2))
        return float(losses.terms["flow_map"].detach()), closed.gradient(losses, student.error)[0]

    assert abs(found(0.0)[0]) < 1e-15
    for error in (0.1, -0.1):
        loss, gradient = found(error)
        assert loss > 1e-5 and float(gradient) * error > 0


def test_a_tangent_of_any_length_leaves_a_point_of_the_simplex() -> None:
    """Nothing is lost where a derivative alone would lead out of it."""
    law, g = Tokens(), generator("long")
    psi, goal = (
        SimplexPosterior(torch.randn(COUNT, 3, 3, generator=g, dtype=torch.float64)) for _ in range(2)
    )
    t, r = (torch.full((COUNT,), u, dtype=torch.float64) for u in (0.8, 0.0))
    rate = 50.0 * torch.randn(COUNT, 3, 3, generator=g, dtype=torch.float64)
    target = psi.replace(psi.parameters - eulerian(law.task.path, psi, goal, goal, rate, t, r, 1.0))
    assert bool(target.parameters.isfinite().all()) and bool((target.probs > 0).all())
    plain = psi.probs * (1.0 - 0.8 * (rate - (psi.probs * rate).sum(-1, keepdim=True)))
    assert bool((plain < 0).any())
