"""Text to token ids and back: characters of a stated alphabet, or byte-pair merges of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from omnidistill.data.lines import folded
from omnidistill.errors import UserError

MARKER = "\uffff"  # of a gap; no character of any text
ALPHABET = " abcdefghijklmnopqrstuvwxyz.,;:?!'-0123456789"


class Tokens:
    """The tokenizer; all that it is lies in two plain values, which travel with the task's configuration.

    Args:
        alphabet: the characters known. Where it has no capitals, text is put into small letters. Accents are taken
            off characters that are not in it; other characters become a space.
        merges: pairs "a b" of tokens joined into one, in order of priority (byte-pair encoding: Sennrich et al. 2016,
            alg. 1), over characters and never across a space's left side; none: every character is a token.
    """

    def __init__(self, alphabet: str = ALPHABET, merges: Sequence[str] = ()) -> None:
        if len(set(alphabet)) != len(alphabet) or len(alphabet) < 2 or " " not in alphabet:
            raise UserError(f"an alphabet is two or more different characters with a space, got {alphabet!r}")
        self.alphabet, self.merges = alphabet, tuple(merges)
        self.entries = list(alphabet)
        self._small = alphabet == alphabet.lower()
        for merge in self.merges:
            left, _, right = merge.rpartition("|")
            if left not in self.entries or right not in self.entries:
                raise UserError(
                    f"the merge {merge!r} joins tokens that no earlier merge made; the list is damaged"
                )
            self.entries.append(left + right)
        self._ids = {entry: number for number, entry in enumerate(self.entries)}

    @property
    def vocab(self) -> int:
        """The number of tokens; the mask's id comes after them."""
        return len(self.entries)

    def clean(self, text: str) -> str:
        """`text` in the alphabet's characters, white space as single spaces."""
        return " ".join(self._known_of(text).split())

    def clean_around(self, text: str, gap: str) -> list[str]:
        """The cleaned parts of `text` between its gaps, which keep the space beside a gap; ends are stripped."""
        marked = MARKER.join(self._known_of(part) for part in text.split(gap))
        return " ".join(marked.split()).split(MARKER)

    def _known_of(self, text: str) -> str:
        # Composed first: an accent that is a character of its own must not fall off as an unknown one.
        text = folded(text.lower() if self._small else text)
        if self._known.issuperset(text):
            return text
        return "".join(c if c in self._known else self._nearest(c) for c in text)

    def encode(self, text: str) -> list[int]:
        """Token ids of cleaned text."""
        if self.merges:
            return [self._ids[piece] for piece in self._bpe.encode(text).tokens]
        return [self._ids[character] for character in text]

    def encode_all(self, texts: Sequence[str]) -> tuple[Int[Tensor, "total"], Int[Tensor, "texts"]]:
        """Token ids of all texts one after another, and how many each has."""
        if self.merges:
            found = [
                [self._ids[piece] for piece in one.tokens] for one in self._bpe.encode_batch(list(texts))
            ]
            return torch.tensor([i for ids in found for i in ids]), torch.tensor([len(ids) for ids in found])
        joined = "".join(texts)
        if not joined:  # an empty buffer is no tensor
            return torch.zeros(0, dtype=torch.long), torch.zeros(len(texts), dtype=torch.long)
        codes = torch.frombuffer(bytearray(joined.encode("utf-32-le")), dtype=torch.int32).long()
        table = torch.zeros(max(map(ord, self.alphabet)) + 1, dtype=torch.long)
        table[[ord(c) for c in self.alphabet]] = torch.arange(len(self.alphabet))
        return table[codes], torch.tensor([len(text) for text in texts])

    def count(self, text: str) -> int:
        return len(self.encode(text)) if self.merges else len(text)

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        return "".join(self.entries[number] for number in numbers)

    def judged(self, text: str) -> str:
        """`text` in the alphabet that it is judged in: as it is."""
        return text

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.alphabet)

    def _nearest(self, character: str) -> str:
        """What is known of an unknown character: without accents, in small letters; a space where that is nothing. An
        accent or a joiner that no letter was composed with is nothing by itself and breaks no word."""
        if unicodedata.category(character) in ("Mn", "Me", "Cf"):
            return ""
        plain = unicodedata.normalize("NFKD", character)
        return "".join(c for c in plain if c in self._known) or " "

    @cached_property
    def _bpe(self) -> Any:
        try:
            from tokenizers import Tokenizer, models, pre_tokenizers
        except ImportError as error:
            raise UserError("byte-pair tokens need the package `tokenizers` (the extra `text`)") from error
        pairs = [(left, right) for left, _, right in (merge.rpartition("|") for merge in self.merges)]
        made = Tokenizer(models.BPE(vocab=dict(self._ids), merges=pairs))
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
        return made


def learn_merges(texts: Iterable[str], alphabet: str, vocab: int) -> list[str]:
    """The merges of a vocabulary of `vocab` tokens, learned from cleaned `texts` (deterministic)."""
    import json

    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError as error:
        raise UserError("byte-pair tokens need the package `tokenizers` (the extra `text`)") from error
    if vocab <= len(alphabet):
        raise UserError(f"a vocabulary of {vocab} tokens does not hold the alphabet of {len(alphabet)}")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=list(alphabet), limit_alphabet=len(alphabet), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    merges = json.loads(made.to_str())["model"]["merges"]
    return ["|".join(pair) if isinstance(pair, list) else "|".join(pair.split(" ")) for pair in merges]
