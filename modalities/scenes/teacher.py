"""The exact posterior of a view: a Gaussian mixture whose means are what the camera sees of the toys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from omnidistill.context import Condition, Context, labels_of
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.modalities.scenes.data import GREY, Codec, repeated
from omnidistill.modalities.scenes.splats import Splats, view
from omnidistill.paths import GaussianPath
from omnidistill.paths.base import as_time
from omnidistill.posteriors import PointPosterior
from omnidistill.random import categorical, normal
from omnidistill.shapes import TensorTime, Time


def camera_of(condition: Condition) -> Float[Tensor, "b 2"]:
    """The camera in a condition."""
    if not isinstance(condition, Mapping) or "camera" not in condition:
        raise UserError(
            "a scene is asked for a view: the condition is {'camera': Float[b 2], 'label': Long[b]}"
        )
    return condition["camera"]


class Views:
    """`p(x0 | camera, label) = sum_k w_k N(view of k, std^2 I)` over the things k that the label allows.

    Args:
        things: what may be seen, each as b = 1 set of Gaussians.
        weights: of the things, where the label says nothing.
        allowed: for each label the things that it allows; the label after the last one allows all.
        std: of every number of a view.
        size: height and width of a picture.
    """

    def __init__(
        self,
        things: Sequence[Splats],
        weights: Sequence[float],
        allowed: Sequence[Sequence[int]],
        std: float,
        size: int,
        codec: Codec,
    ) -> None:
        self.things, self.std, self.size, self.codec = list(things), std, size, codec
        weight = torch.tensor(weights, dtype=torch.float64)
        table = torch.zeros(len(allowed) + 1, len(things), dtype=torch.float64)
        for label, mine in enumerate(allowed):
            table[label, list(mine)] = weight[list(mine)]
        table[-1] = weight
        self.shares = table / table.sum(1, keepdim=True)
        self._seen: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def means(self, camera: Float[Tensor, "b 2"]) -> Float[Tensor, "b k c h w"]:
        """What the cameras see of each thing. Those of the last question are kept: a sampler asks again and again."""
        if self._seen is None or not torch.equal(self._seen[0], camera):
            grey, seen = torch.full((3,), GREY), []
            for thing in self.things:
                splats = repeated(thing, len(camera))
                splats = Splats(*(part.to(camera) for part in vars(splats).values()))
                seen.append(self.codec.encode(view(splats, camera, self.size, grey)))
            self._seen = (camera.clone(), torch.stack(seen, 1))
        return self._seen[1]

    def share(self, condition: Condition) -> Float64[Tensor, "b k"]:
        """The weights of the things under the condition's labels; all of them where it has none."""
        labels = labels_of(condition)
        count = len(camera_of(condition))
        if labels is None:
            return self.shares[-1].expand(count, -1)
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(self.shares):
            raise UserError(f"labels of a view are 0 to {len(self.shares) - 1}, got {labels.tolist()}")
        return self.shares[labels.cpu()]

    def sample(self, condition: Condition, g: torch.Generator | None) -> Float[Tensor, "b c h w"]:
        camera = camera_of(condition)
        chosen = categorical(self.share(condition), g).to(camera.device)
        mean = self.means(camera)[torch.arange(len(chosen), device=camera.device), chosen]
        return mean + self.std * normal(mean, g)

    def posterior(
        self, x_t: Float[Tensor, "b c h w"], alpha: Tensor, sigma: Tensor, condition: Condition
    ) -> tuple[Float64[Tensor, "b c h w"], Float64[Tensor, "b k"]]:
        """`E[x0 | x_t]` and the responsibilities of the things, as `Mixture.posterior_mean` with means of its own for
        every sample."""
        means = self.means(camera_of(condition)).double()
        x, wide = x_t.double(), (-1, 1, 1, 1)
        alpha, sigma = (value.to(x.device).expand(len(x)) for value in (alpha, sigma))
        variance = ((alpha * self.std) ** 2 + sigma**2).clamp_min(1e-12)
        far = (x.unsqueeze(1) - alpha.reshape(-1, 1, 1, 1, 1) * means).square().flatten(2).sum(2)
        log_share = self.share(condition).to(x.device).log()
        responsible = (log_share - 0.5 * far / variance.unsqueeze(1)).softmax(1)
        centre = torch.einsum("bk,bkchw->bchw", responsible, means)
        gain = (alpha * self.std**2 / variance).reshape(wide)
        return centre + gain * (x - alpha.reshape(wide) * centre), responsible


class ViewDenoiser(Denoiser):
    """`Views.posterior` as a denoiser, in float64 and returned in the dtype of x_t."""

    path: GaussianPath

    def __init__(self, path: GaussianPath, law: Views) -> None:
        super().__init__(path)
        self.law = law

    def belief(
        self, x_t: Float[Tensor, "b c h w"], t: Time, context: Context, target_time: TensorTime | None
    ) -> PointPosterior:
        alpha, _, sigma = self.path.coefficients(as_time(t, x_t))
        mean, _ = self.law.posterior(x_t, alpha, sigma, context.condition)
        return PointPosterior(mean.to(x_t.dtype))
