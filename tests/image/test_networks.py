"""The U-Net: what it ignores at the start, what it depends on once trained, and that layout never changes a result."""

import pytest
import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.image import data
from omnidistill.modalities.image.networks import Classifier, UNet
from omnidistill.networks.grid import Attention

SMALL = {"channels": (16, 32), "num_classes": 10}


def unet(seed: int = 0, awake: bool = False, **options) -> UNet:
    """A small U-Net; `awake` fills the layers that start at zero, so that everything reaches the output."""
    torch.manual_seed(seed)
    network = UNet(**(SMALL | options))
    if awake:
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return network


def inputs(b: int = 6, seed: int = 1, side: int = 28) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(b, 1, side, side, generator=g),
        torch.rand(b, generator=g),
        torch.randint(0, 10, (b,), generator=g),
    )


def test_a_new_network_answers_zero():
    x, t, y = inputs()
    assert torch.equal(unet()(x, t, y), torch.zeros_like(x))


def test_second_time_and_guidance_are_silent_at_the_start():
    x, t, y = inputs()
    plain = unet(awake=True)
    extended = UNet(**SMALL, target_time=True, guidance=True)
    left = extended.load_state_dict(plain.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert all(key.startswith(("target_time.", "guidance.")) for key in left.missing_keys)
    expected = plain(x, t, y)
    assert expected.abs().mean() > 0.01
    assert torch.equal(extended(x, t, y, target_time=t / 2, guidance=1 + t), expected)
    assert torch.equal(extended(x, t, y), expected)
    # The gradient reaches them, and once trained they matter.
    extended(x, t, y, target_time=t / 2, guidance=1 + t).square().mean().backward()
    for module in (extended.target_time, extended.guidance):
        assert module.outer.weight.grad.abs().max() > 0
        torch.nn.init.normal_(module.outer.weight, std=0.1)
    assert not torch.allclose(extended(x, t, y, target_time=t / 2), expected, atol=1e-3)
    assert not torch.allclose(extended(x, t, y, guidance=1 + t), expected, atol=1e-3)


def test_same_seed_same_weights_with_and_without_the_extras():
    plain, extended = unet(3).state_dict(), unet(3, target_time=True, guidance=True).state_dict()
    assert all(torch.equal(plain[key], extended[key]) for key in plain)


def test_what_was_not_built_in_is_refused():
    x, t, y = inputs()
    with pytest.raises(UserError, match="target_time=False"):
        unet()(x, t, y, target_time=t)
    with pytest.raises(UserError, match="guidance=False"):
        unet()(x, t, y, guidance=t)
    with pytest.raises(UserError, match="num_classes=None"):
        unet(num_classes=None)(x, t, y)


def test_class_and_time_matter_and_no_class_is_the_null_label():
    x, t, y = inputs()
    network = unet(awake=True)
    out = network(x, t, y)
    assert (network(x, t, (y + 1) % 10) - out).abs().flatten(1).mean(1).min() > 1e-4
    assert (network(x, 1 - t, y) - out).abs().flatten(1).mean(1).min() > 1e-4
    assert torch.equal(network(x, t), network(x, t, torch.full_like(y, 10)))
    # Samples of a batch do not see each other.
    torch.testing.assert_close(network(x[2:3], t[2:3], y[2:3]), out[2:3], atol=1e-5, rtol=1e-4)


def test_every_parameter_gets_a_gradient():
    x, t, y = inputs()
    network = unet(awake=True, target_time=True, guidance=True)
    network(x, t, y, target_time=t / 2, guidance=t).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("side", [28, 8, 14])
def test_channels_last_equals_contiguous(side):
    x, t, y = inputs(side=side)
    network = unet(awake=True).double()
    x = x.double().requires_grad_()
    expected = network(x, t, y)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    network = network.to(memory_format=torch.channels_last)
    out = network(x.to(memory_format=torch.channels_last), t, y)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-9, rtol=1e-7)


def test_digits_configuration_and_odd_levels():
    x, t, y = inputs(side=8)
    network = UNet(channels=(16, 32), unshuffle=1)
    assert network(x, t, y).shape == x.shape
    x, t, y = inputs(side=28)  # 14, 7 and 4 positions a side: 7 is odd
    assert unet(channels=(16, 32, 32), awake=True)(x, t, y).shape == x.shape


def test_middle_is_the_feature_module():
    seen = []
    network = unet(awake=True)
    network.get_submodule(UNet.feature_module).register_forward_hook(lambda m, i, out: seen.append(out))
    network(*inputs())
    assert seen[0].shape[UNet.feature_axis] == 32 and seen[0].shape == (6, 32, 7, 7)


def test_attention_is_scaled_dot_product_attention():
    torch.manual_seed(0)
    layer = Attention(32, heads=4).double()
    torch.nn.init.normal_(layer.project.weight, std=0.1)
    x = torch.randn(2, 32, 5, 3, dtype=torch.float64)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in layer.qkv(tokens).chunk(3, dim=-1))
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), x + layer.project(mixed).transpose(1, 2).unflatten(2, (5, 3)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_forward_mode_derivative_matches_finite_differences(layout):
    x, t, y = inputs(b=2)
    network = unet(awake=True, target_time=True).double().to(memory_format=layout)
    x, t = x.double().to(memory_format=layout), t.double()
    dx, dt = torch.randn_like(x), torch.ones_like(t)

    # Times are embedded in float32, so the step must be coarse there: differentiate by x alone for accuracy.
    _, tangent = torch.func.jvp(lambda x: network(x, t, y, target_time=t / 2), (x,), (dx,))
    step = 1e-5
    with torch.no_grad():
        ahead, behind = (network(x + s * step * dx, t, y, target_time=t / 2) for s in (1, -1))
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), atol=1e-5, rtol=1e-4)

    _, tangent = torch.func.jvp(lambda t: network(x, t, y, target_time=t / 2), (t,), (dt,))
    step = 1e-3
    with torch.no_grad():
        ahead, behind = (network(x, t + s * step, y, target_time=(t + s * step) / 2) for s in (1, -1))
    difference = (ahead - behind) / (2 * step)
    assert (tangent - difference).norm() < 0.02 * difference.norm()


def test_bfloat16_autocast_stays_close():
    x, t, y = inputs()
    network = unet(awake=True).to(memory_format=torch.channels_last)
    exact = network(x, t, y)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        rough = network(x, t, y)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_it_learns_to_denoise_by_class():
    """Posterior means of two real images under strong noise: what is left is decided by the class alone."""
    images, labels = data.heldout()
    chosen = torch.stack([(labels == c).nonzero()[0, 0] for c in (1, 8)])
    targets, classes = images[chosen], labels[chosen]
    g = torch.Generator().manual_seed(0)
    network = unet()
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, foreach=True)

    def loss() -> Tensor:
        pick = torch.randint(0, 2, (16,), generator=g)
        noise = torch.randn(16, 1, 28, 28, generator=g)
        t = torch.full((16,), 0.9)
        out = network(0.1 * targets[pick] + 0.9 * noise, t, classes[pick])
        return (out - targets[pick]).square().mean()

    untrained = loss().item()
    for _ in range(150):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    with torch.no_grad():
        trained = loss().item()
    # A network blind to the class cannot do better than the spread around the mean of both images.
    blind = (targets - targets.mean(0)).square().mean().item()
    assert untrained > blind > 0
    assert trained < 0.3 * blind


def test_classifier_features_lead_to_its_logits():
    torch.manual_seed(0)
    classifier = Classifier().eval()
    x, _, _ = inputs()
    features = classifier.features(x)
    assert features.shape == (6, 128) and features.min() >= 0
    torch.testing.assert_close(classifier.head(features), classifier(x))
    assert 100_000 < sum(p.numel() for p in classifier.parameters()) < 200_000
