"""The convolutional denoiser of text: what it reaches, what padding does, and that both precisions say the same."""

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.text.networks import TextNetwork


def network(seed=0, **options):
    torch.manual_seed(seed)
    made = TextNetwork(10, **{"width": 16, "kernel": 3, "dilations": (1, 2), **options})
    torch.nn.init.normal_(made.head.weight, std=0.3)  # it starts at zero
    return made.eval()


def answer(net, x, **keywords):
    with torch.no_grad():
        return net(x, torch.full((len(x),), 0.5), **keywords)


def test_a_new_network_answers_the_uniform_distribution():
    torch.manual_seed(0)
    x = torch.randint(0, 11, (2, 9))
    assert bool((answer(TextNetwork(10, 16, 3, (1,)), x) == 0).all())


def test_a_sequence_is_answered_alike_with_and_without_padding():
    net, x = network(), torch.randint(0, 11, (1, 12), generator=torch.Generator().manual_seed(0))
    alone = answer(net, x)
    padded = torch.cat((x, torch.full((1, 5), 3)), 1)
    mask = torch.arange(17)[None] < 12
    assert torch.allclose(answer(net, padded, mask=mask)[:, :12], alone, atol=1e-5)
    assert not torch.allclose(answer(net, padded)[:, :12], alone, atol=1e-3)  # unmasked padding would be read


def test_it_reaches_as_far_as_its_dilations_say_and_no_further():
    net = network()
    x = torch.zeros(1, 15, dtype=torch.long)
    other = x.clone()
    other[0, 7] = 5
    moved = (answer(net, x) - answer(net, other)).abs().amax(-1)[0] > 1e-7
    assert moved.nonzero().flatten().tolist() == list(range(4, 11))  # kernel // 2 * (1 + 2) = 3 either way


def test_bfloat16_says_about_the_same():
    net, x = network(), torch.randint(0, 11, (4, 30), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        low = answer(net, x)
    assert low.dtype == torch.bfloat16
    assert (low.float() - answer(net, x)).abs().max() < 0.1


@pytest.mark.parametrize("options", [{"kernel": 4}, {"dilations": ()}, {"width": 0}, {"dilations": (0,)}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(UserError, match="odd kernel"):
        network(**options)


def test_second_times_need_their_embedding():
    with pytest.raises(UserError, match="target_time=False"):
        answer(network(), torch.zeros(1, 4, dtype=torch.long), target_time=torch.zeros(1))
