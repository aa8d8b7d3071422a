"""A run that is killed anywhere and continued is the run that was never stopped, to the last bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.objectives import Matching, Weighted
from omnidistill.training.checkpoint import peek
from omnidistill.training.logs import ScalarLog
from omnidistill.training.safetensors_file import read_safetensors

LAST = "checkpoints/last.safetensors"


class Kill(BaseException):
    """What no handler expects, as a kill is."""


def dying(module, after):
    """The module's objective raises `Kill` instead of its call number `after`: before a critic's turn, between its
    turns and the student's, or before the next update."""
    count, losses = 0, module.objective.losses

    def counted(role, step):
        nonlocal count
        count += 1
        if count > after:
            raise Kill
        return losses(role, step)

    module.objective.losses = counted
    return module


def outcome(engine, folder):
    """All that must agree: every model, moment and counter of the last checkpoint, and the logged scalars."""
    tensors, metadata = read_safetensors(folder / LAST)
    state = json.loads(metadata["state"])
    del state["seconds"]
    return tensors, state, engine.scalars(folder)


def assert_same(found, expected):
    tensors, state, rows = found
    assert state == expected[1] and rows == expected[2]
    assert tensors.keys() == expected[0].keys()
    different = [name for name, value in expected[0].items() if not torch.equal(value, tensors[name])]
    assert not different, different[:3]


@pytest.fixture
def straight(engine, tmp_path):
    """7 updates of 3 turns with every kind of role, with dropout; checkpoints at 2, 4, 6 and 7, logs at 1, 2, 4, 6."""
    module = engine.run(engine.module(engine.everything(), dropout=0.3), tmp_path / "straight")
    assert module.update == 7
    return outcome(engine, tmp_path / "straight")


def test_killed_at_any_turn_it_ends_the_same(engine, tmp_path, straight):
    for after in range(0, 21, 2):
        folder = tmp_path / str(after)
        with pytest.raises(Kill):
            engine.run(dying(engine.module(engine.everything(), dropout=0.3), after), folder)
        saved = after // 3 // 2 * 2
        assert (peek(folder / LAST) if (folder / LAST).is_file() else 0) == saved
        torch.manual_seed(after)  # another process has another global generator
        engine.run(engine.module(engine.everything(), dropout=0.3), folder, resume=True)
        assert_same(outcome(engine, folder), straight)


def test_killed_again_and_again_it_ends_the_same(engine, tmp_path, straight):
    """Each life is long enough for one checkpoint and dies in the middle of the update after it."""
    lives = 0
    while True:
        lives += 1
        module = dying(engine.module(engine.everything(), dropout=0.3), 7)
        try:
            engine.run(module, tmp_path, resume=True)
            break
        except Kill:
            continue
    assert lives == 4
    assert_same(outcome(engine, tmp_path), straight)


def test_the_test_can_tell(engine, tmp_path, straight):
    """Starting anew from the weights alone, without moments and counters, is not the same."""
    with pytest.raises(Kill):
        engine.run(dying(engine.module(engine.everything(), dropout=0.3), 13), tmp_path / "a")
    module = engine.module(engine.everything(), dropout=0.3)
    tensors, _ = read_safetensors(tmp_path / "a" / LAST)
    module.trained.load_state_dict(
        {n[len("model/") :]: v for n, v in tensors.items() if n.startswith("model/")}
    )
    engine.run(module, tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same(outcome(engine, tmp_path / "b"), straight)


@pytest.mark.parametrize("precision, batch", [("bf16", 16), ("fp32", 5)])
def test_other_settings_resume_too(engine, tmp_path, precision, batch):
    options = {"precision": precision, "batch": batch, "updates": 4}
    engine.run(engine.module(**options), tmp_path / "straight")
    with pytest.raises(Kill):
        engine.run(dying(engine.module(**options), 5), tmp_path / "killed")
    engine.run(engine.module(**options), tmp_path / "killed", resume=True)
    assert_same(outcome(engine, tmp_path / "killed"), outcome(engine, tmp_path / "straight"))


def test_a_finished_run_is_not_run_again(engine, tmp_path):
    module = engine.run(engine.module(engine.everything()), tmp_path)
    before = (tmp_path / LAST).read_bytes()
    again = engine.module(engine.everything())
    again.objective.losses = None  # would fail at the first turn
    engine.run(again, tmp_path, resume=True)
    assert again.update == 7 and again.calls == module.calls
    assert (tmp_path / LAST).read_bytes() == before
    for name, value in module.trained.state_dict().items():
        assert torch.equal(again.trained.state_dict()[name], value)


def test_without_resume_a_run_starts_over(engine, tmp_path):
    first = engine.state(engine.run(engine.module(updates=3), tmp_path))
    second = engine.state(engine.run(engine.module(updates=3), tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["update"] for row in engine.scalars(tmp_path)] == ["1", "2"]


def test_another_seed_is_refused(engine, tmp_path):
    engine.run(engine.module(updates=2), tmp_path)
    with pytest.raises(UserError, match="written with seed=0, this run has seed=1"):
        engine.run(engine.module(updates=4, seed=1), tmp_path, resume=True)


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


def interrupting(module, update, times=1):
    """SIGINT arrives in the middle of this update."""
    losses = module.objective.losses

    def interrupted(role, step):
        if step.update == update and role == "student":
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return losses(role, step)

    module.objective.losses = interrupted
    return module


def test_ctrl_c_finishes_the_update_and_keeps_it(engine, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    engine.run(engine.module(), tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt, match="checkpoint of update 3 kept in"):
        engine.run(interrupting(engine.module(), 2), tmp_path / "stopped")
    assert peek(tmp_path / "stopped" / LAST) == 3  # not one that is due
    assert signal.getsignal(signal.SIGINT) is handler
    engine.run(engine.module(), tmp_path / "stopped", resume=True)
    assert_same(outcome(engine, tmp_path / "stopped"), outcome(engine, tmp_path / "straight"))


def test_a_second_ctrl_c_is_not_held_back(engine, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    module = interrupting(engine.module(), 3, times=2)
    with pytest.raises(KeyboardInterrupt):
        engine.run(module, tmp_path)
    assert module.update == 3 and peek(tmp_path / LAST) == 2
    assert signal.getsignal(signal.SIGINT) is handler


SCRIPT = """
import sys, time
from pathlib import Path
from omnidistill.exact import GaussianMixtureTask
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.objectives import Matching
from omnidistill.training.loop import run
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast
from omnidistill.training.settings import Settings

task = GaussianMixtureTask(network={"width": 8, "depth": 1})
student, origin = (NetworkDenoiser(task.network(), task.path, **task.reading()) for _ in range(2))
objective = Matching()
settings = Settings(updates=1_000_000, batch=4, checkpoint_every=1_000_000)
module = Distillation(cast(student, origin, objective, 0.9), task.exact_teacher(), objective, settings, task.like)
losses = objective.losses
def told(role, step):
    if step.update == 5 and role == "student":
        print("running", flush=True)
    return losses(role, step)
objective.losses = told
run(module, task, Path(sys.argv[1]))
"""


def test_a_real_interrupt_leaves_a_checkpoint_and_the_status_of_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline().strip() == b"running"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT, errors.decode()[-800:]
    assert b"KeyboardInterrupt: checkpoint of update" in errors
    assert 5 < peek(tmp_path / LAST) < 1_000_000


# --- scalars ------------------------------------------------------------------------------------------------------


def test_the_log_survives_new_columns_and_drops_what_comes_again(tmp_path):
    log = ScalarLog(tmp_path)
    log.add(1, 0.5, {"a": 1.0})
    log.add(2, 1.0, {"a": 2.0, "b": 3.0})
    log.add(3, 1.5, {"a": 4.0})
    log.close()
    assert (tmp_path / "metrics.csv").read_text().split() == ["update,seconds,a,b", "1,0.5,1.0,", "2,1.0,2.0,3.0",
                                                             "3,1.5,4.0,"]  # fmt: skip
    log = ScalarLog(tmp_path, start=2)
    log.add(3, 9.0, {"a": 5.0})
    log.close()
    assert (tmp_path / "metrics.csv").read_text().split() == ["update,seconds,a,b", "1,0.5,1.0,", "2,1.0,2.0,3.0",
                                                             "3,9.0,5.0,"]  # fmt: skip


def test_objectives_draw_by_update_and_turn_alone(engine, tmp_path):
    """The noise of an update does not depend on what ran before it: critic updates of the last update, for one."""
    seen = {}
    for critics in (1, 2):
        module = engine.module(Weighted({"m": Matching(critic_updates=critics)}, {"m": 1.0}), updates=2)
        drawn = seen[critics] = []

        def first(role, step, drawn=drawn, losses=module.objective.losses):
            drawn.append((role, step.update, torch.rand((), generator=step.g.clone_state())))
            return losses(role, step)

        module.objective.losses = first
        engine.run(module, tmp_path / str(critics))
    one, two = seen[1], seen[2]
    assert one[0] == two[0] and one[2] == two[3]  # turn 0 of updates 0 and 1
