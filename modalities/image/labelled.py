"""Labelled pictures as a task, in pixels or in the latents of an autoencoder, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.data import captions
from omnidistill.errors import UserError
from omnidistill.interop.states import States, has_states
from omnidistill.modalities.image import data, metrics
from omnidistill.modalities.image.codec import SHIPPED, Encoded, Latents, Pixels
from omnidistill.modalities.image.networks import Classifier, UNet
from omnidistill.modalities.image.render import render
from omnidistill.paths import GaussianPath, rectified_flow
from omnidistill.random import uniform
from omnidistill.tasks import Encoding, Metric, Task

TEACHERS = FilePath(__file__).parent / "teachers"


class ImageTask(Task):
    """Labelled pictures in [-1, 1] on a rectified flow; the condition is the class.

    What is generated, `x0: Float[b *codec.shape]`, is the picture itself or what an autoencoder makes of it; pictures
    are judged and shown as pixels. Subclasses say where pictures come from. Metrics are taken in the features of a
    small classifier trained on the same training split: Fréchet distance (Heusel et al. 2017, with these features
    instead of Inception's), accuracy of the class asked for, precision and recall (Kynkäänniemi et al. 2019).

    Args:
        name: of the task, and of the folder of its shipped teacher.
        picture: the shape of a picture, (1, h, w).
        network: keywords of `UNet`.
        teacher_steps: the teacher's full number of steps.
        autoencoder: None for pixels, `shipped` for the package's own, or a folder that diffusers'
            `save_pretrained` wrote.
        classes: their number; label `classes` means "no class".
    """

    primary = Metric("frechet", "lower")
    conditional = True
    null: int
    classifier_name: str
    judges_classes = True

    def __init__(
        self,
        name: str,
        picture: tuple[int, ...],
        network: Mapping[str, Any],
        teacher_steps: int = 32,
        path: GaussianPath | None = None,
        autoencoder: str | None = None,
        classes: int = 10,
    ) -> None:
        if path is not None and "gaussian" not in path.offers:
            raise UserError(f"{name} needs a Gaussian path, got {path}")
        self.name, self.picture, self.teacher_steps = name, picture, int(teacher_steps)
        self.classes = self.null = int(classes)
        self.path = path or rectified_flow()
        self.codec: Pixels | Latents
        if autoencoder is None:
            self.codec = Pixels(picture)
        else:
            self.codec = Latents(SHIPPED if autoencoder == "shipped" else autoencoder, picture)
        self.shape = self.codec.shape
        self._network = dict(network)

    def images(self, split: str) -> data.LabelledImages | None:
        """The pictures of `train` or `held_out`, or None where the data set is not on this machine."""
        raise NotImplementedError

    @cached_property
    def _train(self) -> data.LabelledImages | None:
        return self.images("train")

    @cached_property
    def _held_out(self) -> data.LabelledImages:
        images = self.images("held_out")
        assert images is not None  # the built-in data sets bring their held-out images with them
        return images

    @cached_property
    def _encoded(self) -> dict[str, Encoded]:
        held_out = {"held_out": Encoded(self.codec, self._held_out.images)}
        return (
            held_out if self._train is None else held_out | {"train": Encoded(self.codec, self._train.images)}
        )

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
        return self.at(torch.randint(len(chosen.images), (count,), generator=g), split)

    def rows(self, split: str) -> int | None:
        chosen = self._train if split == "train" else self._held_out
        return 0 if chosen is None else len(chosen.images)

    def at(self, index: Tensor, split: str) -> Batch:
        chosen = self._train if split == "train" else self._held_out
        assert chosen is not None
        return Batch(self._encoded[split][index], Context(condition=chosen.labels[index]))

    def encoder(self, source: FilePath) -> Encoding:
        """An autoencoder of diffusers, or a pipeline with one, whose text encoder reads captions."""
        whole = (source / "vae" / "config.json").is_file()
        made = Latents(source / "vae" if whole else source, self.picture)
        states = States(source, made.shape) if whole and has_states(source) else None

        def encode(batch: Batch) -> Batch:
            assert batch.x0 is not None
            x0, context = made.encode(batch.x0.cpu()), batch.context
            if states is not None:
                if captions.KEY not in batch.extra:
                    raise UserError(
                        f"{source} has a text encoder, and no picture a caption (NAME.txt beside NAME.png); "
                        f"encoder={source / 'vae'} encodes pictures alone"
                    )
                context = context.with_condition(states(captions.texts(batch.extra[captions.KEY])))
            return Batch(x0, context)

        if states is None:
            return Encoding(encode, made.digest)
        return Encoding(encode, made.digest, states.digest, states.null())

    def encoder_digest(self) -> str:
        return self.codec.digest if isinstance(self.codec, Latents) else ""

    def contexts(self, count: int, g: torch.Generator) -> Context:
        """Labels drawn uniformly: the built-in data sets are balanced."""
        labels = (uniform(torch.empty(count), g) * self.null).long()
        return Context(condition=labels)

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        network = UNet(
            in_channels=self.shape[0],
            num_classes=self.null,
            target_time=target_time,
            guidance=guidance,
            **self._network,
        )
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reading(self) -> Mapping[str, Any]:
        return {"parameterisation": "flow", "time_input": "t"}

    def shipped_teacher(self) -> FilePath | None:
        return TEACHERS / self.name.split("/")[-1]

    def pictures(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Samples as they are shown, in [-1, 1], on the CPU."""
        return self.codec.decode(x0.detach().cpu()).clamp(-1.0, 1.0)

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Against the held-out pictures."""
        assert isinstance(context.condition, Tensor)
        return self._judged(self.pictures(x0), context.condition.cpu(), self._real_features)

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        features, _ = metrics.features_and_logits(self._classifier, self.pictures(x0))
        return metrics.bootstrap(features, self._real_features, counts)

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """Training pictures against held-out ones, as pixels: what the autoencoder loses is the generator's loss.
        Where there are no training pictures one half of the held-out ones against the other, which reads a little
        higher because both are fewer."""
        if self._train is not None:
            rows = torch.randint(len(self._train.images), (count,), generator=g)
            return self._judged(self._train.images[rows], self._train.labels[rows], self._real_features)
        images, labels = self._held_out
        half = max(1, len(images) // 2)
        return self._judged(images[:half], labels[:half], self._real_features[half:])

    def _judged(self, images: Tensor, labels: Tensor, real: Tensor) -> dict[str, float]:
        asked = labels if self.judges_classes else None
        return metrics.evaluate(images, asked, self._classifier, real_features=real)

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A grid of pictures, one column for each class where that comes out even."""
        labels = context.condition
        assert isinstance(labels, Tensor)
        order = torch.argsort(labels.cpu(), stable=True)
        return [render(self.pictures(x0)[order], target.with_name(target.name + ".png"))]
