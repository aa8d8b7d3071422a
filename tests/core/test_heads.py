"""Heads of a last layer, one a cell of the grid of times: their shares, their mean as one layer, their start."""

from pathlib import Path

import pytest
import torch
from torch import nn

import omnidistill
from omnidistill import paths
from omnidistill.configuration.compose import compose
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.heads import Heads, Spread, edges, shares
from omnidistill.errors import UserError
from omnidistill.networks.mlp import MLP
from omnidistill.networks.posed_memory import PosedMemory
from omnidistill.networks.unet import UNet
from omnidistill.runs.distil import distill

F64 = torch.float64
PATHS = ("rectified_flow", "trigflow", "edm", "vp_linear")


def times(values) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


@pytest.mark.parametrize("name", PATHS)
def test_a_jump_with_the_mean_of_the_heads_is_the_walk_over_their_cells(name: str, g) -> None:
    """From and to nodes, and from and to times between them, where a part of a cell counts."""
    path, count = getattr(paths, name)(), 8
    nodes = edges(path, count)
    beliefs = torch.randn(count, 3, 2, dtype=F64, generator=g)
    x = torch.randn(3, 2, dtype=F64, generator=g)
    inside = float(0.4 * nodes[2] + 0.6 * nodes[3]), float(0.7 * nodes[5] + 0.3 * nodes[6])
    for t, r in ((nodes[0], nodes[5]), (nodes[2], nodes[3]), (nodes[1], nodes[8]), inside):
        t, r = float(t), float(r)
        told = shares(path, count, times([t]), times([r]))
        assert float(told.sum()) == pytest.approx(1.0, abs=1e-12) and float(told.min()) >= 0.0
        state, here = x, t
        for k in range(count):
            down = max(float(nodes[k + 1]), r)
            if down < here - 1e-12 and here > r:
                state = path.bridge(state, beliefs[k], here, down)
                here = down
        jump = path.bridge(x, torch.einsum("k,kbd->bd", told[0], beliefs), t, r)
        torch.testing.assert_close(jump, state, rtol=1e-9, atol=1e-9)


def test_a_jump_to_the_data_asks_the_last_cell_and_one_of_no_length_its_own() -> None:
    path = paths.rectified_flow()
    told = shares(path, 4, times([1.0, 0.6, 1.0, 0.5, 0.3, 0.0]), times([0.0, 0.0, 1.0, 0.5, 0.3, 0.0]))
    assert told.argmax(1).tolist() == [3, 3, 0, 2, 2, 3]
    assert bool((told.max(1).values == 1.0).all())


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(5, 3), (4, 5)),
        (nn.Linear(5, 3, bias=False), (4, 7, 5)),
        (nn.Conv1d(5, 3, 3, padding=1), (4, 5, 6)),
        (nn.Conv2d(5, 3, 3, stride=2), (4, 5, 6, 7)),
        (nn.Conv3d(5, 2, 1, bias=False), (4, 5, 2, 3, 4)),
    ],
)
def test_the_mean_of_heads_is_one_layer_for_each_sample_and_for_all(layer: nn.Module, shape, g) -> None:
    layer, spread = layer.double(), Spread(layer, 6).double()
    for parameter in spread.parameters():
        parameter.data += torch.randn(parameter.shape, dtype=F64, generator=g)
    h = torch.randn(shape, dtype=F64, generator=g)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = layer

        def forward(self, x):
            return self.last(x)

    net = Heads(Net(), 6)
    net.network.last = spread
    told = torch.rand(4, 6, dtype=F64, generator=g)
    one_by_one = []
    for k in range(6):
        single = torch.zeros(1, 6, dtype=F64)
        single[0, k] = 1.0
        one_by_one.append(net(h, cells=single))
    each = torch.einsum("bk,kb...->b...", told, torch.stack(one_by_one))
    torch.testing.assert_close(net(h, cells=told), each)
    torch.testing.assert_close(
        net(h, cells=told[:1]), torch.einsum("k,kb...->b...", told[0], torch.stack(one_by_one))
    )


@pytest.mark.parametrize("kind", ["points", "grid"])
def test_a_student_of_heads_starts_as_the_teacher_for_every_jump(kind: str, g) -> None:
    torch.manual_seed(0)
    network = (
        MLP(3, 16, 2) if kind == "points" else UNet((8, 16), in_channels=2, unshuffle=1, num_classes=None)
    )
    shape = (5, 3) if kind == "points" else (5, 2, 8, 8)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    path, x = paths.rectified_flow(), torch.randn(shape, generator=g)
    t = torch.linspace(0.3, 1.0, 5, dtype=F64)
    teacher = NetworkDenoiser(network, path, "edm")
    right = teacher(x, t).mean
    student = NetworkDenoiser(Heads(network, 8), path, "edm", cells=8)
    for r in (0.0, 0.2):
        found = student(x, t, target_time=torch.full_like(t, r)).mean
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        student.cell(x, t, torch.tensor([0, 3, 7, 1, 2])).mean, right, rtol=1e-5, atol=1e-5
    )
    belief, found = student.examine(x, t, answered=2, target_time=torch.zeros_like(t))
    torch.testing.assert_close(belief.mean, right[:2], rtol=1e-5, atol=1e-5)
    assert len(next(iter(found.values()))) == 5


def test_it_is_saved_and_loaded_with_its_heads(tmp_path: Path) -> None:
    given = ["task=exact/gaussian_mixture", "task.network={width: 8, depth: 1}", "recipe=pdd"]
    given += ["updates=3", "batch=8", "fit.updates=0", "student.cells=6", "evaluation.samples=16"]
    cfg = compose("config", [*given, "steps=1,3", "optim.lr=0.05", f"out={tmp_path / 'run'}"])
    distill(cfg)
    student = omnidistill.load(tmp_path / "run")
    spread = student.denoiser.network.network.last
    assert spread.weight.shape == (6, 2, 8) and bool((spread.weight[0] != spread.weight[5]).any())
    one, three = (student.sample(4, steps=n, seed=3) for n in (1, 3))
    assert bool((one != three).any()) and bool(one.isfinite().all())


class Inside(nn.Module):
    """A gain on what a network inside answers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MLP(3, 16, 1)

    def forward(self, x, t):
        return 2.0 * self.inner(x, t) + x


def test_the_last_layer_of_a_network_inside_a_network_is_found(g) -> None:
    """What is made of its answer is linear, which commutes with the mean of heads; so on clouds."""
    x, t, told = torch.randn(3, 5, 3, generator=g), torch.rand(3, generator=g), torch.rand(3, 4, generator=g)
    told = told / told.sum(1, keepdim=True)
    for network, place, state in ((Inside(), "inner.last", x[:, 0]), (PosedMemory(5, 4, 16, 1), "last", x)):
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
        heads = Heads(network, 4)
        spread = heads.network.get_submodule(place)
        spread.weight.data += 0.1 * torch.randn(spread.weight.shape, generator=g)
        each = torch.stack([heads(state, t, cells=torch.eye(4)[k : k + 1]) for k in range(4)])
        mean = torch.einsum("bk,kb...->b...", told, each)
        torch.testing.assert_close(heads(state, t, cells=told), mean, rtol=1e-4, atol=1e-5)
        assert float((each[0] - each[3]).abs().max()) > 1e-3


def test_what_has_no_heads_is_said_in_a_line() -> None:
    path = paths.rectified_flow()
    with pytest.raises(UserError, match="last_module"):
        Heads(nn.Sequential(nn.Linear(2, 2)), 4)
    with pytest.raises(UserError, match="linear or a plain convolution"):
        Spread(nn.Conv1d(4, 4, 3, groups=2), 4)
    with pytest.raises(UserError, match="recipe=flow-map-matching"):
        NetworkDenoiser(MLP(2, 8, 1), paths.OneHotPath(3), "logits", cells=4)
    with pytest.raises(UserError, match=r"student\.cells"):
        NetworkDenoiser(MLP(2, 8, 1), path, "flow").cell(
            torch.zeros(1, 2), torch.ones(1, dtype=F64), torch.zeros(1, dtype=torch.long), Context()
        )
    heads = Heads(MLP(2, 8, 1), 4)
    with pytest.raises(TypeError):
        heads(torch.zeros(1, 2), torch.ones(1))
