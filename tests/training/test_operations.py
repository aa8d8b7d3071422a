"""What an update costs beside the same recipe written out by hand: operations counted, so no clock is asked.

Small networks pay for each of them as much as for their layers; `benchmarks/step_overhead.py` has the times.
"""

import importlib
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from omnidistill.configuration.compose import build, compose
from omnidistill.training.loop import Batches

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.count[str(operation)] += 1
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize("case, most", [("MLP dmd2", 600), ("transformer sdtt", 220)])
def test_an_update_does_little_that_the_loop_by_hand_does_not(case, most, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("step_overhead")
    _, recipe, name, _, _, overrides = next(c for c in bench.CASES if f"{c[0]} {c[1]}" == case)
    steps = [] if recipe == "sdtt" else ["student.steps=1"]
    given = [f"task={name}", f"recipe={recipe}", "out=unused", "batch=8", "updates=9", "device=cpu"]
    cfg = compose("config", [*given, *steps, *overrides])
    task = build(cfg.task)
    if task.batch(1, torch.Generator()).x0 is None:
        task.batch = bench.random_data(task)
    network = task.network()
    hand = bench.by_hand(recipe, network, task, 8)
    engine = bench.by_engine(cfg, network, task)
    batches = Batches(task, len(engine.cast.turns), 8, 0, 0, 9)
    engine.training_step(batches[0], 0)  # the first makes optimisers and is logged
    hand.update()
    with Operations() as ours:
        engine.training_step(batches[1], 1)
    with Operations() as by_hand:
        hand.update()
    more = (ours.count - by_hand.count).most_common(12)
    assert 0 < ours.count.total() - by_hand.count.total() < most, more


def test_steps_that_nobody_looks_at_have_no_diagnostics_and_the_same_numbers(engine, tmp_path):
    """Only logged updates work them out; what is learned is the same."""
    states = []
    for every in (1, 3):
        module = engine.module(engine.everything(), updates=3, log_every=every)
        seen = []
        losses = module.objective.losses

        def looked(role, step, losses=losses, seen=seen):
            found = losses(role, step)
            seen.append((step.logged, sorted(found.diagnostics)))
            return found

        module.objective.losses = looked
        engine.run(module, tmp_path / str(every))
        states.append(engine.state(module))
        shown = [logged for logged, names in seen if any("matching" in name for name in names)]
        assert shown and all(shown)
        assert {logged for logged, _ in seen} == ({True, False})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
