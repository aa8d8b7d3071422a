"""The image tasks that come with the package: pictures of clothing and of digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

from omnidistill.errors import UserError
from omnidistill.modalities.image import data
from omnidistill.modalities.image.labelled import ImageTask
from omnidistill.modalities.image.own import own_images, own_labels
from omnidistill.paths import GaussianPath


class FashionMnist(ImageTask):
    """`image/fashion_mnist`: 28x28 pictures of clothing, 10 classes (Xiao et al. 2017), in the latents of the shipped
    autoencoder; `image/fashion_mnist_pixels` without it.

    Held out: 5000 of the 10000 test images, which come with the package, so sampling and judging need no download.
    Training images are read from `folder`, or from where `omnidistill data fetch fashion_mnist` put them; without
    them the task still offers labels, and recipes that need no data run.

    Args:
        network: keywords of `UNet`.
        teacher_steps: the teacher's full number of steps.
        folder: the idx files, packed or not; or pictures of your own, see `own_images`. Those are judged in the same
            features, without the accuracy of classes, which are others, and have no shipped teacher.
        autoencoder: None for pixels, `shipped`, or a folder of your own.
        classes: their number, for pictures of your own.
        labels: their names in the order of their numbers; None: the class folders' in natural order.
        on_bad: `stop` at a picture that cannot be read, or `skip` it.
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
        name: str = "image/fashion_mnist_pixels",
        autoencoder: str | None = None,
        classes: int = 10,
        labels: Sequence[str] | None = None,
        on_bad: str = "stop",
    ) -> None:
        default = {"channels": (48, 96), "unshuffle": 2}
        super().__init__(name, (1, 28, 28), network or default, teacher_steps, path, autoencoder, classes)
        self.folder = folder
        self.own = folder is not None and not data.has_idx(folder)
        self._given, self.on_bad = None if labels is None else tuple(str(name) for name in labels), on_bad
        if self._given is not None and len(self._given) != self.classes:
            raise UserError(
                f"task.labels has {len(self._given)} names, task.classes is {self.classes}; give as many"
            )
        self.judges_classes = not self.own
        # A teacher knows the latents of the autoencoder it was trained with and no others.
        self._has_teacher = not self.own and autoencoder in (None, "shipped")

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        if self._given is not None:
            return self._given
        if not self.own:
            return data.FASHION_CLASSES
        assert self.folder is not None
        return own_labels(self.folder)

    def shipped_teacher(self) -> FilePath | None:
        return super().shipped_teacher() if self._has_teacher else None

    def images(self, split: str) -> data.LabelledImages | None:
        if self.own:
            assert self.folder is not None
            return own_images(self.folder, split, self.picture[-1], self.null, self._given, self.on_bad)
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
