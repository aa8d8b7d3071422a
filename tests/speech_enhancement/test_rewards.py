"""The rewards: they point at the clean recording, ignore loudness and padding, and leave finite gradients."""

import pytest
import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.speech.enhancement import metrics
from omnidistill.modalities.speech.enhancement.rewards import LogMel, SiSdr
from omnidistill.modalities.speech.enhancement.spectrogram import Spectrogram
from omnidistill.random import generator

encode, decode = Spectrogram().encode, Spectrogram().decode

REWARDS = [SiSdr(), LogMel()]


@pytest.fixture(scope="module")
def clean(voices: list[Tensor]) -> Tensor:
    return encode(torch.stack([w[:12800] for w in voices[:3]]))


def spoilt(clean: Tensor, share: float = 0.3) -> Tensor:
    return clean + share * clean.std() * torch.randn(clean.shape, generator=generator(0))


@pytest.mark.parametrize("reward", REWARDS)
def test_more_noise_is_less_reward(reward, clean: Tensor) -> None:  # type: ignore[no-untyped-def]
    values = torch.stack([reward(spoilt(clean, share), clean, Context()) for share in (0.0, 0.1, 0.3, 1.0)])
    assert values.shape == (4, 3) and (values.diff(dim=0) < 0).all()


@pytest.mark.parametrize("reward", REWARDS)
def test_a_step_up_the_gradient_gains_what_it_promises_and_nears_the_clean(reward, clean: Tensor) -> None:  # type: ignore[no-untyped-def]
    x = spoilt(clean).requires_grad_()
    before = reward(x, clean, Context())
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert gradient.isfinite().all()
    step = 1e-4 * clean.norm() * gradient / gradient.norm()
    gained = (reward(x.detach() + step, clean, Context()) - before.detach()).sum()
    assert float(gained) == pytest.approx(float((gradient * step).sum()), rel=0.1) and gained > 0
    towards = clean - x.detach()
    assert float((gradient * towards).sum()) > 0


@pytest.mark.parametrize("reward", REWARDS)
def test_loudness_does_not_matter(reward, clean: Tensor) -> None:  # type: ignore[no-untyped-def]
    # Half the spectrogram is a quarter of the wave.
    a, b = (reward(gain * spoilt(clean), clean, Context()) for gain in (1.0, 0.5))
    torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("reward", REWARDS)
def test_padding_changes_neither_value_nor_gradient(reward, clean: Tensor) -> None:  # type: ignore[no-untyped-def]
    x, t = spoilt(clean), clean.shape[-1]
    mask = (torch.arange(t + 9) < t).expand(3, 1, 1, -1)
    wide, truth = (torch.nn.functional.pad(z, (0, 9), value=3.0) for z in (x, clean))
    wide.requires_grad_()
    x = x.clone().requires_grad_()
    short, long = reward(x, clean, Context()), reward(wide, truth, Context(mask=mask))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-4)
    (a,), (b,) = torch.autograd.grad(short.sum(), x), torch.autograd.grad(long.sum(), wide)
    torch.testing.assert_close(a, b[..., :t], rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    assert not b[..., t:].any()


def test_si_sdr_is_the_metric(clean: Tensor, voices: list[Tensor]) -> None:

    x = spoilt(clean)
    expected = metrics.si_sdr(decode(x), decode(clean))
    torch.testing.assert_close(SiSdr(best=200.0)(x, clean, Context()), expected, atol=1e-2, rtol=0)
    assert float(SiSdr(best=30.0)(clean, clean, Context()).max()) == pytest.approx(30.0, abs=0.1)


@pytest.mark.parametrize("reward", REWARDS)
def test_silence_and_a_perfect_answer_have_gradients(reward, clean: Tensor) -> None:  # type: ignore[no-untyped-def]
    for x in (torch.zeros_like(clean), clean.clone()):
        x.requires_grad_()
        reward(x, clean, Context()).sum().backward()
        assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("reward", REWARDS)
def test_without_data_there_is_nothing_to_compare_with(reward, clean: Tensor) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="clean recordings"):
        reward(clean, None, Context())
