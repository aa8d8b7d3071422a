"""Every draw of the project. One generator is passed down; padding never moves the random stream.

With a mask only real elements draw numbers, in order, so a sample and its zero-padded copy see the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the keys alone, e.g. `generator(seed, "student", update)`.

    Deriving each update's stream from its number makes resumption exact without storing any random state.
    """
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def _device(g: torch.Generator | None) -> torch.device | None:
    return None if g is None else g.device


def normal(
    like: Tensor, g: torch.Generator | None, mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Standard normal noise shaped like `like`; zero where `mask` is False."""
    dtype = dtype or (like.dtype if like.is_floating_point() else torch.float32)
    if mask is None:
        return torch.randn(like.shape, generator=g, device=_device(g), dtype=dtype).to(like.device)
    return _scatter(like, mask, g, lambda n: torch.randn(n, generator=g, device=_device(g), dtype=dtype))


def uniform(like: Tensor, g: torch.Generator | None, mask: Tensor | None = None) -> Tensor:
    """Uniform [0, 1) float64 numbers shaped like `like`; zero where `mask` is False."""
    if mask is None:
        return torch.rand(like.shape, generator=g, device=_device(g), dtype=torch.float64).to(like.device)
    return _scatter(
        like, mask, g, lambda n: torch.rand(n, generator=g, device=_device(g), dtype=torch.float64)
    )


def _scatter(like: Tensor, mask: Tensor, g: torch.Generator | None, draw: Callable[[int], Tensor]) -> Tensor:
    real = mask.expand(like.shape)
    # A part of a batch takes its share of the whole batch's draw (`training.parts`).
    part = getattr(g, "under", None)
    values = (draw(int(real.sum())) if part is None else part(like, mask, draw)).to(like.device)
    return torch.zeros(like.shape, dtype=values.dtype, device=like.device).masked_scatter_(real, values)


def categorical(probs: Tensor, g: torch.Generator | None, mask: Tensor | None = None) -> Tensor:
    """Samples from `probs: Float[... k]` by inverse distribution function in float64.

    Float32 Gumbel noise truncates its tail and sharpens the distribution (Zheng et al. 2024, "Masked diffusion
    models are secretly time-agnostic masked models"), hence float64 here, whatever the network's precision.
    """
    cumulative = probs.double().cumsum(-1)
    u = uniform(probs[..., 0], g, mask).unsqueeze(-1) * cumulative[..., -1:]
    return (
        torch.searchsorted(cumulative.contiguous(), u.contiguous(), right=True)
        .squeeze(-1)
        .clamp_(max=probs.shape[-1] - 1)
    )
