"""Rewards of pictures: the classifier's own log probability, through the decoder with its gradient."""

import pytest
import torch

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.image.codec import SHIPPED, Latents
from omnidistill.modalities.image.metrics import load_classifier
from omnidistill.modalities.image.rewards import Label


def test_pixels_are_judged_by_the_log_probability_of_their_label():
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.tensor([0, 4, 9])
    found = Label()(x, None, Context(labels))
    torch.testing.assert_close(found, load_classifier()(x).log_softmax(1)[torch.arange(3), labels])


def test_latents_are_decoded_with_their_gradient():
    codec = Latents(SHIPPED, (1, 28, 28))
    x = torch.randn(2, *codec.shape, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    labels = torch.tensor([1, 8])
    found = Label(autoencoder="shipped")(x, None, Context(labels))
    torch.testing.assert_close(found, Label()(codec.decode(x), None, Context(labels)))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    with torch.no_grad():
        up = Label(autoencoder="shipped")(x + 1e-2 * gradient / gradient.norm(), None, Context(labels))
    assert (up > found).all()


def test_what_cannot_be_judged_is_one_line():
    latents = torch.zeros(2, 8, 7, 7)
    with pytest.raises(UserError, match=r"judges pixels \(1, 28, 28\), samples are \(8, 7, 7\)"):
        Label()(latents, None, Context(torch.tensor([0, 1])))
    with pytest.raises(UserError, match="take a task that has labels"):
        Label()(torch.zeros(2, 1, 28, 28), None, Context())
    with pytest.raises(UserError, match="no classifier 'imagenet'"):
        Label("imagenet")
