"""One problem to distil on: its data, its path, its teacher, and what "good" means there.

A modality fills in this form. Nothing in the core asks which modality it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from omnidistill.context import Batch, Condition, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import NotOffered, UserError
from omnidistill.paths import Path
from omnidistill.samplers import Euler, Sampler
from omnidistill.shapes import Counts

REMEASURED = 12
"""Resamples that are measured for a metric that nobody wrote a quicker way for."""


@dataclass(frozen=True)
class Metric:
    """The name of the metric that gaps are computed from, and which way is better."""

    name: str
    better: str = "lower"

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise UserError(f"a metric is better 'lower' or 'higher', got '{self.better}'")


@dataclass(frozen=True)
class Encoding:
    """What data go through before training.

    Attributes:
        encode: a batch of a task's data -> the batch that is kept.
        digest: of what encodes samples; empty where nothing does.
        conditions: digest of what makes their conditions; empty where these are the data's own.
        null: the condition of one sample that means "none", where conditions are made here.
    """

    encode: Callable[[Batch], Batch] = lambda batch: batch
    digest: str = ""
    conditions: str = ""
    null: Condition = None


def numbers(answer: Any) -> dict[str, float]:
    """What a metric function of the user's has answered.

    Raises:
        UserError: no mapping of names to numbers.
    """
    if not isinstance(answer, Mapping):
        raise UserError(f"metrics= is a function that answers {{name: number}}, got {type(answer).__name__}")
    found = {}
    for name, value in answer.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"metrics answers {value!r:.40} as '{name}'; it must be a number") from error
    return found


class Task:
    """Base class of tasks. Subclasses set the attributes and implement the methods below `# the form`.

    Attributes:
        name: as on the command line, e.g. `exact/gaussian_mixture`.
        title: for the report page.
        path: the corruption that teacher and student share.
        shape: of one sample, without the batch axis.
        dtype: torch.float32, or torch.long for tokens.
        primary: the metric that "gap closed" is computed from.
        shown: further metrics that belong beside it in every table, however narrow.
        teacher_steps: the teacher's full number of sampler steps.
        conditional: whether contexts carry a condition.
        classes: where the condition is a class label: their number, labels being 0 ... classes - 1.
        labels: the names of these labels in the order of their numbers, where they have any; saved with teacher and
            student where the task's configuration has a key `labels`.
        null: the label that means "no condition", for guidance; None where there is none.
        data_hint: how to get the data, for the message of a recipe that needs it.
        window: (length, overlap) along the last axis in which states longer than that are sampled (see `Windowed`).
    """

    name: str = "unnamed"
    title: str = ""
    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    primary: Metric
    shown: tuple[str, ...] = ()
    teacher_steps: int = 64
    conditional: bool = False
    classes: int | None = None
    labels: tuple[str, ...] = ()
    null: int | None = None
    data_hint: str = ""
    window: tuple[int, int] | None = None

    # --- the form -----------------------------------------------------------------------------------------------

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        """`count` clean samples drawn from `split` ("train" or "held_out") and their contexts. A task without data
        at hand returns `Batch(None, context, count)`; objectives that need x0 then say so."""
        raise NotImplementedError

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        """A freshly initialised network of the task's architecture, with the optional second embeddings."""
        raise NotImplementedError

    def student_network(self) -> nn.Module | None:
        """The student's own network where it is no copy of the teacher's: parameters and a way to render them, such as
        a scene seen by a camera. Called as any network, it answers with the sample that belongs to a condition and need
        not look at state or time. None: the student starts as the teacher."""
        return None

    def reading(self) -> Mapping[str, Any]:
        """Keywords of `NetworkDenoiser` for that network: parameterisation, time_input, sigma_data, unit_input."""
        raise NotImplementedError

    def exact_teacher(self) -> Denoiser | None:
        """The closed form of the posterior, where the task has one."""
        return None

    def shipped_teacher(self) -> FilePath | None:
        """The folder of the teacher that comes with the package, where there is one."""
        return None

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """All metrics of generated samples against held-out data."""
        raise NotImplementedError

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """Writes samples in the modality's own format at `target` (a path without suffix) and returns the files
        written, a picture (png) of them first: the report page shows it."""
        raise NotImplementedError

    more: Callable[[Tensor, Context, Tensor | None], Mapping[str, float]] | None = None
    """A function of the user's, whose figures stand beside the task's: (samples, context, held-out rows)."""

    other_primary: bool = False
    """Whether the user wants gaps counted from another metric than the one that `bootstrap` knows."""

    # --- what follows from the form --------------------------------------------------------------------------------

    def sampler(self) -> Sampler:
        """The teacher's sampler."""
        return Euler()

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """What to condition on when there is no data to take it from; by default the held-out data's contexts.

        Drawn in order: of one seed, the first of many are those of few but for padding (`random.in_order` helps where
        there is noise in them), so that a student's first sample is the same however many are asked for.
        """
        return self.batch(count, g, "held_out").context

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """The metrics of real samples against real samples: what a perfect generator would score."""
        real = self.batch(count, g, "train")
        if real.x0 is None:
            return {}
        return self.measure(real.x0, real.context, g)

    def control(self, x0: Tensor, g: torch.Generator) -> Condition:
        """The condition that a sample has: what a control model reads off it, drawn where it leaves that open."""
        raise NotOffered(f"{self.name} has no control model that reads a condition off a sample")

    def judged(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """What `measure` says, with what the user's own function adds."""
        found = self.measure(x0, context, g)
        if self.more is None:
            return found
        rows = context.reference
        if rows is None:
            rows = self.batch(len(x0), g, "held_out").x0
        return found | numbers(self.more(x0.detach().cpu(), context, rows))

    def rows(self, split: str) -> int | None:
        """How many samples a split has, 0 where they are not at hand; None where they are drawn and not counted."""
        return None

    def at(self, index: Tensor, split: str) -> Batch:
        """The samples of these numbers, Long[b], where they can be counted."""
        raise NotImplementedError("a task that counts its rows also finds them")

    def alike(self, count: int, g: torch.Generator, split: str) -> Batch:
        """Samples of one shape whatever is drawn, for a cache of data that are not counted."""
        return self.batch(count, g, split)

    def encoder(self, source: FilePath) -> Encoding:
        """What encodes samples, and captions where there are any, as a library wrote it into a folder."""
        raise UserError(
            f"{self.name} reads no encoder from a folder; give a function of yours, encoder=package.module:function"
        )

    def encoder_digest(self) -> str:
        """Digest of what the task's own samples went through; empty where they are the data themselves."""
        return ""

    def open_teacher(self, source: FilePath) -> Denoiser | None:
        """The teacher in a file of another form than this project's; None where it is of this."""
        return None

    def meet(self, teacher: Denoiser, samples: int, seed: int) -> None:
        """Shown the full teacher before anything is judged: a task without data may have to judge by its samples."""
        return None

    def bootstrap(
        self, x0: Tensor, context: Context, g: torch.Generator, counts: Counts
    ) -> Float64[Tensor, "measured"]:
        """The primary metric of `measure` on resamples of these samples: what its interval is made of.

        Written for any metric: the first `REMEASURED` resamples are measured one by one. A metric that is a mean, a
        ratio of sums, or a function of moments has all of them for little more than one (`evaluation.intervals.mean`,
        `Energy.resampled`, `resampled_frechet`).

        Args:
            x0, context, g: as for `measure`; a generator of the same seed gives the same reference.
        """
        state, values = g.get_state(), []
        for row in counts[:REMEASURED]:
            chosen = torch.repeat_interleave(torch.arange(len(row)), row)
            g.set_state(state)
            values.append(self.judged(x0[chosen], context[chosen], g)[self.primary.name])
        return torch.tensor(values, dtype=torch.float64)

    def baseline(self, context: Context) -> Tensor | None:
        """The inputs themselves as if they were samples, where a task mends what it is given: a student that makes
        them worse shows beside them. None where inputs are no samples."""
        return None

    def like(self, count: int, device: torch.device | str = "cpu", context: Context = Context()) -> Tensor:
        """An empty tensor of the shape, dtype and device of `count` samples: that of the context's anchor, since a
        ragged task's samples are as long as what they are made from, else `shape`."""
        shape = (count, *self.shape) if context.anchor is None else context.anchor.shape
        return torch.empty(shape, dtype=self.dtype, device=device)

    def inputs(self, source: FilePath) -> Iterable[tuple[str, Context | UserError]]:
        """The user's own inputs at `source` (a file or a folder) to sample for: each item's name, and its context as
        a batch of one, or what is wrong with it."""
        raise UserError(f"{self.name} samples from nothing but noise; leave input= out")

    def write(self, x0: Tensor, context: Context, target: FilePath) -> FilePath:
        """Writes the sample made for one input, `x0: Float[1 ...]`, at `target` (a path without suffix)."""
        raise NotImplementedError("a task that reads inputs also writes what is made of them")

    def file_suffix(self) -> str:
        """The suffix of the modality's own sample files."""
        return ".png"

    def file_suffixes(self) -> tuple[str, ...]:
        """Of everything that `render` writes: what `sample out=` may end with."""
        return tuple(dict.fromkeys((".png", self.file_suffix())))
