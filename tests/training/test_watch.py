"""What a run's scalars say about its health: each rule on series that show it, and runs that go wrong on purpose."""

import pytest
import torch

from omnidistill.exact import GaussianMixtureTask
from omnidistill.exact.rewards import Nearest, Towards
from omnidistill.objectives import Adversarial, Matching, Reward, Weighted
from omnidistill.objectives.base import Losses, RoleSpec
from omnidistill.runs.distil import training_record
from omnidistill.training.lag import EXTRA, lags
from omnidistill.training.settings import Optim
from omnidistill.training.watch import Watch

GAP, APART, DATA = (f"diagnostics/matching/{n}" for n in ("gap", "diversity", "diversity_data"))


def said(**series) -> list[str]:
    watch, lines = Watch(), []
    names = {"gap": GAP, "apart": APART, "data": DATA, "lag": "diagnostics/lag/fake_score",
             "ess": "diagnostics/matching/ratio_ess", "ratio": "diagnostics/grad_ratio/adversarial",
             "floored": "diagnostics/matching/floored", "reward": "diagnostics/reward/taste/mean",
             "held": "diagnostics/reward/fidelity/watched",
             "sure": "diagnostics/adversarial/accuracy/0.75-1"}  # fmt: skip
    for row in zip(*series.values(), strict=True):
        lines += watch({names[name]: value for name, value in zip(series, row, strict=True)})
    assert set(lines) == set(watch.said.values())
    return lines


@pytest.mark.parametrize("series, word", [
    ({"apart": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], "data": [1.0] * 8}, "collapse"),
    ({"apart": [0.1] * 9, "data": [1.0] * 9}, "collapse"),
    ({"apart": [1.0, 0.9, 0.9, 0.9, 0.9, 0.5, 0.4, 0.3]}, "they once were 1"),
    ({"lag": [0.02, 0.3, 0.2]}, "fake_score lags"),
    ({"ess": [0.5, 0.05, 0.04]}, "density ratios"),
    ({"ratio": [0.2, 20.0, 30.0, 25.0]}, "adversarial steers"),
    ({"floored": [0.0, 0.9, 0.8, 0.9]}, "floor"),
    ({"sure": [0.6, 0.97, 0.98, 1.0]}, "discriminator is right about 100 % of the samples at times 0.75-1"),
    ({"gap": [0.2, 0.1, 0.1, 0.1, 0.2, 0.4, 0.5, 0.6]}, "grows"),
    ({"gap": [1.0, 0.2, 1.0, 0.2, 1.0, 0.2, 1.0, 0.2]}, "swings"),
    ({"reward": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], "held": [0.5, 0.6, 0.6, 0.5, 0.4, 0.2, 0.0, -0.3]},
     "taste is over-optimised: it rose to 0.8 while fidelity"),
])  # fmt: skip
def test_trouble_is_said_once(series, word):
    lines = said(**series)
    assert len(lines) == 1 and word in lines[0] and "\n" not in lines[0]
    longer = {name: values + values[-1:] * 3 for name, values in series.items()}
    assert len([line for line in said(**longer) if word in line]) == 1


@pytest.mark.parametrize("series", [
    {"apart": [0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 0.3], "data": [1.0] * 8}, {"apart": [0.7, 0.7, 0.6, 0.7] * 3},
    {"lag": [0.3, 0.02, 0.3, 0.02]}, {"ess": [0.9, 0.05, 0.7, 0.8]}, {"ratio": [20.0, 1.0, 30.0, 2.0]},
    {"sure": [0.97, 0.9, 0.98, 0.96, 0.94]},
    {"gap": [1.0, 0.6, 0.5, 0.35, 0.3, 0.31, 0.28, 0.3, 0.27]},
    {"reward": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], "held": [0.5, 0.52, 0.49, 0.5, 0.53, 0.5, 0.48, 0.5]},
    {"reward": [0.5, 0.52, 0.49, 0.5, 0.53, 0.5, 0.48, 0.5], "held": [0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]},
    {"reward": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], "held": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]},
    {"gap": [0.01, 0.05, 0.08, 0.079, 0.11, 0.12, 0.075, 0.07, 0.08, 0.066]},
    {"gap": [0.30, 0.28, 0.31, 0.27, 0.3, 0.28, 0.29, 0.3, 0.28]},
])  # fmt: skip
def test_a_healthy_run_is_quiet(series):
    assert said(**series) == []


# --- runs that go wrong on purpose ------------------------------------------------------------------------------------

ROUND = GaussianMixtureTask([[0.0, 0.0]], 1.0)
FAR = GaussianMixtureTask([[8.0, 8.0]], 0.1)


def run(engine, folder, objective, task=None, *, lr=1e-2, **settings):
    optim = Optim(lr=lr, warmup=0, decay="constant")
    module = engine.module(objective, optim=optim, batch=64, **{"updates": 36, "log_every": 4, **settings})
    if task is not None:
        module.teacher = task.exact_teacher()
    return engine.run(module, folder, task)


def caught(module, word) -> bool:
    return any(word in line for line in module.warned)


def test_a_student_without_critic_collapses_and_is_caught(engine, tmp_path, capsys):
    """Score distillation moves every sample to the mode; with a critic they part."""
    objective = Weighted({"m": Matching(critic="none", normaliser="none")}, {"m": 1.0})
    bad = run(engine, tmp_path / "bad", objective, ROUND)
    assert caught(bad, "samples collapse")
    assert "warning: update" in capsys.readouterr().err
    assert training_record(bad)["warnings"] == bad.warned
    objective = Weighted({"m": Matching(critic_updates=2, critic_lr=2.0, normaliser="none")}, {"m": 1.0})
    assert not caught(run(engine, tmp_path / "good", objective, ROUND), "samples collapse")


def test_a_critic_that_hardly_learns_lags_and_is_caught(engine, tmp_path):
    for rate, lags_behind in ((0.01, True), (1.0, False)):
        objective = Weighted({"m": Matching(critic_lr=rate, critic_updates=2)}, {"m": 1.0})
        module = run(engine, tmp_path / str(rate), objective, lag_every=8, log_every=8, lr=3e-2)
        print(rate, module.shown["diagnostics/lag/fake_score"], module.warned)
        assert caught(module, "fake_score lags") is lags_behind


def test_a_term_that_steers_is_caught(engine, tmp_path):
    parts = {"m": Matching(), "a": Adversarial(critic_weight=1.0)}
    for weights, steers in (({"m": 1e-3, "a": 10.0}, True), ({"m": 1.0, "a": 1e-2}, False)):
        module = run(engine, tmp_path / str(steers), Weighted(parts, weights), updates=16)
        assert caught(module, "adversarial steers") is steers


def test_a_discriminator_that_always_wins_is_caught(engine, tmp_path):
    """Against a student that hardly moves, far from the data; not against one that follows, near them."""
    for weight, task, wins in ((1e-6, FAR, True), (1.0, None, False)):
        part = Adversarial(start="teacher", critic_weight=1.0)
        module = run(engine, tmp_path / str(wins), Weighted({"a": part}, {"a": weight}), task, lr=3e-3)
        print({k: v for k, v in module.shown.items() if "accuracy" in k}, module.warned)
        assert caught(module, "the discriminator is right") is wins


def test_uneven_ratios_are_caught(engine, tmp_path):
    """Neyman weights of a far student are those of a few samples; those of Jensen-Shannon are bounded."""
    for name, uneven in (("neyman", True), ("jensen_shannon", False)):
        parts = {
            "m": Matching(divergence=name, ratio_limits=(1e-6, 1e6), critic_updates=2, critic_lr=30.0),
            "a": Adversarial(critic_weight=1.0),
        }
        module = run(engine, tmp_path / name, Weighted(parts, {"m": 1.0, "a": 1e-3}), updates=44, lr=1e-3)
        print(name, module.shown["diagnostics/matching/ratio_ess"], module.warned)
        assert caught(module, "density ratios") is uneven


def test_a_reward_without_a_guard_is_over_optimised_and_caught(engine, tmp_path):
    """Samples leave the data for a point that is far from it, and their nearness to the data falls; an anchor holds."""
    for anchor, overdone in ((0.0, True), (100.0, False)):
        reward = Reward({"far": Towards([4.0])}, watched={"near": Nearest([[0.0, 0.0]])}, anchor=anchor)
        objective = Weighted({"r": reward}, {"r": 1.0})
        module = run(engine, tmp_path / str(anchor), objective, ROUND, updates=60)
        print(
            anchor,
            module.shown["diagnostics/reward/far/mean"],
            module.shown["diagnostics/reward/near/watched"],
        )
        assert caught(module, "the reward far is over-optimised") is overdone


def test_a_fast_student_swings_and_is_caught(engine, tmp_path):
    """It leaves in one update what its critic has just learned of it; slower, before a faster critic, it does not."""
    for lr, critic, swings in ((0.05, {}, True), (0.01, {"critic_updates": 2, "critic_lr": 2.0}, False)):
        objective = Weighted({"m": Matching(normaliser="none", **critic)}, {"m": 1.0})
        module = run(engine, tmp_path / str(lr), objective, ROUND, lr=lr, updates=44)
        print(lr, module.warned)
        assert caught(module, "swings") is swings


# --- the probe --------------------------------------------------------------------------------------------------------


def test_the_probe_leaves_nothing_behind(engine, tmp_path):
    """Weights, optimisers, buffers and counts with it are those of a run without; so is a run in parts."""
    for parts in (1, 4):
        runs = []
        for every in (0, 2):
            module = engine.module(engine.everything(), dropout=0.1, lag_every=every, accumulate=parts)
            runs.append(engine.run(module, tmp_path / f"{parts}-{every}"))
        plain, probed = runs
        for name, value in engine.state(plain).items():
            assert torch.equal(value, engine.state(probed)[name]), name
        assert plain.calls == probed.calls
        assert (
            "diagnostics/lag/fake_score" in probed.shown and "diagnostics/lag/fake_score" not in plain.shown
        )


def test_the_probe_measures_what_more_updates_gain(engine, tmp_path):
    """A role whose loss is (w - 1)^2: AdamW's next EXTRA steps are known, and so is what they gain."""

    class Parabola:
        needs, bank, rolls_out = frozenset(), None, False

        def __init__(self):
            self.roles = {"other": RoleSpec(start="teacher", updates=1)}

        def losses(self, role, step):
            weight = step[role].network.last.bias
            return Losses({"square": (weight - 1.0).square().sum()})

        def cost(self, role):
            return {}

    optim = Optim(lr=1e-3, warmup=0, decay="constant", clip=None)
    module = engine.module(Weighted({"p": Parabola()}, {"p": 1.0}), optim=optim, updates=3, log_every=3)
    engine.run(module, tmp_path)
    weight = module.trained["other"].network.last.bias
    before = float((weight - 1).square().sum())
    after = float((weight + EXTRA * 1e-3 - 1).square().sum())  # a constant sign: each step is the rate
    batches = [engine.task.batch(4, engine.generator(0)) for _ in module.cast.turns]
    found = lags(module, batches)
    assert found["lag/other"] == pytest.approx((before - after) / after, rel=0.05)
