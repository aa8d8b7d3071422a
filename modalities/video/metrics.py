"""Judging clips: a Fréchet distance over descriptors of frames and of their changes, motion and flicker.

A pair of neighbouring frames (a, b) is described by what a shows and by how b differs. With G the grey picture, D
forward differences of neighbouring pixels, and roots of mean positive and negative parts over 4x4 cells of the frame:

    appearance(a)  colour means; D_x G_a and D_y G_a: edges by direction; their own differences: fine detail
    motion(a, b)   G_b - G_a; (G_b - G_a) D_x G_a and (G_b - G_a) D_y G_a: which way edges go

in the manner of histograms of gradients and of flow (Dalal and Triggs 2005; Laptev et al. 2008). Both are nonlinear in
the pixels, so the right covariance alone does not satisfy them. Each is standardised, projected on the principal
components of training clips and scaled to unit variance there: details count as much as light and shade. Figures
compare students and teachers of this project; they are not the FVD of the literature, which needs a pretrained network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.distances import frechet_distance, resampled_frechet
from omnidistill.shapes import Resampled

Clips = Float[Tensor, "n 3 f h w"]


CELLS = 4  # a side
COMPONENTS = 48  # of the appearance, and as many of the motion
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def appearance(frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 176"]:
    """What a frame looks like, in 176 numbers."""
    grey = _grey(frames)
    across, down = _slopes(grey)
    detail = torch.cat((_slopes(across)[0], _slopes(down)[1]), 1)
    return torch.cat((_cells(frames), _energies(torch.cat((across, down, detail), 1))), 1)


def motion(before: Float[Tensor, "n 3 h w"], after: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 96"]:
    """How two neighbouring frames differ, in 96 numbers."""
    grey = _grey(before)
    change = _grey(after) - grey
    return _energies(torch.cat((change, *(change * slope for slope in _slopes(grey))), 1))


def describe(
    clips: Clips, batch: int = 32
) -> tuple[Float[Tensor, "n pairs 176"], Float[Tensor, "n pairs 96"]]:
    """Appearance and motion of the f - 1 pairs of clips in [-1, 1]."""
    seen, moved = [], []
    for part in clips.split(batch):  # so few that their pictures stay in the cache
        before, after = (x.transpose(1, 2).flatten(0, 1).float() for x in (part[:, :, :-1], part[:, :, 1:]))
        seen.append(appearance(before).unflatten(0, (len(part), -1)))
        moved.append(motion(before, after).unflatten(0, (len(part), -1)))
    return torch.cat(seen), torch.cat(moved)


class Whitener:
    """`points: Float[n d]` standardised, then their first principal components, each scaled to unit variance."""

    def __init__(self, points: Tensor, components: int = COMPONENTS) -> None:
        points = points.double()
        # What training clips lack (colour, motion) would be divided by nothing.
        self.mean, scale = points.mean(0), points.std(0).clamp_min(1e-6)
        values, vectors = torch.linalg.eigh(torch.cov(((points - self.mean) / scale).T))
        kept = values[-components:].clamp_min(1e-6 * float(values[-1]) + 1e-12)
        self.directions = vectors[:, -components:] * kept.rsqrt() / scale.unsqueeze(1)

    def __call__(self, points: Tensor) -> Tensor:
        return (points.double() - self.mean) @ self.directions


class Judge:
    """Compares clips with held-out ones, in descriptors whitened on training clips.

    Args:
        training, held_out: clips in [-1, 1].
        labels: of the training clips.
        classes: number of labels.
    """

    def __init__(self, training: Tensor, labels: Tensor, held_out: Tensor, classes: int) -> None:
        seen, moved = describe(training)
        self.seen, self.moved = Whitener(seen.flatten(0, 1)), Whitener(moved.flatten(0, 1))
        self.real = self.features(held_out)
        self.real_motion, self.real_flicker = _changes(held_out)
        # Least squares on one-hot labels with a ridge, from the mean appearance of a clip.
        points, wanted = self._mean_appearance(self.features(training)), F.one_hot(labels, classes).double()
        ridge = 1e-2 * len(points) * torch.eye(points.shape[1], dtype=torch.float64)
        self.classifier = torch.linalg.solve(points.T @ points + ridge, points.T @ wanted)

    def features(self, clips: Clips) -> Float64[Tensor, "n pairs components"]:
        """2 COMPONENTS numbers: appearance, then motion, of every pair of neighbouring frames."""
        seen, moved = describe(clips)
        return torch.cat((self.seen(seen), self.moved(moved)), -1)

    def bootstrap(self, clips: Clips, counts: Int[Tensor, "r n"]) -> Resampled:
        """`frechet` of resamples of the clips; a clip's frames go together."""
        features = self.features(clips.clamp(-1.0, 1.0))
        owner = torch.arange(len(clips)).repeat_interleave(features.shape[1])
        return resampled_frechet(features.flatten(0, 1), self.real.flatten(0, 1), counts, owner)

    @staticmethod
    def _mean_appearance(features: Tensor) -> Tensor:
        mean = features[..., :COMPONENTS].mean(1)
        return torch.cat((mean, torch.ones_like(mean[:, :1])), 1)

    def __call__(self, clips: Clips, labels: Int[Tensor, "n"] | None) -> dict[str, float]:
        """
        Args:
            clips: cut to [-1, 1] first, as when shown.
            labels: the recording each clip was asked for.

        Returns:
            frechet: of appearance and motion together, frechet_frames and frechet_motion of one of them (lower is
            better); motion and flicker: mean absolute first and second difference in time, over that of held-out
            clips (1 is right); label_accuracy: share that a linear classifier puts into the recording asked for.

        Raises:
            UserError: a pixel is NaN or infinite.
        """
        if not torch.isfinite(clips).all():
            bad = int((~torch.isfinite(clips)).flatten(1).any(dim=1).sum())
            raise UserError(
                f"{bad} of {len(clips)} clips hold NaN or infinite pixels; the model has diverged"
            )
        clips = clips.clamp(-1.0, 1.0)
        features = self.features(clips)
        made, real, half = features.flatten(0, 1), self.real.flatten(0, 1), COMPONENTS
        speed, flicker = _changes(clips)
        figures = {
            "frechet": frechet_distance(made, real),
            "frechet_frames": frechet_distance(made[:, :half], real[:, :half]),
            "frechet_motion": frechet_distance(made[:, half:], real[:, half:]),
            "motion": speed / self.real_motion,
            "flicker": flicker / self.real_flicker,
        }
        if labels is not None:
            guess = (self._mean_appearance(features) @ self.classifier).argmax(1)
            figures["label_accuracy"] = float((guess == labels).double().mean())
        return figures


def _changes(clips: Tensor) -> tuple[float, float]:
    """Mean absolute first and second difference in time."""
    first = clips.diff(dim=2)
    return float(first.abs().mean()), float(first.diff(dim=2).abs().mean())


def _grey(frames: Tensor) -> Tensor:
    return (frames * frames.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _slopes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences along x and y; 0 at the last column and row."""
    return F.pad(maps.diff(dim=-1), (0, 1)), F.pad(maps.diff(dim=-2), (0, 0, 0, 1))


def _energies(maps: Tensor) -> Tensor:
    """Square roots of the mean positive and negative parts in each cell, which a few strong places do not rule."""
    return _cells(torch.cat((F.relu(maps), F.relu(-maps)), 1)).sqrt()


def _cells(maps: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(maps, CELLS).flatten(1)
