"""Every draw of the project. One generator is passed down; padding never moves the random stream.

With a mask only real elements draw numbers, in order, so a sample and its zero-padded copy see the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the keys alone, e.g. `generator(seed, "student", update)`.

    Deriving each update's stream from its number makes resumption exact without storing any random state.
    """
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


@contextmanager
def layers_own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generator, which no layer can be told to leave: within, it is seeded, so that a
    resumed run drops the same units; afterwards it is as it was."""
    drawing = [torch.default_generator]
    if device.type == "cuda":
        drawing.append(torch.cuda.default_generators[device.index or 0])
    before = [g.get_state() for g in drawing]
    try:
        for g in drawing:
            # Not `torch.manual_seed`: it leaves word, with a trace of the stack, for devices that are not used.
            g.manual_seed(seed)
        yield
    finally:
        for g, state in zip(drawing, before, strict=True):
            g.set_state(state)


class PerSample:
    """A generator for each sample of a batch: what is drawn for one does not depend on which others are beside it.

    Takes the place of one generator in `normal`, `uniform` and `categorical`. Slower, one draw a sample, and so for
    sampling alone; training derives one stream from each update's number.

    Args:
        generators: one for each entry of the first axis of what is drawn.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = tuple(generators)
        self.device = self.generators[0].device

    def draw(self, counts: Sequence[int], draw: Draw) -> Shaped[Tensor, "drawn"]:
        """`counts[i]` numbers of the generator i, one after another in one vector."""
        if len(counts) != len(self.generators):
            raise ValueError(f"{len(self.generators)} generators for a batch of {len(counts)}")
        return torch.cat([draw(n, g) for n, g in zip(counts, self.generators, strict=True)])


def in_order(count: int, g: torch.Generator) -> PerSample:
    """A generator for each of `count` samples, made of one: the first of many draw what the only one would.

    `torch.randn(count, d)` does not keep that order, `torch.rand` and `torch.randint` of one number a sample do.
    """
    seeds = torch.randint(2**62, (count,), generator=g, device=g.device).tolist()
    return PerSample([torch.Generator(g.device).manual_seed(seed) for seed in seeds])


Draw = Callable[[int, "torch.Generator | None"], Tensor]
Source = torch.Generator | PerSample | None


def _device(g: Source) -> torch.device | None:
    return None if g is None else g.device


def normal(
    like: Shaped[Tensor, "..."],
    g: Source,
    mask: Bool[Tensor, "..."] | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "..."]:
    """Standard normal noise shaped like `like`; zero where `mask` is False."""
    dtype = dtype or (like.dtype if like.is_floating_point() else torch.float32)
    if mask is None and not isinstance(g, PerSample):
        return torch.randn(like.shape, generator=g, device=_device(g), dtype=dtype).to(like.device)
    return _drawn(like, g, mask, lambda n, g: torch.randn(n, generator=g, device=_device(g), dtype=dtype))


def uniform(
    like: Shaped[Tensor, "..."], g: Source, mask: Bool[Tensor, "..."] | None = None
) -> Float64[Tensor, "..."]:
    """Uniform [0, 1) float64 numbers shaped like `like`; zero where `mask` is False."""
    if mask is None and not isinstance(g, PerSample):
        return torch.rand(like.shape, generator=g, device=_device(g), dtype=torch.float64).to(like.device)
    return _drawn(
        like, g, mask, lambda n, g: torch.rand(n, generator=g, device=_device(g), dtype=torch.float64)
    )


def _drawn(
    like: Shaped[Tensor, "*state"], g: Source, mask: Bool[Tensor, "*#state"] | None, draw: Draw
) -> Float[Tensor, "*state"]:
    """Numbers for the real elements, in order: of one generator, or of each sample's own."""
    real = torch.ones_like(like, dtype=torch.bool) if mask is None else mask.expand(like.shape)
    if isinstance(g, PerSample):
        values = g.draw(real.flatten(1).sum(1).tolist() if like.ndim > 1 else real.long().tolist(), draw)
    elif part := getattr(
        g, "under", None
    ):  # part of a batch takes its share of the whole one's (`training.parts`)
        values = part(like, mask, lambda n: draw(n, g))
    else:
        values = draw(int(real.sum()), g)
    values = values.to(like.device)
    if mask is None:
        return values.reshape(like.shape)
    return torch.zeros(like.shape, dtype=values.dtype, device=like.device).masked_scatter_(real, values)


def categorical(
    probs: Float[Tensor, "*some k"], g: Source, mask: Bool[Tensor, "*#some"] | None = None
) -> Int[Tensor, "*some"]:
    """Samples from probabilities by inverse distribution function in float64.

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
