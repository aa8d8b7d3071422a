"""What is in a checkpoint, and what happens when it is not."""

import copy
import json
import os

import pytest
import torch
from torch import nn

from omnidistill.errors import UserError
from omnidistill.objectives import Denoising, Weighted
from omnidistill.training.checkpoint import peek
from omnidistill.training.safetensors_file import load_strictly, read_safetensors, write_safetensors

LAST = "checkpoints/last.safetensors"


def line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_it_holds_models_moments_and_counters_but_no_teacher(engine, tmp_path):
    module = engine.module(engine.everything(), updates=3)
    module.teacher.register_buffer("secret", torch.full((7,), 42.0))
    engine.run(module, tmp_path)
    tensors, metadata = read_safetensors(tmp_path / LAST)
    state = json.loads(metadata["state"])
    assert (state["update"], state["role_updates"], state["seed"]) == (3, {"student": 3, "fake_score": 6}, 0)
    models = {name.split("/")[1].split(".")[0] for name in tensors if name.startswith("model/")}
    assert models == {"student", "ema", "fake_score", "discriminator", "target", "mentor"}
    assert not any("teacher" in name for name in tensors)
    assert not any(value.shape == (7,) and bool((value == 42).all()) for value in tensors.values())
    for role, steps in (("student", 3), ("fake_score", 6)):
        moments = {name for name in tensors if name.startswith(f"optim/{role}/")}
        assert {name.rsplit("/", 1)[1] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}
        assert {float(tensors[name]) for name in moments if name.endswith("/step")} == {float(steps)}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
        "last.safetensors"
    ]  # no partial file left


def test_a_truncated_checkpoint_is_one_line(engine, tmp_path):
    engine.run(engine.module(updates=2), tmp_path)
    path = tmp_path / LAST
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="is not a whole safetensors file") as caught:
            engine.run(engine.module(updates=4), tmp_path, resume=True)
        assert str(path) in line(caught)
    path.write_bytes(b"not weights at all" * 100)
    with pytest.raises(UserError, match="is not a whole safetensors file") as caught:
        peek(path)
    line(caught)


def test_a_write_that_dies_leaves_the_old_file(engine, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    write_safetensors({"a": torch.ones(3)}, path)

    def dies(source, target):
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(OSError, match="killed"):
        write_safetensors({"a": torch.zeros(3)}, path)
    assert torch.equal(read_safetensors(path)[0]["a"], torch.ones(3))


def test_weights_without_training_state_cannot_be_resumed(engine, tmp_path):
    write_safetensors({"a": torch.ones(3)}, tmp_path / LAST)
    with pytest.raises(UserError, match="no training state") as caught:
        engine.run(engine.module(), tmp_path, resume=True)
    line(caught)
    with pytest.raises(UserError, match="no such file"):
        peek(tmp_path / "nothing.safetensors")


def test_loading_is_strict_and_names_what_differs(tmp_path):
    layer = nn.Linear(3, 2)
    good = {name: value + 1 for name, value in layer.state_dict().items()}
    load_strictly(layer, good, tmp_path)
    assert torch.equal(layer.weight, good["weight"])
    for wrong, message in (
        (
            {"weight": good["weight"]},
            "1 missing, 0 unknown, 0 of another shape, e.g. 'bias' is missing there",
        ),
        (
            {**good, "extra": good["bias"]},
            "0 missing, 1 unknown, 0 of another shape, e.g. 'extra' is unknown here",
        ),
        ({**good, "weight": torch.ones(2, 4)}, r"'weight' is \(2, 4\) there and \(2, 3\) here"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_strictly(layer, wrong, tmp_path)
        line(caught)
    assert torch.equal(layer.weight, good["weight"])


def test_resuming_another_architecture_is_one_line(engine, tmp_path):
    engine.run(engine.module(updates=2), tmp_path)
    other = engine.denoiser(network=nn.Sequential())
    other.network.add_module("layer", nn.Linear(2, 2))
    with pytest.raises(UserError, match="weights of another architecture") as caught:
        engine.run(engine.module(updates=4, student=other), tmp_path, resume=True)
    line(caught)


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
        self.last.weight = self.first.weight

    def forward(self, x, t, condition=None):
        return self.last(torch.tanh(self.first(x)))


def test_tied_weights_are_saved_and_stay_tied(engine, tmp_path):
    objective = Weighted({"d": Denoising()}, {"d": 1.0})
    network = Tied()
    students = [engine.denoiser(network=copy.deepcopy(network)) for _ in range(3)]
    made = [engine.module(objective, updates=4, student=student) for student in students]
    engine.run(made[0], tmp_path / "straight")

    def dies(role, module):
        if module.update == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.run(engine.watch(made[1], before=dies), tmp_path / "half")
    engine.run(made[2], tmp_path / "half", resume=True)
    network = made[2].trained["student"].network
    assert network.first.weight is network.last.weight
    for a, b in zip(made[0].trained.parameters(), made[2].trained.parameters(), strict=True):
        assert torch.equal(a, b)


def test_moments_keep_the_parameters_memory_format(engine, tmp_path):
    """Sums over channels-last tensors run in another order; a moment in the wrong format would change the last bit."""

    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1).to(memory_format=torch.channels_last)
            self.conv.weight.data = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)

        def forward(self, x, t, condition=None):
            return x + self.conv.weight.sum()

    module = engine.module(
        Weighted({"d": Denoising()}, {"d": 1.0}), updates=2, student=engine.denoiser(network=Conv())
    )
    formats = []

    def look(role, m):
        state = m.optimisers.all()["student"].state
        for parameter in m.optimisers.parameters("student"):
            if parameter.ndim == 4:
                moments = [value for key, value in state[parameter].items() if key != "step"]
                formats.extend(moment.stride() == parameter.stride() for moment in moments)

    engine.run(module, tmp_path)
    again = engine.module(
        Weighted({"d": Denoising()}, {"d": 1.0}), updates=3, student=engine.denoiser(network=Conv())
    )
    engine.run(engine.watch(again, before=look), tmp_path, resume=True)
    assert formats == [True, True]
