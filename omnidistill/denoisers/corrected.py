"""A trainable copy of a denoiser that has no weights to train: the closed form plus a network that starts at zero."""

from __future__ import annotations

from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers.base import Denoiser
from omnidistill.denoisers.network import NetworkDenoiser
from omnidistill.denoisers.parameterisation import affine
from omnidistill.paths.base import as_time, per_sample
from omnidistill.posteriors import Posterior


class Corrected(Denoiser):
    """`D(x_t, t) = D_0(x_t, t) + b(t) F(x_t, t)` for points, logits `l_0 + F` for tokens.

    D_0 is the closed form, F the bare output of `network` and b(t) the scale that the network's parameterisation
    gives its output. A critic that starts like this equals the teacher exactly, as a copy of a network teacher does;
    one that was only fitted to the teacher would carry its fitting error into every gap between the two.

    Args:
        base: the closed form; asked once a call, which counts as one call of this denoiser.
        network: its last layer should start at zero.
    """

    def __init__(self, base: Denoiser, network: NetworkDenoiser) -> None:
        super().__init__(network.path)
        self.base, self.network = base, network

    def belief(
        self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None
    ) -> Posterior:
        t = as_time(t, x_t)
        known = self.base(x_t, t, context)
        out = self.network.output(x_t, t, context)
        if self.network.parameterisation == "logits":
            return known.replace(known.parameters + out[..., : known.parameters.shape[-1]].float())
        scale = affine(self.network.path, self.network.parameterisation, t, self.network.sigma_data).b  # type: ignore[arg-type]
        return known.replace(known.parameters + per_sample(scale, x_t) * out.to(x_t.dtype))

    def output_weight(self, t: Tensor) -> Tensor:
        """As `NetworkDenoiser.output_weight`: the correction is what is learned."""
        return self.network.output_weight(t)

    def feature_channels(self) -> int:
        return self.network.feature_channels()

    def features(self, x_t: Tensor, t: Tensor | float, context: Context = Context()) -> Tensor:
        """Float[b c]: those of the network. A call."""
        self.calls += 1
        return self.network.features(x_t, t, context)
