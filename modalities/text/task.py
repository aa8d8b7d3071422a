"""The text tasks: stretches of running text, character by character or in byte pairs, on a masked path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError, unknown
from omnidistill.modalities.text import data, render
from omnidistill.modalities.text.metrics import TextMetrics, texts_of
from omnidistill.modalities.text.networks import TextNetwork
from omnidistill.modalities.text.own_tokens import OwnTokens
from omnidistill.modalities.text.tokens import ALPHABET, Tokens
from omnidistill.paths import MaskedPath
from omnidistill.random import uniform
from omnidistill.samplers import Ancestral, Sampler
from omnidistill.tasks import Metric, Task

TEACHERS = FilePath(__file__).parent / "teachers"
GAP = "_"
NEIGHBOURHOOD = 8  # batches are drawn from this many times their size of stretches of about equal length


class Split(NamedTuple):
    """Stretches of two sets of documents: none gives sentences to both."""

    train: data.Stretches
    held_out: data.Stretches


class Text(Task):
    """`text/brown`: stretches of whole sentences or of parts of long ones, 16 to `length` characters, `x0: Long[b n]`.

    Samples have different lengths: a batch is as long as its longest one and `context.mask: Bool[b n]` says which
    tokens are real. A training batch holds stretches of about equal length (drawn around a random one in the order of
    lengths), so that little of it is padding. Contexts to sample for have the lengths of held-out stretches.

    Args:
        folder: of the Brown corpus' files; None: where `omnidistill data fetch brown` put them.
        text: the user's own text instead, a *.txt or *.jsonl file or a folder of them (see `data.own`).
        on_bad: `stop` at a file of it that cannot be read, or `skip` it and say so.
        length: of the longest stretch, tokens.
        alphabet, merges: see `Tokens`; they are all of the tokenizer, and a saved model's configuration has them.
        tokenizer: your own instead of `alphabet` and `merges`: a tokenizer.json, or a folder that transformers wrote;
            see `OwnTokens`. The file must be there when teacher and student are loaded.
        schedule: of the masks, see `omnidistill.paths.schedules`.
        network: keywords of `TextNetwork`.
        teacher_steps: the teacher's full number of steps.
        sampler: of the teacher; None: `Ancestral`. `samplers.Confidence` decodes the surest first, or block by block.
        judge: `ngram`, or `smollm2` to have that model's bits per character besides.
    """

    title = "Sentences of the Brown corpus"
    path: MaskedPath
    dtype = torch.long
    primary = Metric("bits_per_char", "lower")
    data_hint = "`omnidistill data fetch brown` gets the corpus; task.text=PATH takes your own text"

    def __init__(
        self,
        folder: str | None = None,
        text: str | None = None,
        length: int = 96,
        alphabet: str = ALPHABET,
        merges: Sequence[str] = (),
        schedule: str = "linear",
        network: Mapping[str, Any] | None = None,
        teacher_steps: int = 96,
        judge: str = "ngram",
        on_bad: str = "stop",
        tokenizer: str | None = None,
        sampler: Sampler | None = None,
        name: str = "text/brown",
    ) -> None:
        if length < data.SHORTEST:
            raise UserError(f"length is at least {data.SHORTEST} tokens, got task.length={length}")
        if judge not in ("ngram", "smollm2"):
            raise unknown("judge of text", judge, ("ngram", "smollm2"))
        self.name, self.folder, self.text, self.judge, self.on_bad = name, folder, text, judge, on_bad
        self.shape, self.teacher_steps = (int(length),), int(teacher_steps)
        if tokenizer is not None and merges:
            raise UserError("a tokenizer has merges of its own; give task.tokenizer or task.merges")
        self.tokens: Tokens | OwnTokens
        self.tokens = Tokens(alphabet, merges) if tokenizer is None else OwnTokens(tokenizer, alphabet)
        self._sampler = sampler or Ancestral()
        self.path = MaskedPath(self.tokens.vocab, schedule)
        self._network = dict(network or {})

    # --- data -----------------------------------------------------------------------------------------------------

    @cached_property
    def split(self) -> Split | None:
        """The stretches, or None where the corpus is not on this machine and no text was named."""
        if self.text is not None:
            documents = data.own(self.text, self.on_bad)
        elif self.folder is None and not data.fetched():
            return None
        else:
            documents = data.brown(self.folder)
        return Split(*(data.stretches(part, self.tokens, self.shape[0]) for part in data.split(documents)))

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if self.split is None:
            return Batch(None, self.contexts(count, g), count)
        chosen = self.split.train if split == "train" else self.split.held_out
        total = len(chosen)
        if split != "train" or total <= NEIGHBOURHOOD * count:
            rows = torch.randint(total, (count,), generator=g)
        else:
            around = int(torch.randint(total, (), generator=g)) - NEIGHBOURHOOD * count // 2
            first = min(max(around, 0), total - NEIGHBOURHOOD * count)
            rows = first + torch.randperm(NEIGHBOURHOOD * count, generator=g)[:count]
        x0, mask = chosen.padded(rows)
        return Batch(x0, Context(mask=mask), count)

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Lengths of held-out stretches; without data uniform ones from half the longest up."""
        if self.split is not None:
            return self.batch(count, g, "held_out").context
        longest = self.shape[0]
        lengths = longest - (uniform(torch.empty(count), g) * (longest // 2)).long()
        return Context(mask=torch.arange(int(lengths.max())) < lengths.unsqueeze(1))

    def like(self, count: int, device: torch.device | str = "cpu", context: Context = Context()) -> Tensor:
        known = context.mask if context.anchor is None else context.anchor
        shape = (count, *self.shape) if known is None else known.shape
        return torch.empty(shape, dtype=self.dtype, device=device)

    # --- model ----------------------------------------------------------------------------------------------------

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        network = TextNetwork(self.tokens.vocab, target_time=target_time, guidance=guidance, **self._network)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reading(self) -> Mapping[str, Any]:
        return {"parameterisation": "logits"}

    def sampler(self) -> Sampler:
        return self._sampler

    def shipped_teacher(self) -> FilePath | None:
        return TEACHERS / self.name.split("/")[-1]

    # --- judging and showing ----------------------------------------------------------------------------------------

    @cached_property
    def metrics(self) -> TextMetrics:
        """What samples are judged by, made of the training and the held-out text on first use.

        Raises:
            UserError: the text is not on this machine.
        """
        if self.split is None:
            raise UserError(f"judging {self.name} needs its text; {self.data_hint}")
        train, held_out = (
            [self.tokens.judged(text) for text in part.texts(self.tokens)] for part in self.split
        )
        return TextMetrics(train, held_out, self.tokens.alphabet)

    @cached_property
    def _language_model(self) -> Any:
        from omnidistill.modalities.text.smollm2 import SmolLM2

        return SmolLM2()

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """See `TextMetrics`. With `judge: smollm2` also `smollm2_bits_per_char`."""
        texts = texts_of(x0, context.mask, self.tokens)
        found = self.metrics.measure(self._judged(x0, context))
        if self.judge == "smollm2":
            found["smollm2_bits_per_char"] = self._language_model.bits_per_char(texts)
        return found

    def _judged(self, x0: Tensor, context: Context) -> list[str]:
        return [self.tokens.judged(text) for text in texts_of(x0, context.mask, self.tokens)]

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        bits, characters = self.metrics.bits(self._judged(x0, context))
        return (counts.double() @ bits) / (counts.double() @ characters.double())

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """Held-out text: the judge has read the training text."""
        if self.split is None:
            return {}
        real = self.batch(count, g, "held_out")
        assert real.x0 is not None
        return self.measure(real.x0, real.context, g)

    def file_suffix(self) -> str:
        return ".txt"

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of the first samples, and all of them in a text file, one a line."""
        texts = texts_of(x0, context.mask, self.tokens)
        picture, page = (target.with_name(target.name + suffix) for suffix in (".png", ".txt"))
        return [render.picture(texts, picture), render.lines(texts, page)]

    # --- infilling --------------------------------------------------------------------------------------------------

    def inputs(self, source: FilePath) -> Iterable[tuple[str, Context | UserError]]:
        """Lines of text with gaps to fill, `the ___ of`: every `_` is one unknown token. *.txt, *.jsonl with the key
        "text", or a folder of them. The reference is the line itself as code points, Long[1 m], for `write`."""
        for name, line in data.lines_of(source):
            try:
                if isinstance(line, UserError):
                    raise line
                points = torch.tensor([[ord(character) for character in line]])
                yield name, Context(anchor=self.gapped(line), reference=points)
            except UserError as error:
                yield name, error

    def gapped(self, line: str) -> Int[Tensor, "1 n"]:
        """The line's tokens, and the mask at every `_`."""
        parts = [self.tokens.encode(part) for part in self.tokens.clean_around(line, GAP)]
        ids = parts[0]
        for part in parts[1:]:
            ids = [*ids, self.path.mask_id, *part]
        if not 1 <= len(ids) <= self.shape[0]:
            raise UserError(f"a line has 1 to {self.shape[0]} tokens, got {len(ids)}: {line[:40]!r}")
        return torch.tensor([ids])

    def write(self, x0: Tensor, context: Context, target: FilePath) -> FilePath:
        """The text, one line; with a reference the line as it was given, to the letter, and its gaps filled."""
        texts = texts_of(x0, context.mask, self.tokens)
        if context.reference is not None and context.anchor is not None:
            given = "".join(map(chr, context.reference[0].tolist()))
            missing = iter(x0[0][context.anchor[0].to(x0.device) == self.path.mask_id].tolist())
            # Tokens of one gap are read together: a character may be made of several.
            runs = (list(run) for _, run in groupby(given, lambda character: character == GAP))
            texts = [
                "".join(
                    self.tokens.decode(list(islice(missing, len(run)))) if run[0] == GAP else "".join(run)
                    for run in runs
                )
            ]
        return render.lines(texts, target.with_name(target.name + ".txt"))
