"""A tokenizer of one's own, as Hugging Face's libraries save them, behind the few verbs that the task uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from omnidistill.data.folder import shown
from omnidistill.data.lines import folded
from omnidistill.errors import UserError
from omnidistill.interop import tokenizer
from omnidistill.modalities.text.tokens import ALPHABET, MARKER, Tokens


class OwnTokens:
    """The verbs of `Tokens` with a tokenizer that lies in a file. Text keeps its capitals and every character that the
    tokenizer knows; special tokens are never added, and left out of what is read. The file stays where it is: teacher
    and student name it.

    Args:
        source: a `tokenizer.json`, or a folder of transformers' `save_pretrained` (of which no code is run).
        alphabet: characters that texts are judged in, for every tokenizer the same.
    """

    def __init__(self, source: str | Path, alphabet: str = ALPHABET) -> None:
        self.source, self.alphabet = Path(source).expanduser(), alphabet
        self._judged = Tokens(alphabet)
        self.vocab = int(self._tokenizer.get_vocab_size(with_added_tokens=True))
        if self.vocab < 2:
            raise UserError(
                f"the tokenizer {shown(self.source)} has {self.vocab} tokens, at least 2 are needed"
            )

    @cached_property
    def _tokenizer(self) -> Any:
        made = tokenizer.read(self.source)
        made.no_padding()
        made.no_truncation()
        return made

    def clean(self, text: str) -> str:
        """Composed Unicode, white space as single spaces."""
        return " ".join(folded(text).split())

    def clean_around(self, text: str, gap: str) -> list[str]:
        """The parts of `text` between its gaps, which keep the space beside a gap; ends are stripped."""
        marked = MARKER.join(folded(part.replace(MARKER, " ")) for part in text.split(gap))
        return " ".join(marked.split()).split(MARKER)

    def encode(self, text: str) -> list[int]:
        return self._encoded([text])[0] if text else []

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            made = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except Exception as error:  # e.g. a token for what is unknown that it does not have
            reason = shown(" ".join(str(error).split()))[:160]
            raise UserError(f"the tokenizer {shown(self.source)} cannot read a text ({reason})") from error
        return [list(one.ids) for one in made]

    def encode_all(self, texts: Sequence[str]) -> tuple[Int[Tensor, "total"], Int[Tensor, "texts"]]:
        """Token ids of all texts one after another, and how many each has."""
        found = self._encoded(texts)
        ids = torch.tensor([i for one in found for i in one], dtype=torch.long)
        return ids, torch.tensor([len(one) for one in found], dtype=torch.long)

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        try:
            return str(self._tokenizer.decode(numbers, skip_special_tokens=True))
        except Exception as error:  # as above
            reason = shown(" ".join(str(error).split()))[:160]
            raise UserError(
                f"the tokenizer {shown(self.source)} cannot write {numbers[:8]} ({reason})"
            ) from error

    def judged(self, text: str) -> str:
        """`text` in the alphabet that it is judged in."""
        return self._judged.clean(text)
