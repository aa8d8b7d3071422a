"""`text/own`: text of the user's own and a teacher of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnidistill.brought import Brought
from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.evaluation import plain
from omnidistill.foreign import Foreign
from omnidistill.modalities.text.task import Text
from omnidistill.tasks import Metric


class OwnText(Brought, Text):
    """Tokens as the teacher knows them, Long[b n], on a masked path; options as `Text` has them.

    Judged by an n-gram model of the training text (`TextMetrics`) and by `bigram` and `unigram`, the total variation
    distances of tokens to held-out text; without text by these alone, against the teacher's own samples.

    Args:
        folder: a .txt or .jsonl file, or a folder of them; `text` is another name for it.
        foreign: a network of the user's class on a `MaskedPath` of as many tokens as the tokenizer has, or a masked
            language model in a folder of transformers, whose tokenizer is taken from there.
    """

    title = "Text of your own"
    data_hint = "task.folder=PATH names your text"
    data_key = "text"
    data_options = ("folder", "text")
    takes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "omnidistill.modalities.text.task.Text": {},
        f"{__name__}.OwnText": {},
    }

    def __init__(
        self,
        folder: str | None = None,
        text: str | None = None,
        foreign: Foreign | None = None,
        tokenizer: str | None = None,
        length: int | None = None,
        name: str = "text/own",
        **options: Any,
    ) -> None:
        self.foreign = foreign
        if foreign is not None:
            if len(shape := tuple(foreign.shape)) != 1:
                raise UserError(f"{name} takes teachers of (length) tokens, this one has {shape}")
            length = shape[0]
        if length is not None:
            options["length"] = length
        super().__init__(text=text or folder, tokenizer=tokenizer, name=name, **options)
        if foreign is not None:
            if (
                getattr(foreign.path, "vocab", None) != self.tokens.vocab
                or "masked" not in foreign.path.offers
            ):
                raise UserError(
                    f"{name} needs a masked path of the tokenizer's {self.tokens.vocab} tokens, got {foreign.path}; "
                    "task.tokenizer=FILE names the teacher's tokenizer"
                )
            self.path = foreign.path  # type: ignore[assignment]
        if self.text is None:
            self.primary = Metric("bigram")
        self.settle(None)

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Lengths of held-out stretches, or without text all of the longest."""
        if self.with_data:
            return super().contexts(count, g)
        return Context(mask=torch.ones(count, self.shape[0], dtype=torch.bool))

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """Rows of a cache are as long as the longest stretch there may be, those of a batch as its own longest."""
        drawn = super().batch(count, g, split)
        if self._cache is None or drawn.x0 is None or drawn.context.mask is None:
            return drawn
        longest = slice(int(drawn.context.mask.sum(1).max()))
        mask = drawn.context.mask[:, longest]
        return replace(drawn, x0=drawn.x0[:, longest], context=replace(drawn.context, mask=mask))

    def alike(self, count: int, g: torch.Generator, split: str) -> Batch:
        """Filled up to the longest stretch there may be."""
        drawn = self.batch(count, g, split)
        assert drawn.x0 is not None and drawn.context.mask is not None
        missing = (0, self.shape[0] - drawn.x0.shape[1])
        mask = F.pad(drawn.context.mask, missing)
        return Batch(F.pad(drawn.x0, missing), replace(drawn.context, mask=mask))

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        found = super().measure(x0, context, g)
        if self.with_data and not self._plainly and self.split is not None:
            real, mask = self.split.held_out.padded(torch.arange(len(self.split.held_out)))
            found |= plain.Plain(real, real, mask)(x0.detach().cpu(), self._mask(context))
        return found
