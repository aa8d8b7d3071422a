"""Judging without anybody's pretrained features: samples are compared as they are, with held-out rows of the user's or,
where there are no data, with samples of the full teacher.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.evaluation import plain
from omnidistill.random import generator
from omnidistill.shapes import Counts, Resampled
from omnidistill.tasks import Task

MOST = 1024
"""Samples of the teacher that stand for data where there are none."""


class JudgedPlainly(Task):
    """Put before a modality's task, whose own figures count where there are data for them.

    Attributes:
        judged_plainly: whether held-out data are compared with `evaluation.plain` and not by the task's own metrics.
    """

    judged_plainly: bool = False
    _met: Batch | None = None
    _known: plain.Plain | None = None

    @property
    def with_data(self) -> bool:
        """Whether the user gave data of their own."""
        raise NotImplementedError

    @property
    def _plainly(self) -> bool:
        return self.judged_plainly

    def meet(self, teacher: Denoiser, samples: int, seed: int) -> None:
        """Where there are no data, samples of the full teacher are what students are held against."""
        if self.with_data or self._met is not None:
            return
        count = min(samples, MOST)
        context = self.contexts(count, generator(seed, "own", "contexts"))
        device = next(teacher.parameters()).device
        chunks = []
        with torch.no_grad():
            for start in range(0, count, 128):
                part = context[slice(start, min(start + 128, count))].to(device)
                like = self.like(min(128, count - start), device, part)
                g = generator(seed, "own", start, device=device)
                chunks.append(self.sampler().sample(teacher, like, self.teacher_steps, part, g=g).x0.cpu())
        self._met = Batch(torch.cat(chunks), context)

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """The task's own; with data that are judged plainly the held-out rows beside them, as references."""
        if not (self.with_data and self._plainly):
            return super().contexts(count, g)
        batch = self.batch(count, g, "held_out")
        return replace(batch.context, reference=batch.x0)

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        if self.with_data and not self._plainly:
            return super().measure(x0, context, g)
        return self._plain(context)(self.seen(x0), self._mask(context))

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Counts) -> Resampled:
        if self.with_data and not self._plainly:
            return super().bootstrap(x0, context, g, counts)
        return self._plain(context).resampled(self.seen(x0), counts, self._mask(context))

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """Real data against held-out ones; nothing where the teacher's samples stand for them."""
        if not self.with_data:
            return {}
        if not self._plainly:
            return super().floor(count, g)
        real, held_out = self.batch(count, g), self.contexts(count, g)
        assert real.x0 is not None
        return self._plain(held_out)(self.seen(real.x0), self._mask(real.context))

    def seen(self, x0: Tensor) -> Tensor:
        """Samples as they are compared, on the CPU: by default as they are."""
        return x0.detach().cpu()

    def _plain(self, context: Context) -> plain.Plain:
        known = context.reference
        if known is None:
            if self._met is None or self._met.x0 is None:
                raise UserError(f"{self.name} has nothing to judge by; {self.data_hint}")
            known, context = self._met.x0, self._met.context
        if self._known is None or not self._known.of(known):
            self._known = plain.Plain(known, self.seen(known), self._mask(context))
        return self._known

    @staticmethod
    def _mask(context: Context) -> Tensor | None:
        return None if context.mask is None else context.mask.cpu()
