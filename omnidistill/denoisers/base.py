"""The contract of a denoiser, and the count of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers.counter import Counter
from omnidistill.denoisers.start import Start
from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior
from omnidistill.shapes import State, TensorTime, Time


class Denoiser(nn.Module):
    """Answers `(x_t, t)` with a belief about x0. Teachers, students, critics and closed forms are all this.

    Subclasses implement `belief`; `forward` counts. `calls` is the number of network evaluations so far: one per
    forward whatever the batch, two where guidance asks both branches in one batch, a share where a network ran in part
    or for some of the samples alone.
    """

    wants_target: bool = False
    """Whether the answer depends on the time that the sampler will jump to."""

    wants_guidance: bool = False
    """Whether it wants to be told the guidance scale to imitate (`context.guidance`). Others never see it."""

    start: Start | None = None
    """Above which noise level it is asked about noise alone (`sigma_init`); None: at every time about the state."""

    varies: bool = False
    """Whether a walk costs one sample more calls than another."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._counter = Counter()

    @property
    def calls(self) -> float:
        return self._counter.value()

    @calls.setter
    def calls(self, value: float) -> None:
        self._counter.set(value)

    def count(self, number: float = 1) -> None:
        """Adds to `calls`. A compiled denoiser counts, too, and is not compiled anew for it."""
        self._counter.add(number)

    def forward(
        self,
        x_t: State,
        t: Time,
        context: Context = Context(),
        *,
        target_time: TensorTime | None = None,
    ) -> Posterior:
        """
        Args:
            t: one for each frame along the path's `time_axis` is for networks that take such a time.
            target_time: shaped like t, s < t, for students that learned jumps to any s; s > t for those that learned to
                jump towards noise, too.
        """
        self.count()
        return self.belief(x_t, t, context, target_time)

    def belief(self, x_t: State, t: Time, context: Context, target_time: TensorTime | None) -> Posterior:
        """What `forward` calls once it has counted: the belief, by whatever the subclass knows."""
        raise NotImplementedError("a Denoiser implements belief(x_t, t, context, target_time)")

    def policy(
        self,
        x_t: Tensor,
        t: Tensor | float,
        context: Context = Context(),
        target_time: Tensor | None = None,
    ) -> Any:
        """A belief about the whole way from t to `target_time`, which can be asked again at every later state
        (`Posterior.after`, `onwards`), in one counted call."""
        raise UserError(
            f"{type(self).__name__} has no policy to be asked again; set student.policy={{kind: mixture, parts: 8}}"
        )

    # --- along a walk ---------------------------------------------------------------------------------------------

    def nodes(self, steps: int) -> Tensor | None:
        """Float64[steps + 1]: times of its own for so many steps, from the prior's down to 0; None leaves them to the
        sampler."""
        return None

    def walk(self, times: Tensor, g: Any = None) -> Denoiser:
        """Who answers along one walk over these times: the denoiser itself, but for those whose answers depend on what
        they were asked before (`samplers.walker`)."""
        return self

    def arrive(self, x0: Tensor, context: Context) -> Tensor:
        """The sample, now that a walk has come to its end at x0."""
        return x0

    def output_weight(self, t: Float64[Tensor, "b"]) -> Float64[Tensor, "b"]:
        """The weight w(t) under which this denoiser is best trained; 1 where it does not say."""
        return torch.ones_like(t)

    def examine(
        self,
        x_t: State,
        t: Time,
        context: Context = Context(),
        layers: Sequence[str] | None = None,
        *,
        answered: int | None = None,
        target_time: TensorTime | None = None,
    ) -> tuple[Posterior | None, dict[str, Tensor]]:
        """(belief, features) of one question in one counted call: what `forward` answers and what inner layers said.

        Args:
            layers: names of inner layers, several at once; None for the one that the network declares for heads.
            answered: how many of the first samples are answered; the others stop at the last of the layers where the
                network can, and for 0 there is no belief.

        Returns:
            features: the outputs of these layers by name, as they are; see `pool`.
        """
        raise UserError(
            f"{type(self).__name__} has no inner features for a discriminator head; use a NetworkDenoiser"
        )

    def pool(self, found: Float[Tensor, "b ..."], context: Context = Context()) -> Float[Tensor, "b c"]:
        """A layer's output averaged over all axes but batch and channel, padding left out."""
        raise UserError(f"{type(self).__name__} has no inner features; use a NetworkDenoiser")

    def positions(
        self, found: Float[Tensor, "b ..."], context: Context = Context()
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
        """A layer's output position by position, and 1 where a position is real."""
        raise UserError(f"{type(self).__name__} has no inner features; use a NetworkDenoiser")

    def feature_widths(self, layers: Sequence[str]) -> dict[str, int]:
        """The layers meant by these names, with how wide they are; an error with near names for one that is not there.
        See `denoisers.features.tapped`."""
        raise UserError(
            f"{type(self).__name__} has no inner features for a discriminator head; use a NetworkDenoiser"
        )

    def features(self, x_t: State, t: Time, context: Context = Context()) -> Float[Tensor, "b c"]:
        """The pooled features of the layer declared for discriminator heads. A call, which goes no farther
        than this layer where the network can stop there."""
        raise UserError(
            f"{type(self).__name__} has no inner features for a discriminator head; use a NetworkDenoiser"
        )

    def feature_channels(self) -> int:
        """Width of `features`."""
        raise UserError(
            f"{type(self).__name__} has no inner features for a discriminator head; use a NetworkDenoiser"
        )
