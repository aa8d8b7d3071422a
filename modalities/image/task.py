"""The image tasks: class-conditional Fashion-MNIST and handwritten digits, in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.modalities.image import data, metrics
from omnidistill.modalities.image.networks import Classifier, UNet
from omnidistill.modalities.image.render import render
from omnidistill.paths import GaussianPath, rectified_flow
from omnidistill.random import uniform
from omnidistill.tasks import Metric, Task

TEACHERS = FilePath(__file__).parent / "teachers"


class ImageTask(Task):
    """Labelled images in [-1, 1], `x0: Float[b 1 h w]`, on a rectified flow; the condition is the class, Long[b].

    Subclasses say where images come from. Metrics are taken in the features of a small classifier trained on the
    same training split: Fréchet distance (Heusel et al. 2017, with these features instead of Inception's), accuracy
    of the class asked for, precision and recall (Kynkäänniemi et al. 2019).
    """

    primary = Metric("frechet", "lower")
    conditional = True
    classes = null = 10
    classifier_name: str

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        network: Mapping[str, Any],
        teacher_steps: int = 32,
        path: GaussianPath | None = None,
    ) -> None:
        if path is not None and "gaussian" not in path.offers:
            raise UserError(f"{name} needs a Gaussian path, got {path}")
        self.name, self.shape, self.teacher_steps = name, shape, int(teacher_steps)
        self.path = path or rectified_flow()
        self._network = dict(network)

    def images(self, split: str) -> data.LabelledImages | None:
        """The images of `train` or `held_out`, or None where the data set is not on this machine."""
        raise NotImplementedError

    @cached_property
    def _train(self) -> data.LabelledImages | None:
        return self.images("train")

    @cached_property
    def _held_out(self) -> data.LabelledImages:
        images = self.images("held_out")
        assert images is not None  # both tasks bring their held-out images with them
        return images

    @cached_property
    def _classifier(self) -> Classifier:
        return metrics.load_classifier(self.classifier_name)

    @cached_property
    def _real_features(self) -> Tensor:
        return metrics.features_and_logits(self._classifier, self._held_out.images)[0]

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        chosen = self._train if split == "train" else self._held_out
        if chosen is None:
            return Batch(None, self.contexts(count, g), count)
        rows = torch.randint(len(chosen.images), (count,), generator=g)
        return Batch(chosen.images[rows], Context(condition=chosen.labels[rows]))

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Labels drawn uniformly: both data sets are balanced."""
        labels = (uniform(torch.empty(count), g) * self.null).long()
        return Context(condition=labels)

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        network = UNet(num_classes=self.null, target_time=target_time, guidance=guidance, **self._network)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reading(self) -> Mapping[str, Any]:
        return {"parameterisation": "flow", "time_input": "t"}

    def shipped_teacher(self) -> FilePath:
        return TEACHERS / self.name.split("/")[-1]

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Against the held-out images. Pixels are cut to [-1, 1] first, as they are when shown."""
        labels = context.condition
        assert isinstance(labels, Tensor)
        samples = x0.detach().cpu().clamp(-1.0, 1.0)
        return metrics.evaluate(samples, labels.cpu(), self._classifier, real_features=self._real_features)

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """Training images against held-out images; where there are none, one half of the held-out ones against the
        other, which reads a little higher because both are fewer."""
        if self._train is not None:
            return super().floor(count, g)
        images, labels = self._held_out
        half = len(images) // 2
        features, classifier = self._real_features, self._classifier
        return metrics.evaluate(images[:half], labels[:half], classifier, real_features=features[half:])

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A grid of pictures, one column for each class where that comes out even."""
        labels = context.condition
        assert isinstance(labels, Tensor)
        order = torch.argsort(labels.cpu(), stable=True)
        return [render(x0.detach().cpu()[order], target.with_name(target.name + ".png"))]


class FashionMnist(ImageTask):
    """`image/fashion_mnist`: 28x28 pictures of clothing, 10 classes (Xiao et al. 2017).

    Held out: 5000 of the 10000 test images, which come with the package, so sampling and judging need no download.
    Training images are read from `folder`, or from where `omnidistill data fetch fashion_mnist` put them; without
    them the task still offers labels, and recipes that need no data run.

    Args:
        network: keywords of `UNet`.
        teacher_steps: the teacher's full number of steps.
        folder: the idx files, packed or not.
    """

    title = "Fashion-MNIST, class-conditional"
    classifier_name = "classifier"
    data_hint = "`omnidistill data fetch fashion_mnist` gets it"

    def __init__(
        self,
        network: Mapping[str, Any] | None = None,
        teacher_steps: int = 32,
        folder: str | None = None,
        path: GaussianPath | None = None,
        name: str = "image/fashion_mnist",
    ) -> None:
        super().__init__(
            name, (1, 28, 28), network or {"channels": (48, 96), "unshuffle": 2}, teacher_steps, path
        )
        self.folder = folder

    def images(self, split: str) -> data.LabelledImages | None:
        if split == "held_out":
            return data.heldout()
        if self.folder is None and not data.fetched("fashion_mnist"):
            return None
        return data.fashion_mnist("train", self.folder)


class Digits(ImageTask):
    """`image/digits`: scikit-learn's 1797 handwritten digits of 8x8 pixels, for quick tests; 360 are held out.

    Args:
        network: keywords of `UNet`.
        teacher_steps: the teacher's full number of steps.
    """

    title = "Handwritten digits, class-conditional"
    classifier_name = "digits_classifier"

    def __init__(
        self,
        network: Mapping[str, Any] | None = None,
        teacher_steps: int = 32,
        path: GaussianPath | None = None,
        name: str = "image/digits",
    ) -> None:
        super().__init__(
            name, (1, 8, 8), network or {"channels": (32, 64), "unshuffle": 1}, teacher_steps, path
        )

    def images(self, split: str) -> data.LabelledImages:
        return data.digits("train" if split == "train" else "test")
