"""Preferences between samples: DPO's optimum, pairs on the disk, a student that labels pairs by what it has learned."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.data import preferences
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact.rewards import Count, Towards
from omnidistill.objectives import Paired, StudentSpec
from omnidistill.samplers import FewStep


class Constant(nn.Module):
    """One number, whatever the state."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, x, t, condition=None, **keywords):
        return self.value.expand_as(x)


def at_one(count, path, g):
    return torch.ones(count, dtype=torch.float64)


def stored(tmp_path, better, worse, **more):
    file = tmp_path / "pairs.safetensors"
    save_file({"better": better, "worse": worse, **more}, file)
    return str(file)


def test_the_optimum_is_the_logit_of_the_preference(closed, tmp_path):
    """1 was preferred to -1 in three of four pairs: `D_0 + logit(3/4) / (2 beta)` has no gradient, beside it it points
    home."""
    better = torch.tensor([1.0, 1.0, 1.0, -1.0])[:, None]
    beta, start = 3.0, 0.2
    objective = Paired(pairs=stored(tmp_path, better, -better), beta=beta, times=at_one)
    best = start + math.log(3.0) / (2.0 * beta)
    path = paths.rectified_flow()
    batch, like = closed.free(200_000)
    for away, least, most in ((0.0, -0.02, 0.02), (0.2, 0.1, 3.0), (-0.2, -3.0, -0.1)):
        models = {"student": NetworkDenoiser(Constant(best + away), path, "x0")}
        models["reference"] = NetworkDenoiser(Constant(start), path, "x0")
        losses = objective.losses("student", closed.step("student", models, batch, like))
        (gradient,) = closed.gradient(losses, *models["student"].parameters())
        assert least < gradient.item() < most
        # Above the start one pair of four is told wrongly, below it three.
        right = 0.75 if away > -0.1 else 0.25
        assert losses.diagnostics["paired/right"] == pytest.approx(right, abs=0.01)


def test_at_the_start_the_loss_is_log_two_and_both_sides_have_one_noise(closed, tmp_path):
    """With one noise two equal sides have equal errors, so a pair of nearly the same samples moves nothing."""
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    objective = Paired(pairs=stored(tmp_path, x, x + 1e-3))
    path = paths.rectified_flow()
    models = {"student": closed.student(0.1, 0.5, path), "reference": closed.student(0.1, 0.5, path)}
    batch, like = closed.free(64)
    losses = objective.losses("student", closed.step("student", models, batch, like))
    assert losses.terms["paired"].item() == pytest.approx(math.log(2.0), abs=1e-9)
    assert all(abs(float(g)) < 0.05 for g in closed.gradient(losses, *models["student"].parameters()))


@pytest.mark.parametrize("now", [0.5, -0.5])
def test_the_student_prefers_what_it_was_taught_to_prefer(closed, now):
    """A mentor whose belief moved up from the start's labels the larger of two samples better, one that moved down the
    smaller: `R(x) = x (d_mentor - d_0) + ...`."""
    path = paths.rectified_flow()
    models = {
        name: NetworkDenoiser(Constant(v), path, "x0") for name, v in (("student", 0.0), ("reference", 0.0))
    }
    models["mentor"] = NetworkDenoiser(Constant(now), path, "x0")
    objective = Paired({"r": Towards([0.0])}, own=1.0)
    batch, like = closed.free(512)
    step = closed.step("student", models, batch, like, student=StudentSpec(2, FewStep()))
    made = [torch.full((512, 1), value, dtype=torch.float64) for value in (-1.0, 2.0)]
    low, high = objective._implicit(step, made)
    # Of half a square: 1/2 (x - 0)^2 - 1/2 (x - d)^2 = x d - d^2 / 2.
    torch.testing.assert_close(low, torch.full_like(low, -now - now**2 / 2))
    torch.testing.assert_close(high, torch.full_like(high, 2 * now - now**2 / 2))


def test_in_the_first_round_all_pairs_are_peoples_and_then_a_share(closed, tmp_path):
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    objective = Paired(pairs=stored(tmp_path, x, x - 1.0), own=0.75, candidates=3)
    path = paths.rectified_flow()
    batch, like = closed.free(64)
    for mentor, share in ((0.1, 0.0), (0.4, 0.75)):
        models = {name: closed.student(0.1, 0.5, path) for name in ("student", "reference")}
        models["mentor"] = closed.student(mentor, 0.5, path)
        step = closed.step("student", models, batch, like, student=StudentSpec(2, FewStep()))
        assert objective.losses("student", step).diagnostics["paired/own"] == share


@pytest.mark.parametrize("kind", ["points", "tokens"])
def test_cost_and_padding(closed, kind):
    reward = {"r": Count(1)} if kind == "tokens" else {"r": lambda x, clean, context: x[:, 0, 0]}
    found = []
    for more in (0, 3):
        batch, path = closed.ragged(kind, more)
        models = {
            n: closed.ragged_denoiser(kind, path, i) for i, n in enumerate(("student", "reference", "mentor"))
        }
        transition = "ancestral" if kind == "tokens" else "renoise"
        step = closed.step("student", models, batch, student=StudentSpec(1, FewStep(transition)))
        objective = Paired(reward, own=0.5, beta=1.0)
        losses = objective.losses("student", step)
        assert {name: model.calls for name, model in models.items()} == objective.cost("student")
        found.append([*losses.terms.values(), *closed.gradient(losses, *models["student"].parameters())])
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(long, short, rtol=1e-6, atol=1e-9)


def test_conditions_go_with_their_pairs(closed, tmp_path):
    x = torch.zeros(2, 1)
    x[1] = 1.0
    objective = Paired(pairs=stored(tmp_path, x, x - 1.0, condition=torch.tensor([4, 9])))
    seen = []

    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x, t, condition=None, **keywords):
            seen.append(condition)
            return self.w.expand_as(x)

    path = paths.rectified_flow()
    models = {name: NetworkDenoiser(Told(), path, "x0") for name in ("student", "reference")}
    batch = Batch(None, Context(torch.zeros(8, dtype=torch.long)), 8)
    step = closed.step("student", models, batch, torch.empty(8, 1, dtype=torch.float64))
    objective.losses("student", step)
    assert set(seen[-1].tolist()) == {4, 9} and torch.equal(seen[-1][:8], seen[-1][8:])
    with pytest.raises(UserError, match="has a condition for each pair, and the task's samples have none"):
        objective.losses("student", closed.step("student", models, *closed.free(8)))


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"better": torch.zeros(3, 1)}, "one-sided pairs: there is no `worse` beside `better`"),
        ({"worse": torch.zeros(3, 1)}, "one-sided pairs: there is no `better` beside `worse`"),
        ({"better": torch.zeros(3, 1), "worse": torch.ones(2, 1)}, r"two sides alike, \[n ...\]; better is"),
        (
            {"better": torch.zeros(3, 1), "worse": torch.zeros(3, 1)},
            "the same samples, which prefers nothing",
        ),
        ({"better": torch.full((3, 1), math.nan), "worse": torch.zeros(3, 1)}, "3 rows of better hold NaN"),
        (
            {"better": torch.zeros(3, 1), "worse": torch.ones(3, 1), "condition": torch.zeros(2)},
            "2 rows for 3",
        ),
        ({"better": torch.zeros(3, 1), "wrose": torch.ones(3, 1)}, "has a tensor 'wrose'"),
    ],
)
def test_wrong_pairs_are_one_line(tmp_path, tensors, line):
    file = tmp_path / "pairs.safetensors"
    save_file(tensors, file)
    with pytest.raises(UserError, match=line) as error:
        Paired(pairs=str(file))
    assert "\n" not in str(error.value)


def test_wrong_files_shapes_and_options_are_one_line(closed, tmp_path):
    with pytest.raises(UserError, match="is no file"):
        preferences.read(tmp_path / "nothing.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        preferences.read(tmp_path / "x.safetensors")
    objective = Paired(pairs=stored(tmp_path, torch.zeros(3, 2), torch.ones(3, 2)))
    path = paths.rectified_flow()
    models = {name: closed.student(0.1, 0.5, path) for name in ("student", "reference")}
    with pytest.raises(UserError, match=r"has pairs \(2,\), the task's samples are \(1,\)"):
        objective.losses("student", closed.step("student", models, *closed.free(8)))
    with pytest.raises(UserError, match=r"objective\.paired has nothing to reward"):
        Paired()
    for options in ({"beta": 0.0}, {"own": 1.5}, {"candidates": 1}):
        with pytest.raises(UserError, match="paired"):
            Paired({"r": Towards([0.0])}, **options)
