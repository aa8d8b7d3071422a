"""`scenes/toys`: 3D scenes distilled from a teacher of their views, which is known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from omnidistill.context import Batch, Condition, Context
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.intervals import mean
from omnidistill.exact.arguments import keywords, whole
from omnidistill.exact.parameters import gaussian_path, positive, row
from omnidistill.modalities.scenes import data, metrics
from omnidistill.modalities.scenes.networks import Scene, ViewNet
from omnidistill.modalities.scenes.render import turntable
from omnidistill.modalities.scenes.teacher import ViewDenoiser, Views, camera_of
from omnidistill.paths import GaussianPath
from omnidistill.samplers import Heun, Sampler
from omnidistill.tasks import Metric, Task

SPOILED = 0.25
"""Share of the views without a label that are out of focus and washed out."""


class ToysTask(Task):
    """Views of toys. The student is one set of 3D Gaussians or several, called particles; what it is taught is a law of
    single pictures, `p(view | camera, label)`, in which nothing says that two views show one thing.

    A label is a kind of toy, one of `toys`; the one after them means views that are out of focus and washed out (what
    a negative prompt is for), and the last one, the null label, all of these. The contexts hold `camera: Float[b 2]`
    (azimuth, elevation), `label` and `particle`. Training sees `cameras` of them, judging a turntable between them.

    Args:
        toys: kinds, of `data.TOYS`.
        prompt: the number of the kind that the student is to be.
        colourings: 1 to 3 of each kind: with several a view's law has several modes, and a scene has to choose.
        shares: of the colourings, normalised; None: all alike.
        begin: the kind that scenes start as, of `toys`, to be edited; None: nothing in particular.
        particles: scenes of the student.
        gaussians: of each scene.
        size: of a picture, even.
        std: of the law about what a toy looks like, in every number of a view.
        latent: views are latents of half the size (`data.Codec`), and so is what the scene renders.
        cameras: of training.
        seed: of the cameras' elevations.
        network: `widths` of the U-Net of critics.

    Metrics, on pictures:
        psnr: of a view to what the nearest of its label's toys looks like, in dB; primary. The law's own draws have
            20 log10(2 / std).
        consistency, recalled: see `metrics.scenes`.
        contrast: see `metrics.contrast`.
    """

    primary = Metric("psnr", "higher")
    shown = ("consistency",)
    conditional = True

    def __init__(
        self,
        toys: Sequence[str] = ("snowman", "rocket", "tree"),
        prompt: int = 0,
        colourings: int = 2,
        shares: Sequence[float] | None = None,
        begin: str | None = None,
        particles: int = 1,
        gaussians: int = 128,
        size: int = 20,
        std: float = 0.1,
        latent: bool = False,
        cameras: int = 32,
        path: GaussianPath | str = "vp_cosine",
        teacher_steps: int = 32,
        seed: int = 0,
        network: Mapping[str, Any] | None = None,
        name: str = "scenes/toys",
    ) -> None:
        if isinstance(toys, str) or len(set(toys)) != len(list(toys)) or not toys:
            raise UserError(f"task.toys is a list of kinds, each once, such as [snowman,tree]; got {toys!r}")
        self.name, self.codec = name, data.Codec(bool(latent))
        self.size = whole("size", size, 8)
        if self.size % 4:
            raise UserError(f"task.size is halved by the latents and by critics, so 4 divides it; got {size}")
        self.shape = (self.codec.channels, *(self.size // self.codec.shrinks,) * 2)
        self.prompt = whole("prompt", prompt, 0)
        if self.prompt >= len(toys):
            raise UserError(f"task.prompt is the number of a toy, 0 to {len(toys) - 1}, got {prompt}")
        self.colourings = whole("colourings", colourings, 1)
        if self.colourings > 3:
            raise UserError(f"task.colourings turn three channels round, so 3 at most; got {colourings}")
        share = [1.0] * self.colourings if shares is None else row("task.shares", shares)
        if len(share) != self.colourings or not all(value > 0 for value in share):
            raise UserError(
                f"task.shares are {self.colourings} numbers above 0, one for each colouring; got {shares}"
            )
        if begin is not None and begin not in toys:
            raise UserError(f"task.begin is one of the toys, {', '.join(toys)}; got {begin}")
        self.begin = begin
        self.particles, self.gaussians = whole("particles", particles, 1), whole("gaussians", gaussians, 1)
        self.labels = (*toys, "spoiled")
        self.classes = self.null = len(self.labels)
        self.title = f"A 3D scene of {self.gaussians} Gaussians from a teacher of views: {toys[self.prompt]}"
        self.path: GaussianPath = gaussian_path(path, anchored=False)
        self.teacher_steps = whole("teacher_steps", teacher_steps, 1)
        self.cameras = data.cameras(whole("cameras", cameras, 1), whole("seed", seed, 0))
        self._network = keywords("network", network, ("widths",))
        things = [data.toy(toy, colour) for toy in toys for colour in range(self.colourings)]
        worse = [data.spoiled(data.toy(toy)) for toy in toys]
        own = [range(i * self.colourings, (i + 1) * self.colourings) for i in range(len(toys))]
        weights = [(1 - SPOILED) * value / (sum(share) * len(toys)) for _ in toys for value in share]
        weights += [SPOILED / len(worse)] * len(worse)
        negative = range(len(things), len(things) + len(worse))
        spread = positive("std", std)
        self.law = Views([*things, *worse], weights, [*own, negative], spread, self.size, self.codec)
        self.mine = torch.tensor(list(own[self.prompt]))

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        context = self._asked(count, g) if split == "train" else self.contexts(count, g)
        return Batch(self.law.sample(context.condition, g), context)

    def _asked(self, count: int, g: torch.Generator) -> Context:
        which = torch.randint(len(self.cameras), (count,), generator=g)
        particle = torch.randint(self.particles, (count,), generator=g)
        return Context(self._condition(self.cameras[which], particle))

    def _condition(self, camera: Tensor, particle: Tensor) -> Condition:
        label = torch.full((len(camera),), self.prompt)
        return {"camera": camera, "label": label, "particle": particle}

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """The turntable, whose places the particles take in turn."""
        places = torch.arange(count)
        camera = data.turntable(-(-count // self.particles))[places // self.particles]
        return Context(self._condition(camera, places % self.particles))

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        """Of critics: the teacher has none, the student is a scene."""
        return ViewNet(
            self.shape[0],
            len(self.labels),
            particles=self.particles,
            target_time=target_time,
            guidance=guidance,
            **self._network,
        )

    def student_network(self) -> nn.Module:
        begin = None
        if self.begin is not None:
            begin = data.toy(self.begin)
            begin = replace(begin, colour=self.codec.colours(begin.colour))
            if (count := begin.opacity.shape[1]) > self.gaussians:
                raise UserError(
                    f"task.begin={self.begin} has {count} Gaussians and the scene {self.gaussians}; give it more"
                )
        background = self.codec.background()
        bounded = not self.codec.latent
        return Scene(self.gaussians, self.particles, self.shape[0], background, bounded, begin)

    def reading(self) -> Mapping[str, Any]:
        return {"parameterisation": "edm", "time_input": "t", "sigma_data": 0.8, "unit_input": True}

    def exact_teacher(self) -> ViewDenoiser:
        return ViewDenoiser(self.path, self.law)

    def sampler(self) -> Sampler:
        return Heun()

    def pictures(self, x0: Tensor) -> Tensor:
        """On the CPU, in colours."""
        x0 = x0.detach().cpu().float()
        if not x0.isfinite().all():
            raise RunError(
                f"{int((~x0.isfinite()).flatten(1).any(1).sum())} of {len(x0)} views hold NaN or infinity"
            )
        return self.codec.decode(x0).clamp(-1.0, 1.0)

    def _to_toys(self, x0: Tensor, context: Context) -> tuple[Float64[Tensor, "b k"], Tensor, Tensor]:
        """(psnr to each of the label's toys, pictures, the toys' own)."""
        seen = self.pictures(x0)
        condition = Context(context.condition).to("cpu").condition
        means = self.law.means(camera_of(condition))[:, self.mine]
        toys = self.codec.decode(means.flatten(0, 1)).unflatten(0, means.shape[:2])
        return metrics.psnr(seen, toys), seen, toys

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        near, seen, toys = self._to_toys(x0, context)
        best, which = near.max(1)
        particle = context.condition["particle"].cpu()  # type: ignore[index]
        return {
            "psnr": float(best.mean()),
            **metrics.scenes(which, particle, torch.arange(len(self.mine))),
            "contrast": metrics.contrast(seen, toys[torch.arange(len(which)), which]),
        }

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        return mean(self._to_toys(x0, context)[0].max(1).values, counts)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A row of views for each scene, in the order of a turntable, and a film of them."""
        condition = Context(context.condition).to("cpu").condition
        assert isinstance(condition, Mapping)
        azimuth = condition["camera"][:, 0]
        return turntable(self.pictures(x0), azimuth, condition["particle"], FilePath(target))

    def file_suffix(self) -> str:
        return ".gif"
