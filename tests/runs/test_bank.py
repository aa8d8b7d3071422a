"""Teacher pairs: whatever a task samples with, x0 is a function of x_1."""

import pytest
import torch

from omnidistill import paths
from omnidistill.errors import UserError
from omnidistill.exact.bridge import BridgeTask
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask
from omnidistill.objectives.base import BankSpec
from omnidistill.random import generator
from omnidistill.runs.pairs import bank_of
from omnidistill.samplers import Ancestral, Euler, FewStep, Heun
from omnidistill.samplers.predictor_corrector import PredictorCorrector

SAMPLERS = [
    Ancestral(), Ancestral(grid="karras"), Euler(0.5), Euler(), Euler(shift=3.0), Heun(), PredictorCorrector(),
    FewStep("renoise"), FewStep("ode"),
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_bank_holds_pairs_of_a_deterministic_sampler(sampler, monkeypatch):
    """The same starts under another sampler's noise lead to the same samples, and times are the task's own."""
    task = GaussianMixtureTask(path="edm")
    monkeypatch.setattr(task, "sampler", lambda: sampler)
    teacher = task.exact_teacher()
    bank = bank_of(BankSpec(64, 4, states=True), task, teacher, 0, "cpu").rows(torch.arange(64))
    states, times = bank["states"], bank["times"]
    assert torch.equal(times, sampler.times(teacher, 4))
    assert torch.equal(
        states[:, 0], bank_of(BankSpec(64, 4), task, teacher, 0, "cpu").rows(torch.arange(64))["states"][:, 0]
    )
    walk = Euler() if sampler.deterministic and not isinstance(sampler, Heun) else Heun()
    x = states[:, 0]
    for i in range(4):
        x = walk.step(teacher, x, times[i], times[i + 1], bank["context"], generator("other", i))
        torch.testing.assert_close(x, states[:, i + 1])


@pytest.mark.parametrize("objective", ["regression", "stored"])
def test_a_brownian_bridge_has_no_such_pairs(objective):
    from omnidistill.objectives import Regression, Weighted
    from omnidistill.objectives.consistency import Consistency
    from omnidistill.training.roles import missing

    one = Regression() if objective == "regression" else Consistency(pairs="stored")
    both = Weighted({"one": one}, {"one": 1.0})
    lacking = {
        name: missing(both, BridgeTask(path=name).path, data=True, condition=True)
        for name in ("brownian_bridge", "ouve")
    }
    assert lacking == {"brownian_bridge": ["deterministic"], "ouve": []}


def test_a_recipe_of_pairs_on_a_brownian_bridge_ends_in_one_line(tmp_path):
    from omnidistill.configuration.compose import build, compose
    from omnidistill.runs.setup import objective_of

    cfg = compose(
        "config", ["task=exact/bridge", "task.path=brownian_bridge", "recipe=dmd", f"out={tmp_path / 'run'}"]
    )
    with pytest.raises(
        UserError, match=r"dmd needs deterministic, which exact/bridge with .*brownian_bridge"
    ) as error:
        objective_of(cfg, build(cfg.task))
    assert "\n" not in str(error.value)


def test_the_students_sampler_is_what_the_keys_say(tmp_path):
    from omnidistill.configuration.compose import compose
    from omnidistill.runs.setup import sampler_of

    def made(*keys):
        task = "task=exact/gaussian_mixture"
        return sampler_of(compose("config", [task, "recipe=dmd2", f"out={tmp_path / 'run'}", *keys]))

    teacher = GaussianMixtureTask(path=paths.rectified_flow()).exact_teacher()
    given = made("student.steps=4", "student.times=[1.0,0.9375,0.8333,0.625]")
    assert given.times(teacher, 4).tolist() == [1.0, 0.9375, 0.8333, 0.625, 0.0]
    assert made("student.shift=5").times(teacher, 4).tolist()[1] == pytest.approx(15 / 16)
    gamma = made("student.transition=gamma", "student.gamma=0.3")
    assert (gamma.transition, gamma.gamma) == ("gamma", 0.3)
    with pytest.raises(UserError, match=r"student\.times has 2 entries and student\.steps is 4"):
        made("student.steps=4", "student.times=[1.0,0.5]")
