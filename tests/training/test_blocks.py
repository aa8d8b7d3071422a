"""Blocks whose inside is computed again: the same numbers from less that is kept."""

import pytest
import torch
from torch import nn

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.objectives import Consistency, Matching, Nodes, Weighted
from omnidistill.training import blocks


class Deep(nn.Module):
    """Float[b 2] through a list of blocks with dropout."""

    feature_module, feature_axis, feature_channels = "layers.2.0", 1, 16

    def __init__(self, told: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3 + told, 16), nn.Linear(16, 2)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 16)) for _ in range(4)
        )

    def forward(self, x, t, condition=None, **keywords):
        more = [keywords["target_time"][:, None]] if "target_time" in keywords else []
        h = self.first(torch.cat((x, t[:, None], *more), 1))
        for layer in self.layers:
            h = h + layer(h)
        return self.last(h)


@pytest.fixture(autouse=True)
def every_module_is_large_enough(monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", 1)


def test_the_block_with_the_layer_for_heads_is_left_out():
    network = Deep()
    assert blocks.blocks(network) == [network.layers[i] for i in (0, 1, 3)]
    network.feature_module = "layers.2"
    assert len(blocks.blocks(network)) == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_blocks_give_the_same_numbers_from_less_memory(engine, tmp_path, precision):
    kept, weights = {}, {}

    def make(recompute):
        torch.manual_seed(0)
        denoisers = [NetworkDenoiser(Deep(), engine.task.path, "edm", unit_input=True) for _ in range(2)]
        objective = Weighted({"c": Consistency(jumps=Nodes(4)), "m": Matching()}, {"c": 1.0, "m": 1.0})
        return engine.module(
            objective,
            student=denoisers[0],
            origin=denoisers[1],
            updates=3,
            precision=precision,
            recompute=recompute,
        )

    for recompute in (False, True):
        module, size = make(recompute), [0]

        def pack(tensor, size=size):
            size[0] += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            engine.run(module, tmp_path / str(recompute))
        kept[recompute], weights[recompute] = size[0], engine.state(module)
    assert all(torch.equal(weights[True][name], value) for name, value in weights[False].items())
    assert kept[True] < 0.6 * kept[False], kept


def test_a_tangent_flows_through_recomputed_blocks():
    network, plain = Deep(), Deep()
    plain.load_state_dict(network.state_dict())
    blocks.recompute(network)
    x, t = torch.randn(3, 2), torch.full((3,), 0.5)
    for one in (network, plain):
        one.eval()
        value, tangent = torch.func.jvp(lambda x, one=one: one(x, t), (x,), (torch.ones_like(x),))
        (value.sum() + tangent.square().sum()).backward()
    assert torch.equal(network.first.weight.grad, plain.first.weight.grad)
