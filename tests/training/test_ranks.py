"""Two processes at one run end with the numbers of one, whatever they share out, and a lost one is said in a line."""

import os
import signal
import time

import pytest
import torch

from omnidistill.context import Batch, Context
from omnidistill.errors import RunError, UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Denoising, Matching, Weighted
from omnidistill.objectives.base import StudentSpec
from omnidistill.random import generator, normal
from omnidistill.samplers import FewStep
from omnidistill.testing.processes import started
from omnidistill.training import blocks, checkpoint, ranks, sharded
from omnidistill.training.loop import Batches
from omnidistill.training.ranks import Ranks

BOTH = ("ddp", "fsdp")


@pytest.fixture(autouse=True)
def every_module_is_large_enough(monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", 1)
    monkeypatch.setattr(sharded, "SMALL", 1)


@pytest.fixture
def two(engine, tmp_path):
    """Runs a module in two processes: its weights, counts and log in each."""

    def work(rank, strategy, make, folder, resume, before):
        with ranks.joined(strategy, "cpu") as mine:
            module = make()
            module.ranks = mine
            if before:
                before(rank, module)
            average = sharded.apart(module)
            engine.run(module, folder, resume=resume)
            sampled = sharded.gathered(module, average).state_dict()
            weights = {name: ranks.whole(value) for name, value in module.trained.state_dict().items()}
            return weights, dict(module.calls), dict(module.shown), dict(sampled) if mine.main else {}

    def run(strategy, make, folder="two", resume=False, before=None, whole=True):
        said = started(2, work, strategy, make, tmp_path / folder, resume, before)
        assert not whole or not any(isinstance(one, str) for one in said), said
        return said

    return run


def furthest(said, weights):
    return max(
        float((torch.as_tensor(one[0][name]) - value).abs().max())
        for one in said
        for name, value in weights.items()
    )


@pytest.mark.parametrize("strategy", BOTH)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_end_with_the_numbers_of_one(engine, two, tmp_path, strategy, accumulate):
    """Three networks, a head and a bank of pairs: every optimiser, average and mentor."""

    def make(**settings):
        return engine.module(engine.everything(), **settings)

    one = engine.run(make(), tmp_path / "one")
    said = two(strategy, lambda: make(accumulate=accumulate))
    assert furthest(said, one.trained.state_dict()) < 1e-5
    start = make().trained.state_dict()
    assert max(float((start[n] - v).abs().max()) for n, v in one.trained.state_dict().items()) > 1e-2
    for _, calls, shown, _ in said:
        assert calls == dict(one.calls)
        wanted = {n: v for n, v in one.shown.items() if strategy == "ddp" or "diagnostics/grad_" not in n}
        assert shown.keys() == wanted.keys()
        # Diversity compares samples with one another, so it is that of a part.
        for name in (name for name in shown if "diversity" in name):
            shown[name] = wanted[name]
        assert shown == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    average = said[0][3]
    assert average and all(
        abs(torch.as_tensor(average[n]) - v).max() < 1e-5 for n, v in one.trained["ema"].state_dict().items()
    )


def test_gradient_norms_under_fsdp_are_not_zero(engine, two):
    """A root that stays gathered after its forward pass would show 0 for each role that is asked without a graph."""
    (_, _, shown, _), _ = two("fsdp", lambda: engine.module(engine.everything()))
    norms = {name: value for name, value in shown.items() if name.endswith("grad_norm")}
    assert len(norms) == 2 and all(value > 0 for value in norms.values())


@pytest.mark.parametrize("strategy", BOTH)
def test_a_run_goes_on_with_another_number_of_processes(engine, two, tmp_path, strategy):
    def make(updates=7):
        return engine.module(engine.everything(), updates=updates, checkpoint_every=1)

    whole = engine.run(make(), tmp_path / "one").trained.state_dict()

    def stop_after(number):
        def before(rank, module):
            turn = module.training_step

            def stopping(*arguments):
                turn(*arguments)
                if module.update == number and rank == 0:
                    os.kill(os.getpid(), signal.SIGINT)

            module.training_step = stopping

        return before

    interrupted = two(strategy, make, before=stop_after(3), whole=False)
    assert all(isinstance(one, str) and one.startswith("KeyboardInterrupt") for one in interrupted)
    place = tmp_path / "two" / "checkpoints" / "last.safetensors"
    assert checkpoint.peek(place) == 4, "both stop after the update in which either was told to"
    alone = engine.run(make(), tmp_path / "two", resume=True).trained.state_dict()
    assert max(float((alone[n] - v).abs().max()) for n, v in whole.items()) < 1e-5

    stopped = make()
    stop_after(2)(0, stopped)
    with pytest.raises(KeyboardInterrupt):
        engine.run(stopped, tmp_path / "half")
    assert furthest(two(strategy, make, "half", resume=True), whole) < 1e-5


def test_a_process_that_dies_ends_the_others_in_one_line_and_the_run_goes_on(engine, two, tmp_path):
    def make():
        return engine.module(engine.everything(), updates=7, checkpoint_every=1)

    def dies(rank, module):
        def turn(*arguments, turn=module._turn):
            if rank == 1 and module.update == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return turn(*arguments)

        module._turn = turn

    began = time.monotonic()
    first, second = two("ddp", make, before=dies, whole=False)
    assert time.monotonic() - began < 60 and second == "gone"
    line = first.splitlines()[0]
    assert line.startswith("RunError: process 0 of 2 cannot go on") and "resume=true" in line
    whole = engine.run(make(), tmp_path / "one").trained.state_dict()
    assert furthest(two("ddp", make, resume=True), whole) < 1e-5


class Ragged(GaussianMixtureTask):
    """Points of which some are padding, so that draws depend on the lengths of all samples."""

    def batch(self, count, g, split="train"):
        x0 = normal(torch.empty(count, 2), g)
        mask = torch.ones(count, 2, dtype=torch.bool)
        mask[::3, 1] = False
        return Batch(x0 * mask, Context(mask=mask))


@pytest.mark.parametrize("strategy", BOTH)
def test_ragged_batches_are_cut_from_the_whole_one(engine, tmp_path, strategy):
    task = Ragged([[-1.0, 0.0], [0.8, 0.6]], 0.2)

    def make():
        return engine.module(Weighted({"d": Denoising(), "m": Matching()}, {"d": 1.0, "m": 1.0}), updates=4)

    def work(rank):
        with ranks.joined(strategy, "cpu") as mine:
            module = make()
            module.ranks = mine
            sharded.apart(module)
            engine.run(module, tmp_path / "two", task)
            return {name: ranks.whole(value) for name, value in module.trained.state_dict().items()}, None

    said = started(2, work)
    assert not any(isinstance(one, str) for one in said), said
    one = engine.run(make(), tmp_path / "one", task)
    assert furthest(said, one.trained.state_dict()) < 1e-5


class Counts(GaussianMixtureTask):
    asked = ()

    def batch(self, count, g, split="train"):
        self.asked = (*self.asked, count)
        return super().batch(count, g, split)


class Shuffled(GaussianMixtureTask):
    """Draws as no part can be cut of."""

    def batch(self, count, g, split="train"):
        return Batch(torch.empty(count, 2).normal_(generator=g))


@pytest.mark.parametrize(("task", "apart"), [(Counts, True), (Shuffled, False)])
def test_each_process_reads_its_own_rows_where_draws_can_be_cut(task, apart):
    made = task([[-1.0, 0.0], [0.8, 0.6]], 0.2)
    mine = [Batches(made, 2, 10, 0, 0, 3, Ranks(rank, 3)) for rank in range(3)]
    for update in range(3):
        for turn in range(2):
            got = [Batches(made, 2, 10, 0, 0, 3)[update][turn].x0]
            shares = [one[update][turn].x0 for one in mine]
            cut = [x if len(x) < 10 else x[Ranks(r, 3).own(10)] for r, x in enumerate(shares)]
            assert torch.equal(torch.cat(cut), got[0])
    assert [len(x) < 10 for x in shares] == [apart] * 3
    if apart:
        assert set(made.asked) == {10, 3, 4}


def test_what_belongs_to_the_step_is_drawn_alike_and_noise_is_not(engine):
    """Processes agree on which step is trained and differ in their noise."""
    objective = Weighted({"m": Matching()}, {"m": 1.0})
    drawn = []
    for rank in (0, 1):
        module = engine.module(objective, updates=6)
        module.ranks, module.spec = Ranks(rank, 2), StudentSpec(4, FewStep())
        seen = []
        for module.update in range(6):
            batch = engine.task.batch(16, generator(0, module.update))
            where = module.ranks.own(16)
            from omnidistill.training.parts import Draws

            with Draws():
                step, _ = module._step("critic", batch, 0, module._models(0), where, 16)
                seen.append((float(step.rollout.t[0]), float(step.rollout.x_t[0, 0])))
        drawn.append(seen)
    assert [t for t, _ in drawn[0]] == [t for t, _ in drawn[1]]
    assert len({t for t, _ in drawn[0]}) > 1, "several steps are trained"
    assert not {x for _, x in drawn[0]} & {x for _, x in drawn[1]}


def test_several_processes_are_refused_in_one_line_where_there_is_one():
    with pytest.raises(UserError, match="torchrun"), ranks.joined("fsdp"):
        pass
    with pytest.raises(UserError, match="batch=3 has fewer samples than 2 processes with accumulate=2"):
        Ranks(0, 2).parts(3, 2)


def test_a_refusal_by_the_first_process_is_said_once(capfd):
    from omnidistill.errors import SaidElsewhere

    def work(rank):
        with ranks.joined("ddp", "cpu") as mine:
            try:
                with ranks.announced(mine):
                    if mine.main:
                        raise UserError("out=x is not empty")
            except SaidElsewhere:
                return "silent"
            except UserError:
                return "said"

    assert started(2, work) == ["said", "silent"]


def test_an_error_of_this_process_stays_what_it_is():
    def work(rank):
        try:
            with ranks.joined("ddp", "cpu"):
                raise RuntimeError("shape '[2]' is invalid for input of size 3")
        except RunError:
            return "translated"
        except RuntimeError as error:
            return str(error)

    assert started(2, work)[0].startswith("shape")


def test_features_inside_a_gathered_block_are_refused(engine):
    from omnidistill.denoisers.features import asked

    network = engine.Net()
    network.inner = torch.nn.Sequential(network.inner)
    network.inner.unshard = None
    with pytest.raises(UserError, match=r"gathers inner as a whole, and layer inner\.0 is inside"):
        asked(network, ["inner.0"], None, torch.zeros(2, 2), torch.zeros(2))


def test_the_table_of_docs_is_the_committed_result():
    import json
    import runpy
    from pathlib import Path

    root = Path(__file__).parents[2]
    rows = json.loads((root / "benchmarks" / "results" / "scale.json").read_text())["rows"]
    made = runpy.run_path(str(root / "benchmarks" / "scale.py"), run_name="scale")["table"](rows)
    assert made in (root / "docs" / "scale.md").read_text()
    for row in rows[:2]:  # without adapters a process of two holds half
        assert row["held"]["2 x fsdp"] == pytest.approx(row["held"]["one process"] / 2, rel=1e-2)
    whole = {"consistency-models": 7, "dmd2": 10}
    assert all(round(row["held"]["one process"]) == whole[row["recipe"]] for row in rows[:2])
