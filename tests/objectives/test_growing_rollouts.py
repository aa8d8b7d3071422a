"""Rollouts of a student that grows, on a Gaussian field whose law at every size is known: C, and A C A^T where A takes
means over areas."""

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.networks.unet import UNet
from omnidistill.objectives import Adversarial, Features, Matching, Weighted
from omnidistill.objectives.base import StudentSpec
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.samplers import Growing
from omnidistill.samplers.resize import resized, resizing
from omnidistill.tasks import Task
from omnidistill.testing import check_objective
from omnidistill.times import Uniform

F64, FLOW = torch.float64, paths.rectified_flow()
FULL, SHARES = 8, [0.5, 0.75, 1.0]
SIZES = [int(share * FULL) for share in SHARES]
TIMES = FLOW.coefficients(Growing(SHARES).times(NetworkDenoiser(torch.nn.Identity(), FLOW, "x0"), 3))
SPEC = {inputs: StudentSpec(3, Growing(SHARES), inputs) for inputs in ("simulated", "data")}


def area(n: int) -> torch.Tensor:
    return torch.eye(n, dtype=F64) if n == FULL else resizing(FULL, n)


FIELD = torch.exp(-((torch.arange(FULL)[:, None] - torch.arange(FULL)).abs() / 3.0).double())
LAWS = {n: area(n) @ FIELD @ area(n).mT for n in SIZES}


def root(covariance: torch.Tensor, power: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(values**power) @ vectors.mT


def noised(law: torch.Tensor, k: int, n: int) -> torch.Tensor:
    """The law of the state at step k + 1 whose x0 has this law at size n: alpha^2 U law U^T + sigma^2."""
    up = resizing(n, SIZES[k + 1])
    alpha, sigma = TIMES.alpha[k + 1], TIMES.sigma[k + 1]
    return alpha**2 * up @ law @ up.mT + sigma**2 * torch.eye(SIZES[k + 1], dtype=F64)


STATES = [torch.eye(SIZES[0], dtype=F64)]
for k, n in enumerate(SIZES[:-1]):
    STATES.append(noised(LAWS[n], k, n))
WAYS = {n: root(LAWS[n], 0.5) @ root(state, -0.5) for n, state in zip(SIZES, STATES, strict=True)}


class Field(Denoiser):
    """The exact denoiser of N(0, C) at each size."""

    def __init__(self, laws):
        super().__init__(FLOW)
        self.eigen = {n: torch.linalg.eigh(law) for n, law in laws.items()}

    def belief(self, x_t, t, context, target_time):
        values, vectors = self.eigen[x_t.shape[-1]]
        alpha, _, sigma = (torch.as_tensor(c).reshape(-1, 1, 1) for c in self.path.coefficients(t))
        gain = alpha * values / (alpha**2 * values + sigma**2)
        return PointPosterior((x_t @ vectors * gain) @ vectors.mT)


class Student(Denoiser):
    """Linear at each size; with scale 1 its answers have the field's law."""

    def __init__(self, scale):
        super().__init__(FLOW)
        self.scale = torch.nn.Parameter(torch.tensor(scale, dtype=F64))

    def belief(self, x_t, t, context, target_time):
        return PointPosterior(self.scale * x_t @ WAYS[x_t.shape[-1]].mT)

    def laws(self, inputs):
        """Of its answers at each size."""
        found, scale = {}, float(self.scale.detach())
        for k, n in enumerate(SIZES):
            state = STATES[k]
            if k and inputs == "simulated":
                state = noised(found[SIZES[k - 1]], k - 1, SIZES[k - 1])
            found[n] = scale**2 * WAYS[n] @ state @ WAYS[n].mT
        return found


def fields(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, FULL, dtype=F64, generator=generator("field", seed)) @ root(FIELD, 0.5).mT


def covariance(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).mT @ x.flatten(1) / len(x)


@pytest.mark.parametrize("inputs", SPEC)
def test_states_have_the_law_of_what_is_resized_and_noised(inputs):
    """Of a student with the data's law both kinds of input have one law, alpha^2 U A C A^T U^T + sigma^2."""
    data = fields(100_000)
    for k, n in enumerate(SIZES):
        given = data if inputs == "data" else None
        made = Growing(SHARES).rollout(Student(1.0), data, 3, g=generator("walk", k), data=given, k=k)
        torch.testing.assert_close(covariance(made.x_t), STATES[k], rtol=0, atol=0.025)
        torch.testing.assert_close(covariance(made.x0.detach()), LAWS[n], rtol=0, atol=0.025)


@pytest.mark.parametrize("inputs", SPEC)
def test_matching_is_at_rest_at_the_teacher_and_points_home_at_every_size(closed, inputs):
    matching, seen = Matching(times=Uniform(0.1, 0.9), normaliser="none"), {}
    for seed in range(12):
        for scale in (1.0, 1.2, 0.8):
            student = Student(scale)
            models = {"teacher": Field(LAWS), "student": student, "fake_score": Field(student.laws(inputs))}
            batch = Batch(fields(256, seed))
            step = closed.step(
                "student", models, batch, seed=seed, student=SPEC[inputs], structure=generator("k", seed)
            )
            (gradient,) = closed.gradient(matching.losses("student", step), student.scale)
            n = step.rollout.x0.shape[-1]
            # What it is compared with is as large.
            torch.testing.assert_close(step.x0, resized(batch.x0, (n,)))
            assert step.real("data")[0] is step.x0 and step.batch.x0 is step.x0
            seen.setdefault((n, scale), []).append(float(gradient))
    assert {n for n, _ in seen} == set(SIZES)
    for n in SIZES:
        assert max(map(abs, seen[n, 1.0])) < 1e-9 < 1e-2 < min(seen[n, 1.2])
        assert max(seen[n, 0.8]) < -1e-2


def test_samples_of_the_teacher_come_at_the_size_too(closed):
    batch, ends = Batch(None, Context(), 4), fields(4, 1)
    bank = {"states": torch.stack((ends, ends + 1.0), 1), "context": Context()}
    found = set()
    for seed in range(12):
        options = {"student": SPEC["simulated"], "structure": generator("k", seed), "bank": bank}
        step = closed.step("student", {"student": Student(1.0)}, batch, torch.empty_like(ends), **options)
        n = step.rollout.x0.shape[-1]
        torch.testing.assert_close(step.real("teacher")[0], resized(ends + 1.0, (n,)))
        found.add(n)
        with pytest.raises(UserError, match="needs real data"):
            _ = step.x0
    assert found == set(SIZES)


def test_walks_of_other_step_counts_have_sizes_of_the_list(closed):
    """Whole walks are at full size, all others at that of the step that is drawn in the count that is drawn."""
    found: dict[str, set[tuple[int, float]]] = {}
    for inputs in ("simulated", "mixed", "whole"):
        spec = StudentSpec(3, Growing(SHARES), inputs, walks=(1, 2))
        for seed in range(40):
            batch, structure = Batch(fields(4, seed)), generator("k", seed)
            step = closed.step("student", {"student": Student(1.0)}, batch, student=spec, structure=structure)
            made = step.rollout
            assert step.x0.shape == made.x0.shape == made.x_t.shape
            found.setdefault(inputs, set()).add((made.x0.shape[-1], float(made.t[0])))
    assert found["simulated"] == found["mixed"] == {(8, 1.0), (4, 1.0), (8, 0.5)}
    assert found["whole"] == {(8, 1.0), (8, 0.5)}


class Pictures(Task):
    """8 x 8, for a U-Net that halves them once."""

    name, path, shape = "pictures", FLOW, (1, 8, 8)

    def batch(self, count, g, split="train"):
        return Batch(torch.randn(count, 1, 8, 8, generator=g))

    def network(self, *, target_time=False, guidance=False):
        return UNet((8, 8), unshuffle=1, num_classes=None, heads=1, target_time=target_time)

    def reading(self):
        return {"parameterisation": "flow", "time_input": "t"}


def test_a_step_costs_what_it_costs_at_one_size():
    """All three parts of SwD, whatever the size: the calls are those declared."""
    task = Pictures()
    torch.manual_seed(0)
    teacher = NetworkDenoiser(task.network(), FLOW, **task.reading())
    parts = {
        "matching": Matching(step_aware=True),
        "adversarial": Adversarial(),
        "features": Features("mmd", role="fake_score", start=None, times=None, positions=True),
    }
    objective = Weighted(parts, dict.fromkeys(parts, 1.0))
    for seed in range(3):
        check_objective(objective, task, student=SPEC["data"], teacher=teacher, target_time=True, seed=seed)
