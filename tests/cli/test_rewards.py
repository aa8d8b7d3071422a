"""Rewards that cannot judge a task, or that answer NaN: one line, at once or where it happens, and nothing lost."""

from pathlib import Path

import pytest

GOOD = (
    "task=exact/gaussian_mixture",
    "task.means=[[1,0],[-1,0]]",
    "recipe=r0",
    "out=made",
    "device=cpu",
    "threads=1",
)
TINY = ("updates=3", "batch=8", "fit.updates=2", "steps=1", "evaluation.samples=16", "task.teacher_steps=2")
LABEL = "families.reward.rewards={label: {_target_: omnidistill.modalities.image.rewards.Label}}"
MODULE = """
class Judge:
    def __init__(self, bad_after: int) -> None:
        self.left = bad_after

    def __call__(self, x, x0, context):
        self.left -= 1
        return x.flatten(1).sum(1) * (float("nan") if self.left < 0 else 1.0)
"""


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("task.conditional=true",),
        ("task.conditional=true", LABEL.replace("Label}", "Label, autoencoder: shipped}")),
    ],
)
def test_a_reward_of_pictures_on_a_task_without_any(refused, inside: Path, more: tuple[str, ...]) -> None:
    said = refused("distill", *GOOD, *TINY, LABEL, *more)
    assert "the reward Label judges pictures" in said and "this task's samples are (2,)" in said
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize(
    "rival, hint", [("fake_scor", "did you mean fake_score?"), ("nobody", "add the objective that trains it")]
)
def test_a_rival_that_nobody_trains_is_refused_before_anything_is_made(
    refused, inside: Path, rival: str, hint: str
) -> None:
    right = "families.reward.rewards={right: {_target_: omnidistill.exact.rewards.Towards, point: [1.0]}}"
    proxy = f"{{_target_: omnidistill.objectives.latent_proxy.LatentProxy, rivals: [{rival}]}}"
    said = refused("distill", *GOOD, *TINY, "objective.matching=1", right, f"families.reward.proxy={proxy}")
    assert f"no objective says what '{rival}' is" in said and hint in said
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize("what", ["rewards", "watched"])
def test_a_reward_that_is_nan_for_the_tasks_own_data_is_refused_before_anything_is_made(
    refused, inside: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (inside / "judge_at_once.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(inside))
    judge = f"families.reward.{what}.mine={{_target_: judge_at_once.Judge, bad_after: 0}}"
    right = "families.reward.rewards.right={_target_: omnidistill.exact.rewards.Towards, point: [1.0]}"
    said = refused("distill", *GOOD, *TINY, right, judge, "trust=[judge_at_once]")
    assert "reward 'mine' is NaN or infinite for 2 of 2 samples" in said and "the task's own data" in said
    assert not (inside / "made").exists()


def test_a_reward_that_becomes_nan_in_training_ends_the_run_in_a_line(
    command, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "judge_later.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(inside))
    judge = "families.reward.rewards={mine: {_target_: judge_later.Judge, bad_after: 2}}"
    done = command("distill", *GOOD, *TINY, judge, "trust=[judge_later]")
    last = done.err.strip().splitlines()[-1]
    assert done.status == 1 and "Traceback" not in done.err
    assert last.startswith("error: ") and "reward 'mine' is NaN or infinite for 8 of 8 samples" in last
