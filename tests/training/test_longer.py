"""A run that is resumed with more updates is the longer run that was never stopped, or is refused in one line."""

import os
import subprocess
import sys

import pytest
import torch

from omnidistill.cli import main
from omnidistill.errors import UserError
from omnidistill.objectives import Consistency, Nodes, Weighted
from omnidistill.training.checkpoint import read_safetensors
from omnidistill.training.settings import Optim

LAST = "checkpoints/last.safetensors"


def weights(folder):
    return {n: v for n, v in read_safetensors(folder / LAST)[0].items()}


def same(a, b):
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "decay, hold", [("linear", 0.5), ("cosine", 0.3), ("constant", 0.5), ("linear", 1.0)]
)
def test_a_longer_run_is_the_one_that_was_never_stopped(engine, tmp_path, capsys, decay, hold):
    optim = Optim(lr=1e-2, warmup=2, decay=decay, hold=hold)
    engine.run(engine.module(updates=16, optim=optim), tmp_path / "straight")
    engine.run(engine.module(updates=8, optim=optim), tmp_path / "longer")
    capsys.readouterr()
    engine.run(engine.module(updates=16, optim=optim), tmp_path / "longer", resume=True)
    assert same(tmp_path / "straight", tmp_path / "longer")
    assert engine.scalars(tmp_path / "straight") == engine.scalars(tmp_path / "longer")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("resume:")]
    falls = decay != "constant" and hold < 1
    assert len(said) == falls
    if falls:
        assert f"from update 8 to {optim.steady(8)}, before the learning rate fell" in said[0]
    # And again, from the longer one.
    engine.run(engine.module(updates=20, optim=optim), tmp_path / "longer", resume=True)
    engine.run(engine.module(updates=20, optim=optim), tmp_path / "straight20")
    assert same(tmp_path / "straight20", tmp_path / "longer")


def test_the_rate_is_the_same_up_to_where_it_is_steady():
    for decay, hold in (("linear", 0.5), ("cosine", 0.29), ("linear", 0.0), ("cosine", 0.7)):
        optim = Optim(decay=decay, hold=hold, warmup=3)
        for updates in (1, 7, 10, 100):
            steady = optim.steady(updates)
            factors = [[optim.factor(u, u / n) for u in range(steady)] for n in (updates, 10 * updates)]
            assert factors[0] == factors[1]
            if steady < updates:
                assert optim.factor(steady, steady / updates) != optim.factor(steady, steady / (10 * updates))


@pytest.mark.parametrize("objective", [
    Consistency(jumps=Nodes(4, final=16)), Consistency(target="jump", jumps=Nodes(4), rounds=2),
])  # fmt: skip
def test_an_objective_that_looks_at_the_end_is_refused(engine, tmp_path, objective):
    weighted = Weighted({"c": objective}, {"c": 1.0})
    engine.run(engine.module(weighted, updates=4), tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(UserError, match="the share of the run that is over, and that was 4 updates") as error:
        engine.run(engine.module(weighted, updates=8), tmp_path, resume=True)
    assert "\n" not in str(error.value) and (tmp_path / LAST).read_bytes() == before
    assert not (tmp_path / "checkpoints/steady.safetensors").exists()


def test_without_the_steady_checkpoint_it_is_refused(engine, tmp_path):
    engine.run(engine.module(updates=8), tmp_path)
    (tmp_path / "checkpoints/steady.safetensors").unlink()
    with pytest.raises(UserError, match=r"steady\.safetensors is gone; choose another out"):
        engine.run(engine.module(updates=16), tmp_path, resume=True)


def test_the_command_refuses_before_it_writes(tmp_path, capsys):
    run = ["task=exact/gaussian_mixture", "task.network={width: 8, depth: 1}", "recipe=consistency-models", "batch=8",
           "fit.updates=2", "evaluation.samples=32", "steps=1", "device=cpu", f"out={tmp_path}"]  # fmt: skip
    assert main(["distill", *run, "updates=2"]) == 0
    config = (tmp_path / "config.yaml").read_bytes()
    capsys.readouterr()
    assert main(["distill", *run, "updates=4", "resume=true"]) == 2
    assert "choose another out for a longer run" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_bytes() == config


def test_another_number_of_threads_is_said(engine, tmp_path, capsys):
    engine.run(engine.module(updates=2), tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        capsys.readouterr()
        engine.run(engine.module(updates=3), tmp_path, resume=True)
        assert f"written with threads={threads} and resumed with {threads + 1}" in capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import Engine
torch.set_num_threads(2)
engine = Engine()
engine.run(engine.module(engine.everything(), dropout=0.3, updates=4, batch=64), Path(sys.argv[2]), resume=True)
"""


def test_two_threads_and_two_processes_end_as_one(engine, tmp_path):
    """A run dies in update 4 and another process goes on: with two threads too the result is that of one process."""

    def module():
        return engine.module(engine.everything(), dropout=0.3, updates=4, batch=64)

    def dies(role, m):
        if m.update == 3:
            raise InterruptedError

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine.run(module(), tmp_path / "a")
        with pytest.raises(InterruptedError):
            engine.run(engine.watch(module(), before=dies), tmp_path / "b")
    finally:
        torch.set_num_threads(threads)
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__), str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-800:]
    assert same(tmp_path / "a", tmp_path / "b")
