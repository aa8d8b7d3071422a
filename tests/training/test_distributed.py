"""Checkpoints in shards: written by all, read by any number, whole or refused, and nothing in them is unpickled."""

import json
import os
import pickle
import shutil
import signal

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.objectives import Denoising, Matching, Weighted
from omnidistill.testing.processes import started
from omnidistill.training import blocks, checkpoint, distributed, ranks, sharded
from omnidistill.training.layout import Layout
from omnidistill.training.ranks import Ranks
from omnidistill.training.safetensors_file import read_safetensors, write_safetensors

LAST = "checkpoints/last.safetensors"
PLAIN = ["last.safetensors", "steady.safetensors"]
END = ["last-4", "last.safetensors", "steady-3", "steady.safetensors"]


@pytest.fixture(autouse=True)
def small_enough_to_cut(monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", 1)
    monkeypatch.setattr(sharded, "SMALL", 1)
    monkeypatch.setattr(distributed, "PIECE", 400)


def folders(run):
    return sorted(place.name for place in (run / "checkpoints").iterdir())


def line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# --- tensors of any size, by any number of processes ------------------------------------------------------------------


def numbers():
    """Fewer rows than processes, rows that do not divide, a type of two bytes."""
    g = torch.Generator().manual_seed(0)
    drawn = {"one": (1, 4), "five": (5, 3), "seven": (7,), "many": (128, 3)}
    found = {name: torch.randn(shape, generator=g) for name, shape in drawn.items()}
    return {**found, "half": torch.randn(9, 2, generator=g).bfloat16()}


def cut(tensors):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    return {name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in tensors.items()}


def test_three_processes_write_what_two_or_one_read(tmp_path):
    path = tmp_path / "last.safetensors"

    def publish(layout):
        write_safetensors({}, path, {"shards": layout.text()})

    def writes(rank):
        with ranks.joined("fsdp", "cpu") as mine:
            distributed.write(cut(numbers()), path, 7, mine, publish)

    def layout():
        return Layout.of(read_safetensors(path)[1]["shards"], path)

    def reads(rank):
        with ranks.joined("fsdp", "cpu") as mine:
            found = cut({name: torch.zeros_like(value) for name, value in numbers().items()})
            distributed.read(found, path, layout(), mine)
            return {name: ranks.whole(value).float() for name, value in found.items()}

    assert started(3, writes) == [None] * 3
    files = sorted((tmp_path / "last-7").iterdir())
    assert len(files) > 3, "pieces of limited size"
    held = [read_safetensors(file)[0] for file in files]
    assert sum(value.numel() for one in held for value in one.values()) == sum(
        v.numel() for v in numbers().values()
    )
    alone = {name: torch.zeros_like(value) for name, value in numbers().items()}
    distributed.read(alone, path, layout(), Ranks())
    for found in (alone, *started(2, reads)):
        assert not isinstance(found, str), found
        for name, value in numbers().items():
            assert torch.equal(torch.as_tensor(found[name]).float(), value.float()), name


# --- runs -------------------------------------------------------------------------------------------------------------


def made(engine, updates=4, **settings):
    objective = Weighted({"d": Denoising(), "m": Matching()}, {"d": 1.0, "m": 1.0})
    return engine.module(objective, updates=updates, checkpoint_every=1, **settings)


def run(engine, strategy, folder, updates=4, resume=False, before=None):
    """What each of two processes ends with, or how it ended."""

    def work(rank):
        with ranks.joined(strategy, "cpu") as mine:
            module = made(engine, updates)
            module.ranks = mine
            sharded.apart(module)
            if before:
                before(rank, module)
            engine.run(module, folder, resume=resume)
            return {name: ranks.whole(value) for name, value in module.trained.state_dict().items()}

    return started(2, work)


def assert_near(found, whole):
    assert not isinstance(found, str), found
    assert (
        max(float((torch.as_tensor(found[name]) - value).abs().max()) for name, value in whole.items()) < 1e-5
    )


def stops(number):
    """Ctrl-C in the first process after this update."""

    def before(rank, module):
        turn = module.training_step

        def stopping(*arguments):
            turn(*arguments)
            if module.update == number and rank == 0:
                os.kill(os.getpid(), signal.SIGINT)

        module.training_step = stopping

    return before


@pytest.fixture(scope="module")
def whole(engine, tmp_path_factory):
    """What four updates of one process end with."""
    return engine.run(made(engine), tmp_path_factory.mktemp("whole")).trained.state_dict()


@pytest.fixture(scope="module")
def half(engine, tmp_path_factory):
    """A run of two processes that was stopped after two updates of four."""
    folder = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SMALL", 1)
        patch.setattr(sharded, "SMALL", 1)
        patch.setattr(distributed, "PIECE", 400)
        said = run(engine, "fsdp", folder, before=stops(1))
    assert all(isinstance(one, str) and one.startswith("KeyboardInterrupt") for one in said), said
    assert checkpoint.peek(folder / LAST) == 2
    return folder


@pytest.fixture
def copy(half, tmp_path):
    return shutil.copytree(half, tmp_path / "copy")


def test_each_process_writes_its_share_and_no_more(half):
    assert folders(half) == ["last-2", "last.safetensors"]
    whole, metadata = read_safetensors(half / LAST)
    layout = Layout.of(metadata["shards"], half / LAST)
    assert all(value.numel() == 1 for value in whole.values()), "counts of optimisers alone"
    by_rank = [0, 0]
    for place in (half / "checkpoints" / "last-2").iterdir():
        tensors, _ = read_safetensors(place)
        by_rank[int(place.stem) % 2] += sum(value.numel() for value in tensors.values())
    assert sum(by_rank) == sum(value.numel() for value in layout.tensors.values())
    assert abs(by_rank[0] - by_rank[1]) < 0.05 * sum(by_rank)
    assert {name.split("/")[0] for name in layout.tensors} == {"model", "optim"}


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_two_processes_go_on_from_shards(engine, copy, whole, strategy):
    for found in run(engine, strategy, copy, resume=True):
        assert_near(found, whole)
    # Shards of before are gone; processes that hold everything whole write one file again.
    assert folders(copy) == (END if strategy == "fsdp" else PLAIN)


def test_one_process_goes_on_from_shards_and_two_from_its_file(engine, copy, whole, monkeypatch):
    def refuses(*arguments, **keywords):
        raise AssertionError("something is unpickled")

    with monkeypatch.context() as patch:
        for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
            patch.setattr(owner, name, refuses)
        module = made(engine)
        stops(3)(0, module)
        with pytest.raises(KeyboardInterrupt):
            engine.run(module, copy, resume=True)
    assert folders(copy) == PLAIN and checkpoint.peek(copy / LAST) == 4
    assert_near(module.trained.state_dict(), whole)


def test_one_process_stops_and_two_write_shards(engine, tmp_path, whole):
    module = made(engine)
    stops(1)(0, module)
    with pytest.raises(KeyboardInterrupt):
        engine.run(module, tmp_path)
    for found in run(engine, "fsdp", tmp_path, resume=True):
        assert_near(found, whole)
    assert folders(tmp_path) == END


def test_a_process_killed_between_its_shards_leaves_the_checkpoint_of_before(engine, copy, whole):
    def dies(rank, module):
        written = distributed.write_safetensors

        def writing(tensors, path, said):
            if rank == 1 and module.update == 3 and path.stem != "00001":
                os.kill(os.getpid(), signal.SIGKILL)
            written(tensors, path, said)

        distributed.write_safetensors = writing

    first, second = run(engine, "fsdp", copy, resume=True, before=dies)
    assert first.startswith("RunError: process 0 of 2 cannot go on") and second == "gone"
    assert checkpoint.peek(copy / LAST) == 2
    assert folders(copy) == ["last-2", "last.safetensors", "steady-3"], "the rate would have fallen from 3 on"
    for found in run(engine, "fsdp", copy, resume=True):
        assert_near(found, whole)
    assert folders(copy) == ["last-4", "last.safetensors", "steady-3.1", "steady.safetensors"], (
        "what it left is removed"
    )


def damaged(copy, how):
    files = sorted((copy / "checkpoints" / "last-2").iterdir())
    place = files[1]
    if how == "truncated":
        place.write_bytes(place.read_bytes()[:-3])
    elif how == "flipped":
        held = bytearray(place.read_bytes())
        held[-1] ^= 1
        place.write_bytes(held)
    elif how == "gone":
        place.unlink()
    elif how == "swapped":
        shutil.copy(files[0], place)
    else:
        tensors, said = read_safetensors(place)
        write_safetensors(tensors, place, {**said, "checkpoint": "another"})
    return str(place)


SAID = {
    "truncated": "is not a whole safetensors file",
    "flipped": "is damaged: its digest is another",
    "gone": "which is gone",
    "swapped": "is another place's or another checkpoint's",
    "foreign": "is another place's or another checkpoint's",
}


@pytest.mark.parametrize("how", SAID)
def test_shards_that_are_not_what_was_written_are_one_line(engine, copy, how):
    place = damaged(copy, how)
    with pytest.raises(UserError, match=SAID[how]) as caught:
        engine.run(made(engine), copy, resume=True)
    assert place in line(caught)


def test_what_one_of_two_processes_finds_damaged_ends_both_and_is_said_once(engine, copy):
    place = damaged(copy, "flipped")
    first, second = (one.splitlines()[0] for one in run(engine, "fsdp", copy, resume=True))
    assert first.startswith("UserError: ") and place in first and second.startswith("SaidElsewhere: ")
    assert folders(copy) == ["last-2", "last.safetensors"]


def test_a_full_disk_ends_both(engine, copy):
    def full(rank, module):
        def writing(tensors, path, said):
            raise OSError(28, "No space left on device", str(path))

        if rank == 1:
            distributed.write_safetensors = writing

    first, second = (one.splitlines()[0] for one in run(engine, "fsdp", copy, resume=True, before=full))
    assert first.startswith("OSError: ") and second.startswith("SaidElsewhere: ")
    assert checkpoint.peek(copy / LAST) == 2


def test_another_architecture_is_refused_before_anything_is_read(engine, copy):
    other = engine.denoiser(network=torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with pytest.raises(UserError, match="weights of another architecture") as caught:
        engine.run(made(engine, student=other), copy, resume=True)
    line(caught)


def test_nan_in_a_shard_is_refused(engine, copy):
    for place in (copy / "checkpoints" / "last-2").iterdir():
        tensors, said = read_safetensors(place)
        write_safetensors({name: value * float("nan") for name, value in tensors.items()}, place, said)
    with pytest.raises(UserError, match="holds NaN or infinity") as caught:
        engine.run(made(engine), copy, resume=True)
    line(caught)


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(folder="../elsewhere"),
        lambda said: said.pop("token"),
        lambda said: next(iter(said["tensors"].values()))[2].pop(),
        lambda said: next(iter(said["tensors"].values()))[2][0][1].append(0),
        lambda said: next(iter(said["tensors"].values())).__setitem__(0, "pickle"),
        lambda said: next(iter(said["tensors"].values())).__setitem__(1, [1 << 62, 1 << 62]),
        lambda said: said.update(tensors=[]),
    ],
)
def test_a_layout_that_is_none_is_one_line(half, change):
    said = json.loads(read_safetensors(half / LAST)[1]["shards"])
    assert Layout.of(json.dumps(said), half / LAST).text() == json.dumps(said)
    change(said)
    with pytest.raises(UserError, match="does not say where its shards are") as caught:
        Layout.of(json.dumps(said), half / LAST)
    line(caught)
