"""Rows of a cache as a source of batches. Files are mapped; of a batch the rows drawn are read and no others."""

from __future__ import annotations

from functools import cached_property, reduce
from pathlib import Path as FilePath

import torch
from torch import Tensor

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.random import uniform
from omnidistill.training.cache_format import SPLITS, read_header, read_shard, shards


class Cache:
    """The rows of a folder that `omnidistill cache` wrote, as a source of batches; each file is checked once, when its
    split is first asked for.

    `cache(count, generator)` draws training rows, so it is what `omnidistill.distill(data=...)` takes;
    `held_out(count)` are the first rows that training never sees.

    Example:
        >>> cache = omnidistill.Cache("runs/latents")
        >>> omnidistill.distill(teacher, "dmd2", data=cache, shape=cache.shape, held_out=cache.held_out(256))

    Raises:
        UserError: no cache, or one with a shard that is missing or damaged.
    """

    def __init__(self, folder: str | FilePath) -> None:
        self.folder = FilePath(folder)
        self.header = read_header(self.folder)
        self.shape, self.labels = self.header.shape, self.header.labels
        for split in SPLITS:
            wanted = self.header.count(split)
            there = len(shards(self.folder, self.header, split).whole(wanted))
            if there < wanted:
                raise UserError(
                    f"'{folder}' holds {there} of {wanted} shards of {split}; `omnidistill cache` with out={folder} "
                    "resume=true makes the others"
                )

    def __call__(self, count: int, g: torch.Generator) -> Batch:
        return self.batch(count, g)

    def __len__(self) -> int:
        return self.header.sizes["train"]

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """Rows drawn with replacement."""
        return self.rows((uniform(torch.empty(count), g) * self.header.sizes[split]).long(), split)

    def held_out(self, count: int) -> Batch:
        """The first rows of the held-out split, all of them where it has fewer."""
        return self.rows(torch.arange(min(count, self.header.sizes["held_out"])), "held_out")

    def rows(self, index: Tensor, split: str) -> Batch:
        """These rows, Long[b]."""
        piece = index // self.header.shard
        order = torch.argsort(piece, stable=True)
        found = []
        for number in piece.unique().tolist():
            x0, context = self._pieces[split][number]
            local = index[order][piece[order] == number] - number * self.header.shard
            found.append((x0[local], context[local]))
        back = torch.argsort(order)
        context = reduce(Context.joined, (context for _, context in found))[back]
        return Batch(torch.cat([x0 for x0, _ in found])[back], context)

    @cached_property
    def _pieces(self) -> dict[str, list[tuple[Tensor, Context]]]:
        return {
            split: [read_shard(self.folder, self.header, split, i) for i in range(self.header.count(split))]
            for split in SPLITS
        }

    def check(self, shape: tuple[int, ...], digest: str, mend: str) -> None:
        """
        Raises:
            UserError: rows of another shape, or made by another encoder than the one with this digest.
        """
        if self.shape != tuple(shape):
            raise UserError(
                f"'{self.folder}' holds samples of {self.shape} and the teacher makes {tuple(shape)}; make a cache "
                "with its encoder"
            )
        if digest != self.header.digest and (digest or ":" not in self.header.encoder):
            # What a function of the user's made is no autoencoder's here, and is shown as it is.
            a, b = (f"{x[:12]}..." if x else "none" for x in (self.header.digest, digest))
            raise UserError(
                f"'{self.folder}' was made by {self.header.encoder or 'no encoder'} ({a}), and the encoder here is "
                f"another ({b}); {mend}"
            )
