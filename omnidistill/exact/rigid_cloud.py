"""Point clouds with a closed-form teacher: a few rigid shapes in every orientation, seen through isotropic noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.evaluation.energy import Energy
from omnidistill.exact import parameters
from omnidistill.exact.arguments import keywords, whole
from omnidistill.exact.render_clouds import write_clouds
from omnidistill.exact.rotations import matrix_fisher, random_rotations
from omnidistill.networks.posed_memory import PosedMemory
from omnidistill.paths import GaussianPath, RigidMotion, edm
from omnidistill.paths.base import as_time
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator, normal
from omnidistill.shapes import TensorTime, Time
from omnidistill.tasks import Metric, Task

APART = 0.4
"""Least aligned RMSD between two shapes, and between a shape and any mirror image (radius of gyration 1)."""
REACH = 0.2
"""Aligned RMSD within which a sample counts as its shape: half of APART, so that it can count as one shape only."""
SYMMETRY = RigidMotion()


def draw_shapes(count: int, points: int, seed: int) -> Float64[Tensor, "{count} {points} 3"]:
    """Normal points, centred, of unit radius of gyration; each is `APART` from the others and
    from every mirror image, its own included, so that each is chiral."""
    g = generator("rigid shapes", points, seed)
    shapes = torch.empty(0, points, 3, dtype=torch.float64)
    for _ in range(1000):
        x = SYMMETRY.project(torch.randn(1, points, 3, generator=g, dtype=torch.float64))
        x = x / x.square().sum((1, 2)).div(points).sqrt()
        others = torch.cat((shapes, -shapes, -x))
        if float(aligned_rmsd(x.expand_as(others), others).min()) > APART:
            shapes = torch.cat((shapes, x))
        if len(shapes) == count:
            return shapes
    raise UserError(
        f"found no {count} distinct chiral shapes of {points} points; ask for fewer shapes or more points"
    )


def aligned_rmsd(x: Float[Tensor, "b n 3"], to: Float[Tensor, "b n 3"]) -> Float[Tensor, "b"]:
    """Root mean squared distance of the points after the best proper rigid motion."""
    return (SYMMETRY.align(x, to) - to).square().sum(-1).mean(-1).sqrt()


class CloudDenoiser(Denoiser):
    """`E[x0 | x_t]` for `x0 = X_k R^T + std xi` with a shape k, a rotation R, both uniform, and centred noise xi.

    With `v = sigma^2 + alpha^2 std^2` the rotation's posterior given k is matrix Fisher with
    `F_k = (alpha / v) x_t^T X_k`, the shape's is `p(k | x_t) ~ c(F_k) exp(-alpha^2 |X_k|^2 / 2v)`, and

        E[x0 | x_t] = m + (alpha std^2 / v) (x_t - alpha m),    m = sum_k p(k | x_t) X_k E[R | F_k]^T.

    Mirror images are no rotations, so an x_t near one is matched by no shape. Computed in float64 and returned in the
    dtype of x_t. Where all is known (v = 0, the answer is the nearest member) v is taken as 1e-12.
    """

    path: GaussianPath
    shapes: Tensor

    def __init__(self, path: GaussianPath, shapes: Tensor, std: float) -> None:
        super().__init__(path)
        self.std = std
        self.register_buffer("shapes", shapes.double())

    def belief(
        self, x_t: Float[Tensor, "b n 3"], t: Time, context: Context, target_time: TensorTime | None
    ) -> PointPosterior:
        if context.mask is None:
            return PointPosterior(self._mean(x_t, t))
        real = context.mask.expand(*x_t.shape[:2], 1)
        points = self.shapes.shape[1]
        if bool((real.sum(1) != points).any()):
            raise UserError(
                f"these shapes have {points} points; the mask leaves {int(real[0].sum())} real ones"
            )
        everywhere = real.expand(x_t.shape)
        mean = self._mean(x_t[everywhere].reshape(len(x_t), points, 3), t)
        return PointPosterior(torch.zeros_like(x_t).masked_scatter(everywhere, mean))

    def _mean(self, x_t: Float[Tensor, "b n 3"], t: Time) -> Float[Tensor, "b n 3"]:
        if x_t.shape[1:] != self.shapes.shape[1:]:
            raise UserError(
                f"these shapes are {tuple(self.shapes.shape[1:])}, got a state of {tuple(x_t.shape)}"
            )
        x = SYMMETRY.project(x_t.double())
        alpha, _, sigma = (c.to(x.device).expand(len(x)) for c in self.path.coefficients(as_time(t, x_t)))
        variance = (sigma**2 + (alpha * self.std) ** 2).clamp_min(1e-12)
        f = torch.einsum("bni,knj->bkij", x * (alpha / variance)[:, None, None], self.shapes)
        log_c, rotation = matrix_fisher(f)
        size = self.shapes.square().sum((1, 2))
        share = (log_c - 0.5 * (alpha**2 / variance).unsqueeze(1) * size).softmax(1)
        rigid = torch.einsum("bk,bkij,knj->bni", share, rotation, self.shapes)
        kept = (alpha * self.std**2 / variance)[:, None, None]
        return (rigid + kept * (x - alpha[:, None, None] * rigid)).to(x_t.dtype)


class RigidCloudTask(Task):
    """A mixture of rigid shapes, each in a uniformly random orientation, with its exact posterior as the teacher.

    Many teacher steps decide on a shape and an orientation; one step averages over all of them and answers nearly 0.

    Args:
        points: n points a cloud, at least 4 (fewer have no handedness).
        shapes: number of shapes, equally likely.
        seed: of the shapes, not of the samples.
        std: standard deviation of each coordinate about the rigid shape, whose radius of gyration is 1.
        sigma_min, sigma_max: of the EDM path, centred.
        teacher_steps: steps of the full teacher.
        network: `clouds`, `width`, `depth` of the students' `PosedMemory`.

    Metrics, lengths in radii of gyration:
        energy: see `Energy`, between laws of the aligned RMSDs to every shape and every mirror image, against fresh
            draws; primary. It sees which shape a sample has, its handedness, and whether it is blurred or sharper than
            the data are; not its pose.
        aligned_rmsd: to the nearest shape after the best proper rigid motion, averaged over samples. Data have about
            std; samples of too few steps lie nearer, so that less is not always better.
        shape_recall: share of shapes that are the nearest one, within 0.2, of at least 20 % of the samples they should
            have.
        mirror: share of samples nearer to a mirror image than to any shape.
        orientation: length of the mean cloud of a shape's samples, the worst over shapes: 1 if all point the same way
            (or no sample is nearest to it), about 1 / sqrt(samples of the shape) if all ways are equally likely.
    """

    path: GaussianPath
    primary = Metric("energy", "lower")
    shown = ("aligned_rmsd",)

    def __init__(
        self,
        points: int = 16,
        shapes: int = 3,
        seed: int = 5,
        std: float = 0.03,
        sigma_min: float = 0.01,
        sigma_max: float = 20.0,
        teacher_steps: int = 64,
        network: Mapping[str, int] | None = None,
        name: str = "exact/rigid_cloud",
    ) -> None:
        self.name = name
        self.shape = (whole("points", points, 4), 3)
        self.shapes = draw_shapes(whole("shapes", shapes, 1), self.shape[0], whole("seed", seed, 0))
        self.title = f"{len(self.shapes)} rigid shapes of {self.shape[0]} points in every orientation"
        self.std = parameters.number("std", std)
        if not 0.0 <= self.std < 0.5 * REACH:
            raise UserError(
                f"std must lie in [0, {0.5 * REACH:g}), or shapes cannot be told apart, got std={std}"
            )
        low, high = parameters.positive("sigma_min", sigma_min), parameters.positive("sigma_max", sigma_max)
        if low >= high:
            raise UserError(f"sigma_min must lie below sigma_max, got {low:g} and {high:g}")
        self.path = edm(low, high, symmetry=SYMMETRY)
        self._known: Energy | None = None
        self.teacher_steps = whole("teacher_steps", teacher_steps, 1)
        options = keywords("network", network, ("clouds", "width", "depth"))
        self._network = {key: whole(f"network.{key}", value, 1) for key, value in options.items()}

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        # Draws never repeat, so training and held-out samples differ by their generator alone.
        which = torch.randint(len(self.shapes), (count,), generator=g, device=g.device).cpu()
        x = self.shapes[which] @ random_rotations(count, g).cpu().mT
        x = x + self.std * SYMMETRY.project(normal(x, g))
        return Batch(x.to(self.dtype), Context(), count)

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        return PosedMemory(self.shape[0], **self._network, target_time=target_time, guidance=guidance)

    def reading(self) -> dict[str, Any]:
        # Unit radius of gyration is shared by three coordinates.
        return {
            "parameterisation": "edm",
            "time_input": "log_sigma/4",
            "sigma_data": 3**-0.5,
            "unit_input": True,
        }

    def exact_teacher(self) -> CloudDenoiser:
        return CloudDenoiser(self.path, self.shapes, self.std)

    def contexts(self, count: int, g: torch.Generator) -> Context:
        return Context()

    def file_suffix(self) -> str:
        return ".xyz"

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        x = self._clouds(x0, context)
        seen = self._distances(x)
        distance, mirrored = seen.chunk(2, 1)
        nearest, which = distance.min(1)
        hits = torch.bincount(which[nearest < REACH], minlength=len(self.shapes)) * len(self.shapes) / len(x)
        means = [
            x[which == k].mean(0) if bool((which == k).any()) else shape
            for k, shape in enumerate(self.shapes)
        ]
        return {
            "energy": self._energy(len(x), g)(seen),
            "aligned_rmsd": float(nearest.mean()),
            "shape_recall": float((hits >= 0.2).double().mean()),
            "mirror": float((mirrored.min(1).values < nearest).double().mean()),
            "orientation": max(float(mean.square().sum(-1).mean().sqrt()) for mean in means),
        }

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        return self._energy(len(x0), g).resampled(self._distances(self._clouds(x0, context)), counts)

    def _distances(self, x: Float[Tensor, "count n 3"]) -> Float64[Tensor, "count _"]:
        """Aligned RMSDs to the k shapes, then to their mirror images: 2 k for each cloud."""
        return torch.stack(
            [aligned_rmsd(shape.expand_as(x), x) for shape in (*self.shapes, *-self.shapes)], 1
        )

    def _energy(self, count: int, g: torch.Generator) -> Energy:
        """To fresh draws, the former one where they are the same: all points of a curve have one reference."""
        drawn = self.batch(count, g, "held_out").x0
        assert drawn is not None
        real = self._distances(drawn.double())
        if self._known is None or not self._known.matches(real):
            self._known = Energy(real)
        return self._known

    def _clouds(self, x0: Float[Tensor, "count ..."], context: Context) -> Float[Tensor, "count n 3"]:
        """Without padding. `UserError` for another shape or values that are not finite."""
        x = x0.detach().cpu().double()
        if context.mask is not None and x.ndim == 3:
            x = x[context.mask.cpu().expand(x.shape)].reshape(len(x), -1, 3)
        if x.shape[1:] != self.shape or not len(x):
            raise UserError(
                f"{self.name} measures clouds of shape (count, {self.shape[0]}, 3), got {tuple(x0.shape)}"
            )
        if not bool(x.isfinite().all()):
            raise UserError(f"{self.name} got samples with NaN or infinite coordinates")
        return x

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of the first clouds and all of them as .xyz."""
        return write_clouds(self._clouds(x0, context), target, self.name)
