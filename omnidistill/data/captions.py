"""Words beside samples, as a batch can hold them: code points, Long[b n], -1 behind the last one of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from omnidistill.data import lines
from omnidistill.errors import UserError

KEY = "caption"
"""What they are called among a batch's `extra`."""
SUFFIX = ".txt"


def points(texts: Sequence[str]) -> Int[Tensor, "b n"]:
    """The texts as code points."""
    rows = [torch.tensor([ord(character) for character in text], dtype=torch.long) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def texts(found: Int[Tensor, "b n"]) -> list[str]:
    """The texts again."""
    return ["".join(chr(point) for point in row if point >= 0) for row in found.tolist()]


def beside(files: Sequence[Path]) -> list[str] | None:
    """The caption of each file, the text of NAME.txt beside NAME.png, white space as single spaces; None where no file
    has one.

    Raises:
        UserError: some have one and others have not.
    """
    places = [file.with_suffix(SUFFIX) for file in files]
    there = [place.is_file() for place in places]
    if not any(there):
        return None
    if not all(there):
        raise UserError(
            f"{places[there.index(False)]} is missing, and other files have a caption; an empty file is an empty one"
        )
    return [" ".join(lines.read(place).split()) for place in places]
