"""Several denoisers as one: each sample is answered by the one that its context names, or by one that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers.base import Denoiser
from omnidistill.denoisers.guidance import Guided, Null
from omnidistill.errors import UserError
from omnidistill.paths.base import as_time
from omnidistill.paths.base import rows as per_row
from omnidistill.posteriors import Posterior
from omnidistill.shapes import State, TensorTime, Time

Route = Callable[[Context], Tensor]


class Routed(Denoiser):
    """`D(x_t, t, c)_i = D_{r(c)_i}(x_t, t, c)_i`.

    Args:
        denoisers: by name, on one path, with beliefs of one kind.
        route: from a context to the index of a denoiser for each sample, in the order of the names; None for `Drawn`.

    A call counts once here, and once for each denoiser that was asked.
    """

    def __init__(
        self, denoisers: Mapping[str, Denoiser], route: Route | None, counted: Denoiser | None = None
    ) -> None:
        super().__init__(next(iter(denoisers.values())).path)
        # Not as submodules: they belong to whoever made them.
        self.denoisers, self.route, self.counted = list(denoisers.items()), route, [counted]

    def guided(self, scale: float | None, null: Null) -> Denoiser:
        """Each under guidance: the route is that of the condition, which the unconditional half no longer has."""
        return Routed({name: Guided(one, scale, null) for name, one in self.denoisers}, self.route, self)

    def _which(self, context: Context, count: int) -> Tensor:
        """Long[b]: the index of a denoiser for each of the samples."""
        assert self.route is not None
        return self.route(context)

    def belief(self, x_t: State, t: Time, context: Context, target_time: TensorTime | None) -> Posterior:
        count = x_t.shape[0]
        which = self._which(context, count).to(x_t.device)
        if which.shape != (count,) or int(which.min()) < 0 or int(which.max()) >= len(self.denoisers):
            raise UserError(
                f"a route gives each of {count} samples an index below {len(self.denoisers)}, got shape "
                f"{tuple(which.shape)} with values from {int(which.min())} to {int(which.max())}"
            )
        times = per_row(as_time(t, x_t), count)
        whole: Tensor | None = None
        for index, (_, denoiser) in enumerate(self.denoisers):
            rows = (which == index).nonzero().squeeze(1)
            if not len(rows):
                continue
            target = None if target_time is None else per_row(target_time, count)[rows]
            answer = denoiser(x_t[rows], times[rows], context[rows], target_time=target)
            if len(rows) == count:
                self._count(denoiser)
                return answer
            if whole is None:
                whole = answer.parameters.new_zeros((count, *answer.parameters.shape[1:]))
            whole = whole.index_copy(0, rows, answer.parameters)
        assert whole is not None
        self._count(denoiser)
        return answer.replace(whole)

    def _count(self, denoiser: Denoiser) -> None:
        if self.counted[0] is not None:
            self.counted[0].count(2 if isinstance(denoiser, Guided) else 1)


class Drawn(Routed):
    """Several denoisers of which training draws one for each turn.

    Asked as one denoiser, to be judged or for pairs, the i-th of n answers for rows i, i + n, ...: a batch that is
    walked from noise to data is a mixture of theirs in equal shares.
    """

    def __init__(self, denoisers: Mapping[str, Denoiser], counted: Denoiser | None = None) -> None:
        super().__init__(denoisers, None, counted)

    def guided(self, scale: float | None, null: Null) -> Denoiser:
        return Drawn({name: Guided(one, scale, null) for name, one in self.denoisers}, self)

    def _which(self, context: Context, count: int) -> Tensor:
        return torch.arange(count) % len(self.denoisers)
