"""Judging clips: a Fréchet distance over descriptors of frames and of their changes, motion and flicker.

A pair of neighbouring frames (a, b) is described by what a shows and by how b differs. With G the grey picture, pooled
means over cells of the frame:

    appearance(a)  colour in 8x8 cells; max(+-dG/dx, 0), max(+-dG/dy, 0) in 4x4 cells: edges by direction
    motion(a, b)   max(+-(G_b - G_a), 0) in 8x8 cells; (G_b - G_a) dG/dx and ... dG/dy in 4x4 cells: which way edges go

in the manner of histograms of gradients and of flow (Dalal and Triggs 2005; Laptev et al. 2008). Both are nonlinear in
the pixels, so neither blur nor the right covariance alone satisfies them. Each is projected on the principal
components of training clips, scaled to unit variance: details count as much as light and shade. Figures compare
students and teachers of this project; they are not the FVD of the literature, which needs a pretrained network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.distances import frechet_distance

COMPONENTS = 48  # of the appearance, and as many of the motion
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def appearance(frames: Tensor) -> Tensor:
    """frames: Float[n 3 h w] -> Float[n 256]."""
    edges = torch.cat(_slopes(_grey(frames)), 1)
    return torch.cat((_cells(frames, 8), _energies(edges, 4)), 1)


def motion(before: Tensor, after: Tensor) -> Tensor:
    """before, after: Float[n 3 h w], neighbouring frames -> Float[n 192]."""
    grey = _grey(before)
    change = _grey(after) - grey
    pushed = torch.cat([change * slope for slope in _slopes(grey)], 1)
    return torch.cat((_energies(change, 8), _energies(pushed, 4)), 1)


def describe(clips: Tensor, batch: int = 32) -> tuple[Tensor, Tensor]:
    """clips: Float[n 3 f h w] in [-1, 1] -> appearance Float[n f-1 256] and motion Float[n f-1 192] of its pairs."""
    seen, moved = [], []
    for part in clips.split(batch):  # so few that their pictures stay in the cache
        before, after = (x.transpose(1, 2).flatten(0, 1).float() for x in (part[:, :, :-1], part[:, :, 1:]))
        seen.append(appearance(before).unflatten(0, (len(part), -1)))
        moved.append(motion(before, after).unflatten(0, (len(part), -1)))
    return torch.cat(seen), torch.cat(moved)


class Whitener:
    """Projection on the first principal components of `points: Float[n d]`, each scaled to unit variance there."""

    def __init__(self, points: Tensor, components: int = COMPONENTS) -> None:
        points = points.double()
        self.mean = points.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((points - self.mean).T))
        # A component that training clips lack (one colour, no motion) would be divided by nothing.
        kept = values[-components:].clamp_min(1e-12 * float(values[-1]) + 1e-12)
        self.directions = vectors[:, -components:] * kept.rsqrt()

    def __call__(self, points: Tensor) -> Tensor:
        return (points.double() - self.mean) @ self.directions


class Judge:
    """Compares clips with held-out ones, in descriptors whitened on training clips.

    Args:
        training, held_out: Float[n 3 f h w] in [-1, 1].
        labels: Long[n], of the training clips.
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

    def features(self, clips: Tensor) -> Tensor:
        """Float64[n f-1 2*COMPONENTS]: appearance, then motion, of every pair of neighbouring frames."""
        seen, moved = describe(clips)
        return torch.cat((self.seen(seen), self.moved(moved)), -1)

    @staticmethod
    def _mean_appearance(features: Tensor) -> Tensor:
        mean = features[..., :COMPONENTS].mean(1)
        return torch.cat((mean, torch.ones_like(mean[:, :1])), 1)

    def __call__(self, clips: Tensor, labels: Tensor | None) -> dict[str, float]:
        """
        Args:
            clips: Float[n 3 f h w]; cut to [-1, 1] first, as when shown.
            labels: Long[n], the recording each clip was asked for.

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


def _slopes(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y; the border repeats."""
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    return across, 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])


def _energies(maps: Tensor, cells: int) -> Tensor:
    """Square roots of the mean positive and negative parts in each cell, which a few strong places do not rule."""
    return _cells(torch.cat((F.relu(maps), F.relu(-maps)), 1), cells).sqrt()


def _cells(maps: Tensor, cells: int) -> Tensor:
    return F.adaptive_avg_pool2d(maps, cells).flatten(1)
