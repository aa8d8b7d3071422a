"""Judging music clips by the statistics of their texture: what patches of each band look like, and how they vary.

The feature space is fitted to the training clips by linear algebra alone, so it exists for anybody's recordings and
is the same on every machine. Figures compare students and teachers on one data set with each other; they are not the
Fréchet audio distance of the literature (Kilgour et al. 2019), which needs a pretrained network.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.distances import NEIGHBOURS, frechet_distance, precision_recall
from omnidistill.shapes import Labels

Mels = Float[Tensor, "b 1 mels frames"]
Real = Bool[Tensor, "b 1 1 frames"]


BANDS = 4  # groups of neighbouring mels, each with patterns of its own: bass and cymbals look different
FRAMES = 16  # of a patch
STRIDE = 4  # frames between two patches
PATTERNS = 12  # principal components a band
SMALLEST = 1e-3  # variances below this are no music but rounding


class Texture:
    """Features of log-mel clips, and the labels that they are most like.

    Each band's patches (mels/4 bands high, 16 frames long, every 4 frames) are projected onto the 12 principal
    components of the training patches. A clip's features are, for each band and component, the mean and the log
    standard deviation over its patches, and for each band the log energy outside the components, which a blurred
    clip lacks and a noisy one has too much of: 4 (12 + 12 + 1) = 100 numbers, each scaled to unit variance over the
    training clips. Patches that touch padding do not count.

    Args:
        clips: training clips; mels divides by 4 and frames is at least 16.
        mask: True where a frame is real; None: everywhere.
        labels: of each label more than one clip.
    """

    def __init__(self, clips: Mels, mask: Real | None, labels: Labels) -> None:
        if clips.shape[2] % BANDS or clips.shape[3] < FRAMES:
            raise UserError(
                f"texture needs mels that divide by {BANDS} and at least {FRAMES} frames, got {clips.shape[2:]}"
            )
        patches, real = _patches(clips, mask)
        flat = patches.permute(1, 0, 2, 3)[:, real].double()  # [bands patches pixels]
        self._centre = flat.mean(1, keepdim=True)
        centred = flat - self._centre
        # Ascending eigenvalues: the last vectors are the leading patterns.
        self._patterns = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -PATTERNS:]
        raw = self._raw(clips, mask)
        self._mean, self._scale = raw.mean(0), raw.std(0).clamp(min=SMALLEST)
        features = self.features(clips, mask)
        classes = int(labels.max()) + 1
        self._means = torch.stack([features[labels == label].mean(0) for label in range(classes)])
        within = features - self._means[labels]
        covariance = within.T @ within / len(within)
        # Shrunk towards the identity, for some features hardly vary within a label.
        self._precision = torch.linalg.inv(
            covariance + 0.05 * torch.eye(len(covariance), dtype=covariance.dtype)
        )

    def features(self, clips: Mels, mask: Real | None = None) -> Float64[Tensor, "b 100"]:
        """Of each clip, see above."""
        return (self._raw(clips, mask) - self._mean) / self._scale

    def classify(self, features: Float64[Tensor, "b 100"]) -> Labels:
        """The label whose mean is nearest in the metric of the scatter within labels."""
        away = features.unsqueeze(1) - self._means
        return torch.einsum("bkd,de,bke->bk", away, self._precision, away).argmin(1)

    def _raw(self, clips: Tensor, mask: Tensor | None) -> Tensor:
        parts = []
        masks = [None] * len(clips) if mask is None else mask.split(256)
        for part, real in zip(clips.split(256), masks, strict=False):
            patches, counted = _patches(part.detach().cpu(), None if real is None else real.cpu())
            away = patches.double() - self._centre.unsqueeze(0)  # [b bands patches pixels]
            found = away @ self._patterns
            weight = counted.double()[:, None, :, None]
            total = weight.sum(2)
            mean = (found * weight).sum(2) / total
            variance = ((found - mean.unsqueeze(2)).square() * weight).sum(2) / total
            left = away.square().sum(-1, keepdim=True) - found.square().sum(-1, keepdim=True)
            rest = (left.clamp(min=0) * weight).sum(2) / total
            logs = torch.cat((variance, rest), -1).clamp(min=SMALLEST).log() / 2
            parts.append(torch.cat((mean, logs), -1).flatten(1))
        return torch.cat(parts)


def evaluate(
    clips: Mels, mask: Real | None, labels: Labels | None, texture: Texture, real: Float64[Tensor, "m 100"]
) -> dict[str, float]:
    """How close clips come to real ones.

    Args:
        labels: the label each was asked for; None leaves out the label accuracy.
        real: the features of held-out clips.

    Returns:
        `frechet` (lower is better), `label_accuracy`, `precision` and `recall` (higher is better; the last two are
        left out of so few clips that they are not defined).

    Raises:
        UserError: a clip is NaN or infinite, or there are too few.
    """
    if not torch.isfinite(clips).all():
        bad = int((~torch.isfinite(clips)).flatten(1).any(dim=1).sum())
        raise UserError(f"{bad} of {len(clips)} clips hold NaN or infinite values; the model has diverged")
    features = texture.features(clips, mask)
    figures = {"frechet": frechet_distance(features, real)}
    if min(len(features), len(real)) > NEIGHBOURS:
        figures["precision"], figures["recall"] = precision_recall(features, real)
    if labels is not None:
        figures["label_accuracy"] = float((texture.classify(features) == labels.cpu()).double().mean())
    return figures


def _patches(
    clips: Mels, mask: Real | None
) -> tuple[Float[Tensor, "b bands patches pixels"], Bool[Tensor, "b patches"]]:
    """Patches of each band, and which are wholly real."""
    bands = clips[:, 0].unflatten(1, (BANDS, -1))  # [b bands mels/bands frames]
    patches = bands.unfold(-1, FRAMES, STRIDE).permute(0, 1, 3, 2, 4).flatten(3)
    if mask is None:
        return patches, torch.ones(patches.shape[0], patches.shape[2], dtype=torch.bool)
    return patches, mask[:, 0, 0].unfold(-1, FRAMES, STRIDE).all(-1)
