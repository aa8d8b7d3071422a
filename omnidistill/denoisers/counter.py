"""A count of calls that a compiled graph keeps as well as Python does."""

from __future__ import annotations

import torch


class Counter:
    """How often something was done; of a network that ran in part, the part.

    A compiled graph holds a Python number for constant: it would be compiled anew at each call. There the count is a
    tensor, which the graph adds to; but not under `torch.func`'s derivatives, which refuse to change what is not
    theirs.
    """

    def __init__(self) -> None:
        self.set(0)

    def set(self, value: float) -> None:
        """Counts on from this number."""
        self._eager = value
        with torch.inference_mode(False):  # or it could not be added to outside of that mode
            self._compiled = torch.zeros((), dtype=torch.int64, device="cpu")

    def add(self, number: float = 1) -> None:
        if torch.compiler.is_compiling() and not _transformed():
            self._compiled.add_(int(number))
        else:
            self._eager += number

    def value(self) -> float:
        return self._eager + int(self._compiled)


@torch.compiler.assume_constant_result
def _transformed() -> bool:
    return torch._C._functorch.maybe_current_level() is not None
