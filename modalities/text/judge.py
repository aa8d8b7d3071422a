"""Judges of text: how many bits a character costs. Our own n-gram model, and SmolLM2 where it is installed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Int
from torch import Tensor

BITS = 1.0 / math.log(2.0)


class NGrams:
    """Interpolated Kneser-Ney over characters (Chen and Goodman 1998, sec. 2.7, with one discount for each order).

        p_k(c | h) = max(N(hc) - D_k, 0) / S(h) + D_k T(h) / S(h) p_{k-1}(c | h'),     p_0(c) = 1 / vocab

    N counts occurrences at the highest order and different left neighbours below it, S(h) = sum_c N(hc), T(h) is the
    number of different c after h, h' is h without its first character, D_k = n1 / (n1 + 2 n2) with n_i the number of
    k-grams counted i times. A history never seen leaves the answer to the order below. Every sequence begins after a
    history of `order - 1` boundary symbols, which are never predicted themselves.

    Args:
        ids, lengths: sequences one after another, in 0 ... vocab - 1, and their lengths.
        vocab: number of characters.
        order: characters in the longest n-gram, at least 1.
    """

    def __init__(
        self, ids: Int[Tensor, "total"], lengths: Int[Tensor, "sequences"], vocab: int, order: int = 6
    ) -> None:
        if order < 1 or (vocab + 1) ** order >= 2**63:
            raise ValueError(f"n-grams of order {order} over {vocab} characters do not fit 64 bits")
        self.vocab, self.order, self.base = vocab, order, vocab + 1
        keys, counts = torch.unique(self._keys(ids, lengths), return_counts=True)
        self.levels: list[_Level] = []
        for k in range(order, 0, -1):
            self.levels.insert(0, _Level(keys, counts, self.base))
            # Below the highest order an n-gram counts once for each different character before it.
            keys, counts = torch.unique(keys % self.base ** (k - 1), return_counts=True)

    def log_probs(
        self, ids: Int[Tensor, "total"], lengths: Int[Tensor, "sequences"]
    ) -> Float64[Tensor, "total"]:
        """`log p(c | history)` of every character, nats."""
        keys = self._keys(ids, lengths)
        probs = torch.full(ids.shape, 1.0 / self.vocab, dtype=torch.float64)
        for k, level in enumerate(self.levels, 1):
            probs = level(keys % self.base**k, probs)
        return probs.log()

    def _keys(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The `order` characters that end at each place as one number, the newest in the lowest digit."""
        place = torch.arange(len(ids)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        keys = torch.zeros_like(ids)
        for back in range(self.order - 1, -1, -1):
            digit = torch.where(
                place >= back, ids.roll(back), self.vocab
            )  # the boundary before the beginning
            keys = keys * self.base + digit
        return keys


class _Level:
    """The n-grams of one length: sorted keys, and for the history of each the sums that smoothing needs."""

    def __init__(self, keys: Tensor, counts: Tensor, base: int) -> None:
        self.keys, self.base = keys, base
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        self.discount = once / (once + 2 * twice) if once else 0.5
        self.counts = counts.double()
        self.histories, which = torch.unique_consecutive(keys // base, return_inverse=True)
        self.total = torch.zeros(len(self.histories), dtype=torch.float64).index_add_(0, which, self.counts)
        self.different = torch.bincount(which).double()

    def __call__(self, keys: Tensor, below: Tensor) -> Tensor:
        at, seen = _find(self.histories, keys // self.base)
        place, known = _find(self.keys, keys)
        own = torch.where(known, (self.counts[place] - self.discount).clamp_min(0.0), 0.0)
        return torch.where(seen, (own + self.discount * self.different[at] * below) / self.total[at], below)


def _find(table: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    at = torch.searchsorted(table, values).clamp_max(len(table) - 1)
    return at, table[at] == values
