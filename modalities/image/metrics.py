"""Judging images in the features of a small classifier: Fréchet distance, precision and recall, class accuracy.

The feature space is the shipped classifier's, so the figures compare students and teachers of this project with each
other; they are not the Inception-based FID of the literature.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.image.data import ASSETS
from omnidistill.modalities.image.networks import Classifier

NEIGHBOURS = 3  # k of Kynkäänniemi et al. 2019, section 3
MANIFOLD_POINTS = 2000  # precision and recall cost the square of this


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to `a: Float[n d]` and `b: Float[m d]`, n, m >= 2.

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a^{1/2} S_b S_a^{1/2})^{1/2})   (Dowson and Landau 1982;
    Heusel et al. 2017, arXiv:1706.08500, eq. 6). The symmetrised product has a real spectrum, so no matrix root of an
    unsymmetric product is taken; float64 throughout. 0 for equal moments; grows as d/n when samples are few.

    Raises:
        UserError: a feature is NaN or infinite, or there are fewer than two points.
    """
    a, b = _points(a), _points(b)
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ cov_b @ root
    # Rounding leaves eigenvalues a hair below zero where a covariance is singular.
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    squared = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap
    return max(float(squared), 0.0)


def precision_recall(
    fake: Tensor, real: Tensor, k: int = NEIGHBOURS, points: int = MANIFOLD_POINTS
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eqs. 1 and 2), each in [0, 1].

    A set's manifold is the union of balls around its points, each reaching its k-th nearest other point. Precision is
    the share of `fake: Float[n d]` inside the manifold of `real: Float[m d]`, recall the share of real inside that of
    fake. Both sets are thinned to the same size, at most `points` evenly spaced rows: the radii depend on the size.

    Raises:
        UserError: a feature is NaN or infinite, or a set has no more than k points.
    """
    count = min(len(fake), len(real), points)
    if count <= k:
        raise UserError(
            f"precision and recall need more than k={k} points a set, got {len(fake)} and {len(real)}"
        )
    fake, real = _thinned(_points(fake), count), _thinned(_points(real), count)
    between = torch.cdist(fake, real)
    precision = (between <= _radii(real, k)).any(dim=1).double().mean()
    recall = (between <= _radii(fake, k).unsqueeze(1)).any(dim=0).double().mean()
    return float(precision), float(recall)


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
def features_and_logits(classifier: Classifier, images: Tensor, batch: int = 100) -> tuple[Tensor, Tensor]:
    """images: Float[n 1 h w] in [-1, 1] -> Float[n d], Float[n classes]; the classifier must be in eval mode."""
    if classifier.training:
        raise ValueError(
            "put the classifier in eval mode: batch statistics would make features depend on the batch"
        )
    parts = [classifier.features(part.float()) for part in images.split(batch)]
    features = torch.cat(parts)
    return features, classifier.head(features)


def evaluate(
    samples: Tensor,
    labels: Tensor | None,
    classifier: Classifier,
    real_images: Tensor | None = None,
    real_features: Tensor | None = None,
) -> dict[str, float]:
    """How close `samples: Float[n 1 h w]` in [-1, 1] come to real images.

    Args:
        labels: Long[n], the class each sample was asked for; None leaves out the class accuracy.
        classifier: in eval mode.
        real_images: Float[m 1 h w]; needed where `real_features` are not given.
        real_features: Float[m d], `features_and_logits(classifier, real_images)[0]`, to compute them once.

    Returns:
        `frechet` (lower is better), `class_accuracy` (share of samples the classifier puts in the class asked for),
        `precision` and `recall` (higher is better).

    Raises:
        UserError: a sample is NaN or infinite, or there are too few.
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
    precision, recall = precision_recall(features, real_features)
    figures = {"frechet": frechet_distance(features, real_features), "precision": precision, "recall": recall}
    if labels is not None:
        figures["class_accuracy"] = float((logits.argmax(1) == labels).double().mean())
    return figures


def _points(points: Tensor) -> Tensor:
    if len(points) < 2:
        raise UserError(f"a distribution needs at least 2 points, got {len(points)}")
    if not torch.isfinite(points).all():
        bad = int((~torch.isfinite(points)).any(dim=1).sum())
        raise UserError(f"{bad} of {len(points)} feature vectors are NaN or infinite")
    return points.double()


def _thinned(points: Tensor, count: int) -> Tensor:
    # Evenly spaced rather than the first ones: samples often come sorted by class.
    return points[torch.linspace(0, len(points) - 1, count, dtype=torch.float64).round().long()]


def _radii(points: Tensor, k: int) -> Tensor:
    # The nearest of all is the point itself, hence k + 1.
    return torch.cdist(points, points).kthvalue(k + 1, dim=1).values
