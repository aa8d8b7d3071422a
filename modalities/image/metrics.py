"""Judging images in the features of a small classifier: Fréchet distance, precision and recall, class accuracy.

The feature space is the shipped classifier's, so the figures compare students and teachers of this project with each
other; they are not the Inception-based FID of the literature.
"""

from __future__ import annotations

import json

import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.distances import NEIGHBOURS, frechet_distance, precision_recall, resampled_frechet
from omnidistill.modalities.image.data import ASSETS
from omnidistill.modalities.image.networks import Classifier
from omnidistill.shapes import Resampled


def load_classifier(name: str = "classifier") -> Classifier:
    """A shipped classifier in eval mode: `classifier` (Fashion-MNIST, 28x28) or `digits_classifier` (8x8)."""
    from safetensors.torch import load_file

    record = json.loads((ASSETS / f"{name}.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):  # layers draw initial weights from the global generator
        classifier = Classifier(**record["network"])
    classifier.load_state_dict(load_file(ASSETS / f"{name}.safetensors"))
    # With this layout and batches of 100, whose activations stay in the cache, features come out about 3 times faster.
    return classifier.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def features_and_logits(
    classifier: Classifier, images: Float[Tensor, "n 1 h w"], batch: int = 100
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n classes"]]:
    """Of images in [-1, 1]; the classifier must be in eval mode."""
    if classifier.training:
        raise ValueError(
            "put the classifier in eval mode: batch statistics would make features depend on the batch"
        )
    parts = [classifier.features(part.float()) for part in images.split(batch)]
    features = torch.cat(parts)
    return features, classifier.head(features)


def bootstrap(
    features: Float[Tensor, "n d"], real_features: Float[Tensor, "m d"], counts: Int[Tensor, "r n"]
) -> Resampled:
    """`frechet` of resamples of the pictures behind these features."""
    if len(features) < 2:
        features, counts = _spread(features), counts.expand(-1, 2)
    return resampled_frechet(features, _spread(real_features), counts)


def evaluate(
    samples: Float[Tensor, "n 1 h w"],
    labels: Int[Tensor, "n"] | None,
    classifier: Classifier,
    real_images: Float[Tensor, "m 1 h w"] | None = None,
    real_features: Float[Tensor, "m d"] | None = None,
) -> dict[str, float]:
    """How close samples in [-1, 1] come to real images.

    Args:
        labels: the class each sample was asked for; None leaves out the class accuracy.
        classifier: in eval mode.
        real_images: needed where `real_features` are not given.
        real_features: `features_and_logits(classifier, real_images)[0]`, to compute them once.

    Returns:
        `frechet` (lower is better), `class_accuracy` (share of samples the classifier puts in the class asked for),
        `precision` and `recall` (higher is better; left out where there are too few pictures to have neighbours).

    Raises:
        UserError: a sample is NaN or infinite.
    """
    if real_features is None:
        if real_images is None:
            raise ValueError("evaluate needs real_images or real_features")
        real_features, _ = features_and_logits(classifier, real_images)
    if not torch.isfinite(samples).all():
        bad = int((~torch.isfinite(samples)).flatten(1).any(dim=1).sum())
        raise UserError(
            f"{bad} of {len(samples)} samples hold NaN or infinite pixels; the model has diverged"
        )
    features, logits = features_and_logits(classifier, samples)
    figures = {"frechet": frechet_distance(_spread(features), _spread(real_features))}
    if min(len(features), len(real_features)) > NEIGHBOURS:
        figures["precision"], figures["recall"] = precision_recall(features, real_features)
    if labels is not None:
        figures["class_accuracy"] = float((logits.argmax(1) == labels).double().mean())
    return figures


def _spread(points: Tensor) -> Tensor:
    """One point alone is a distribution without spread, which two of it are too."""
    return points.repeat(2, 1) if len(points) == 1 else points
