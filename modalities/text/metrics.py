"""How good generated text is: bits a character costs a judge, and beside it what shows that this was not bought with
repetition: entropy within a sample, the share of different word pairs, the share of real words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float64, Int, Shaped
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.text.judge import BITS, NGrams
from omnidistill.modalities.text.own_tokens import OwnTokens
from omnidistill.modalities.text.tokens import Tokens


class TextMetrics:
    """Metrics against one training text and one held-out text.

    Args:
        training, held_out: cleaned stretches of text.
        alphabet: the characters they consist of.
        order: of the judge's n-grams.

    `measure` gives
        bits_per_char: `-log2 p` under the n-gram judge, all characters of all samples together. Low for real text and
            lower still for text that repeats itself: to be read beside the entropy.
        entropy: of the character frequencies WITHIN a sample, averaged over samples, nats.
        entropy_ratio: the same over its value on held-out text; a claim needs it within 0.95 ... 1.05.
        real_words: share of words that occur in the training text.
        distinct_2: different pairs of neighbouring words over all pairs, in all samples together (Li et al. 2016). It
            is high for invented words, too: to be read beside `real_words`.
        characters: a sample has on average; over the number of network calls it is the tokens per forward.
    """

    def __init__(
        self, training: Sequence[str], held_out: Sequence[str], alphabet: str, order: int = 6
    ) -> None:
        self._characters = Tokens(alphabet)
        self.judge = NGrams(*self._characters.encode_all(training), self._characters.vocab, order)
        self.words = frozenset(word for text in training for word in _words(text))
        self.real_entropy = float(self._entropy(held_out).mean())

    def measure(self, texts: Sequence[str]) -> dict[str, float]:
        texts = [text for text in texts if text]
        if not texts:
            raise UserError("there is no character to measure; every sample is empty")
        ids, lengths = self._characters.encode_all(texts)
        words = [_words(text) for text in texts]
        flat = [word for sample in words for word in sample]
        pairs = [pair for sample in words for pair in pairwise(sample)]
        entropy = float(self._entropy(texts).mean())
        return {
            "bits_per_char": -float(self.judge.log_probs(ids, lengths).mean()) * BITS,
            "entropy": entropy,
            "entropy_ratio": entropy / self.real_entropy if self.real_entropy else float(entropy == 0.0),
            "real_words": sum(word in self.words for word in flat) / max(1, len(flat)),
            "distinct_2": len(set(pairs)) / max(1, len(pairs)),
            "characters": float(lengths.double().mean()),
        }

    def bits(self, texts: Sequence[str]) -> tuple[Float64[Tensor, "n"], Int[Tensor, "n"]]:
        """The bits that all characters of each text cost, and how many there are."""
        kept = [index for index, text in enumerate(texts) if text]
        bits, counts = torch.zeros(len(texts), dtype=torch.float64), torch.zeros(len(texts), dtype=torch.long)
        ids, lengths = self._characters.encode_all([texts[index] for index in kept])
        owner = torch.repeat_interleave(torch.tensor(kept, dtype=torch.long), lengths)
        bits.index_add_(0, owner, -self.judge.log_probs(ids, lengths) * BITS)
        counts[kept] = lengths
        return bits, counts

    def _entropy(self, texts: Sequence[str]) -> Tensor:
        ids, lengths = self._characters.encode_all(texts)
        rows = torch.repeat_interleave(torch.arange(len(texts)), lengths)
        vocab = self._characters.vocab
        counts = torch.bincount(rows * vocab + ids, minlength=len(texts) * vocab).reshape(-1, vocab).double()
        share = counts / counts.sum(1, keepdim=True).clamp_min(1.0)
        return -torch.special.xlogy(share, share).sum(1)


def _words(text: str) -> list[str]:
    stripped = (word.strip(".,;:?!'-") for word in text.split())
    return [word for word in stripped if word]


def texts_of(
    x0: Shaped[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None, tokens: Tokens | OwnTokens
) -> list[str]:
    """What samples say; mask: True where a token is real.

    Raises:
        UserError: not token ids of this vocabulary.
    """
    ids = x0.detach().cpu()
    if ids.ndim != 2 or ids.is_floating_point():
        raise UserError(f"text is token ids of shape (count, length), got {tuple(ids.shape)} {ids.dtype}")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu().expand(ids.shape)
    if wrong := _outside(ids[real], tokens.vocab):
        raise UserError(f"tokens are 0 ... {tokens.vocab - 1}, got a sample with {wrong[0]}")
    return [tokens.decode(row[keep]) for row, keep in zip(ids, real, strict=True)]


def _outside(ids: Tensor, vocab: int) -> list[int]:
    wrong: Iterable[int] = ids[(ids < 0) | (ids >= vocab)][:1].tolist()
    return list(wrong)
