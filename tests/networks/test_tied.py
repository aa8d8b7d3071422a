"""A weight-tied block: as many blocks of the same weights, its gradient the sum of theirs."""

from __future__ import annotations

import torch

from omnidistill.networks.mlp import MLP, Block, Tied


def test_it_is_as_many_blocks_of_the_same_weights() -> None:
    torch.manual_seed(0)
    tied = Tied(6, 4).double()
    h, scale, shift = (torch.randn(5, 6, dtype=torch.float64) for _ in range(3))
    blocks = [Block(6).double() for _ in range(4)]
    for block in blocks:
        block.load_state_dict(
            {name: value for name, value in tied.state_dict().items() if "inject" not in name}
        )
    z = torch.zeros_like(h)
    for block in blocks:
        z = block(z, scale, shift + h @ tied.inject.weight.detach().T)
    found = tied(h, scale, shift)
    assert torch.allclose(found, z, atol=1e-12)
    found.square().sum().backward()
    z.square().sum().backward()
    for name, parameter in Block(6).named_parameters():
        separate = sum(dict(block.named_parameters())[name].grad for block in blocks)
        assert torch.allclose(dict(tied.named_parameters())[name].grad, separate, atol=1e-10), parameter.shape


def test_more_iterations_are_no_more_weights() -> None:
    sizes = [sum(p.numel() for p in MLP(3, 16, 1, iterations=count).parameters()) for count in (0, 1, 6)]
    assert sizes[0] < sizes[1] == sizes[2]
    network = MLP(3, 16, 1, iterations=6)
    assert set(network.feature_layers) == {"blocks.layers.0", "blocks.layers.1", "blocks"}
    torch.manual_seed(0)
    plain = MLP(3, 16, 2)
    torch.manual_seed(0)
    assert torch.equal(MLP(3, 16, 2, iterations=6).first.weight, plain.first.weight)
