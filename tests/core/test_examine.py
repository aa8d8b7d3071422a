"""One question, two answers: a belief and inner features from one counted call, as outputs of the network."""

import pytest
import torch
from torch import nn

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.networks.mlp import MLP
from omnidistill.networks.point_transformer import PointTransformer
from omnidistill.networks.transformer import Transformer
from omnidistill.networks.unet import UNet


def awake(network):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def mlp():
    return MLP(3, width=8, depth=2), torch.randn(4, 3), None, ("blocks",)


def unet():
    network = UNet(channels=(8, 16), blocks=1, num_classes=None, heads=2)
    return network, torch.randn(4, 1, 8, 8), None, ("down.0", "middle", "up.1")


def ragged_unet():
    mask = torch.arange(12) < torch.tensor([12, 7, 4, 9])[:, None, None, None]
    network = UNet(channels=(8, 16), blocks=1, num_classes=None, heads=2)
    return network, torch.randn(4, 1, 8, 12), mask, ("middle", "down.1")


def points():
    mask = torch.arange(6) < torch.tensor([6, 4, 3, 5])[:, None]
    return PointTransformer(6, 16, 1, 2), torch.randn(4, 6, 3), mask[..., None], ("trunk",)


def tokens():
    return Transformer(5, 6, 16, 1, 2), torch.randint(6, (4, 6)), None, ("trunk",)


CASES = {case.__name__: case for case in (mlp, unet, ragged_unet, points, tokens)}


def build(name):
    torch.manual_seed(0)
    network, x, mask, layers = CASES[name]()
    path = paths.MaskedPath(5) if name == "tokens" else paths.rectified_flow()
    denoiser = NetworkDenoiser(awake(network), path, "logits" if name == "tokens" else "flow")
    return denoiser, x, torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64), Context(mask=mask), layers


@pytest.mark.parametrize("name", CASES)
def test_features_are_the_layers_outputs_and_the_belief_is_that_of_a_call(name, monkeypatch):
    denoiser, x, t, context, layers = build(name)
    seen, handles = {}, []
    for layer in layers:
        module = denoiser.network.get_submodule(layer)
        handles.append(module.register_forward_hook(lambda m, i, o, layer=layer: seen.update({layer: o})))
    expected = denoiser(x, t, context).parameters
    for handle in handles:
        handle.remove()

    def refuse(*args, **keywords):
        raise AssertionError("a network of ours needs no hooks")

    monkeypatch.setattr(nn.Module, "register_forward_hook", refuse)
    belief, found = denoiser.examine(x, t, context, layers)
    assert denoiser.calls == 2 and set(found) == set(layers)
    torch.testing.assert_close(belief.parameters, expected)
    for layer in layers:
        torch.testing.assert_close(found[layer], seen[layer])
    for answered in (0, 1, 3):
        some, again = denoiser.examine(x, t, context, layers, answered=answered)
        assert (some is None) == (answered == 0)
        if some is not None:
            torch.testing.assert_close(some.parameters, expected[:answered], rtol=1e-4, atol=1e-5)
        for layer in layers[-1:]:
            torch.testing.assert_close(again[layer], seen[layer])
    declared = denoiser.network.feature_module
    torch.testing.assert_close(denoiser.features(x, t, context), denoiser.pool(seen[declared], context))
    assert denoiser.calls == 6
    with pytest.raises(UserError, match=f"unknown layer 'nowhere'; known: .*{declared}"):
        denoiser.examine(x, t, context, ("nowhere",))


def test_only_the_first_samples_go_beyond_the_last_layer():
    denoiser, x, t, context, _ = build("unet")
    seen = []
    denoiser.network.last.register_forward_hook(lambda m, inputs, o: seen.append(len(inputs[0])))
    for answered in (None, 2, 0):
        denoiser.examine(x, t, context, ("middle",), answered=answered)
    assert seen == [4, 2]


class Foreign(nn.Module):
    feature_module, feature_axis, feature_channels = "inner", 1, 5

    def __init__(self):
        super().__init__()
        self.outer, self.inner, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x, t):
        return self.last(self.inner(self.outer(x)))


def test_somebody_elses_module_is_asked_by_names_several_at_once():
    network, x = Foreign(), torch.randn(4, 3)
    denoiser = NetworkDenoiser(network, paths.rectified_flow(), "x0")
    belief, found = denoiser.examine(x, 0.5, layers=("outer", "inner"), answered=2)
    torch.testing.assert_close(found["outer"], network.outer(x))
    torch.testing.assert_close(found["inner"], network.inner(network.outer(x)))
    torch.testing.assert_close(belief.mean, network(x, 0.5)[:2])
    assert denoiser.calls == 1
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(UserError, match="no layer called 'nowhere'"):
        denoiser.examine(x, 0.5, layers=("nowhere",))


def test_a_compiled_network_keeps_its_features():
    denoiser, x, t, context, layers = build("mlp")
    expected = denoiser.examine(x, t, context, layers)[1]
    denoiser.network = torch.compile(denoiser.network, backend="eager")
    found = denoiser.examine(x, t, context, layers)[1]
    torch.testing.assert_close(found["blocks"], expected["blocks"])
    assert denoiser.feature_channels() == 8 and denoiser.features(x, t).shape == (4, 8)
