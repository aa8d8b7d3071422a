"""A batch worked off in parts, with the numbers of the whole: `accumulate=N`.

Each part sees the rows of the data, and of every draw, that the whole batch would have had in its place, and its losses
count by its share of the samples. A loss that is a mean over samples then has the gradient of the whole batch to
rounding. What couples the samples of a batch sees one part instead: batch statistics of a network (BatchNorm), units
that a layer drops by itself, diagnostics that compare samples with one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from omnidistill.context import Batch
from omnidistill.errors import UserError


def cut(count: int, parts: int) -> list[slice]:
    """`count` samples in that many slices, as even as can be; fewer where there are not as many samples."""
    parts = min(parts, count)
    edges = [count * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def rows(batch: Batch, where: slice) -> Batch:
    """These samples of the batch."""
    x0 = None if batch.x0 is None else batch.x0[where]
    extra = {name: value[where] for name, value in batch.extra.items()}
    return Batch(x0, batch.context[where], where.stop - where.start, extra)


class PartGenerator(torch.Generator):
    """A generator of the whole batch's stream, of which `Draws` hands out one part's rows."""

    where: slice
    count: int
    mask: Tensor | None
    entire = False  # while a draw is already that of the whole batch

    @classmethod
    def of(cls, g: torch.Generator, where: slice, count: int, mask: Tensor | None) -> PartGenerator:
        """
        Args:
            g: the generator that the whole batch would draw from; nothing was drawn from it yet.
            where: the part's rows.
            count: samples of the whole batch.
            mask: of the whole batch: only real elements draw.
        """
        self = cls(g.device)
        self.manual_seed(g.initial_seed())
        self.where, self.count, self.mask = where, count, mask
        return self

    def under(self, like: Tensor, mask: Tensor, draw: Callable[[int], Tensor]) -> Tensor:
        """A draw of one number a real element of `like`: made for all those of the whole batch, the part's returned."""
        if self.mask is None or not torch.equal(mask, self.mask[self.where]):
            raise UserError("accumulate cuts draws under the batch's own mask alone; set accumulate=1")
        real = self.mask.expand(self.count, *like.shape[1:]).flatten(1).sum(1)
        before, own = int(real[: self.where.start].sum()), int(real[self.where].sum())
        self.entire = True
        try:
            return draw(int(real.sum()))[before : before + own]
        finally:
            self.entire = False


class Draws(TorchFunctionMode):
    """While it is on, draws from a `PartGenerator` are made for the whole batch and cut to the part.

    A draw belongs to the samples where its first axis is as long as the part (or twice as long, for two halves asked
    together); one of any other shape is one for the whole batch, such as which step to train. A draw of one number
    for each real element, as `omnidistill.random` makes it under a mask, is made for all those of the batch.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        g = kwargs.get("generator")
        if not isinstance(g, PartGenerator) or g.entire:
            return function(*args, **kwargs)
        if function in (torch.rand, torch.randn):
            size = kwargs.pop("size", None) or (args[0] if args and not isinstance(args[0], int) else args)
            return self._sized(lambda whole: function(whole, **kwargs), tuple(size), g)
        if function is torch.randint:
            bounds = list(args)
            size = kwargs.pop("size", None) or bounds.pop()
            return self._sized(lambda whole: function(*bounds, size=whole, **kwargs), tuple(size), g)  # type: ignore[call-overload]
        if function is torch.randperm:
            return function(*args, **kwargs)
        raise UserError(
            f"accumulate cannot cut a draw by {getattr(function, '__name__', function)}; draw with omnidistill.random, "
            "torch.rand, torch.randn or torch.randint, or set accumulate=1"
        )

    def _sized(
        self, draw: Callable[[tuple[int, ...]], Tensor], size: tuple[int, ...], g: PartGenerator
    ) -> Tensor:
        part = g.where.stop - g.where.start
        if not size or size[0] not in (part, 2 * part):
            return draw(size)
        halves = size[0] // part
        whole = draw((halves * g.count, *size[1:]))
        return torch.cat([half[g.where] for half in whole.split(g.count)])


def drawn_apart(
    draw: Callable[[int, torch.Generator], Batch], count: int, where: slice, g: torch.Generator
) -> Batch | None:
    """These rows of a batch of `count` samples, without the others being made; None where `draw` draws in a way that
    cannot be cut.

    Args:
        g: the generator that the whole batch would draw from.
    """
    try:
        with Draws():
            return draw(where.stop - where.start, PartGenerator.of(g, where, count, None))
    except UserError:
        return None


def same(one: Batch, other: Batch | None) -> bool:
    """Whether two batches hold the same numbers."""
    if other is None:
        return False
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tensors(batch: Batch) -> dict[str, Tensor]:
    """Every tensor of a batch by name."""
    found: dict[str, Tensor] = {} if batch.x0 is None else {"x0": batch.x0}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        elif value is not None:
            found[name] = value

    for field in fields(batch.context):
        add(field.name, getattr(batch.context, field.name))
    add("extra", batch.extra)
    return found
