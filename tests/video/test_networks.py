"""The denoiser of clips: frames as channels, silent second embeddings, no company in the batch."""

import pytest
import torch

from omnidistill.errors import NotOffered
from omnidistill.modalities.video.networks import ClipUNet
from omnidistill.modalities.video.views import FrameDifferences, StillFrames


def awake(**options) -> ClipUNet:
    torch.manual_seed(0)
    network = ClipUNet(4, channels=(16, 16), num_classes=2, **options)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs(count: int = 3) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 3, 4, 16, 16, generator=g),
        torch.rand(count, generator=g),
        torch.randint(0, 2, (count,), generator=g),
    )


@torch.no_grad()
def test_every_frame_hears_of_every_other():
    network, (x, t, y) = awake(), inputs()
    before = network(x, t, y)
    assert before.shape == x.shape
    x[:, :, 0] += 1.0
    assert ((network(x, t, y) - before).abs().amax((0, 1, 3, 4)) > 1e-3).all()


@torch.no_grad()
def test_time_and_recording_matter_and_company_does_not():
    network, (x, t, y) = awake(), inputs()
    out = network(x, t, y)
    assert not torch.allclose(network(x, 1 - t, y), out, atol=1e-3)
    assert not torch.allclose(network(x, t, 1 - y), out, atol=1e-3)
    torch.testing.assert_close(network(x[1:2], t[1:2], y[1:2]), out[1:2], atol=1e-5, rtol=1e-4)


def test_differences_of_frames_leave_what_stands_still_alone():
    x = inputs()[0].requires_grad_()
    ground = torch.randn(3, 3, 1, 16, 16)
    view = FrameDifferences(2.0)
    torch.testing.assert_close(view(x + ground), view(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(view(x)[:, :, 1], 2 * (x[:, :, 2] - x[:, :, 1]))
    # So what stands still gets no gradient from any loss of it.
    gradient = torch.autograd.grad(view(x).square().sum(), x)[0]
    assert gradient.abs().max() > 1 and gradient.sum(2).abs().max() < 1e-4


def test_still_frames_show_each_frame_in_turn():
    x = inputs(6)[0]
    still = StillFrames()(x)
    assert still.shape == x.shape
    for row, frame in enumerate((0, 1, 2, 3, 0, 1)):
        assert torch.equal(still[row], x[row, :, frame : frame + 1].expand(3, 4, 16, 16))


@pytest.mark.parametrize("view", [FrameDifferences(), StillFrames()])
def test_views_say_that_they_look_at_clips(view, unchecked):
    for shape in ((4, 2), (4, 1, 1, 3, 3)):
        with pytest.raises(NotOffered, match="looks at clips"):
            view(torch.zeros(shape))
