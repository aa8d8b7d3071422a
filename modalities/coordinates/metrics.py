"""Judging ensembles of structures against held-out ones, up to rigid motion. Lengths in Angstrom, everything float64.

The nearest held-out frame favours the mean structure, which is near to all of them and moves to none; so do bonds
where motion is small. What is asked of an ensemble is a distance of distributions: the energy distance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.evaluation.energy import off_diagonal
from omnidistill.paths import RigidMotion
from omnidistill.shapes import Resampled

BOND_TOLERANCE = 0.2
"""Angstrom by which a valid bond may differ from its length."""


def rmsd_matrix(
    a: Float[Tensor, "i n 3"], b: Float[Tensor, "j n 3"]
) -> tuple[Float64[Tensor, "i j"], Float64[Tensor, "i j"]]:
    """Root mean squared distances of points after the best rigid motion, and after the best one of a mirror image.

    With the singular values s of the covariance `H = sum_n a_n b_n^T` of centred structures,

        n rmsd^2 = |a|^2 + |b|^2 - 2 (s1 + s2 +- s3),

    the sign being that of det H for proper motions and the opposite for a mirror image (Kabsch 1976, 1978).
    """
    a, b = (RigidMotion().project(x.double()) for x in (a, b))
    h = torch.einsum("inc,jnd->ijcd", a, b)
    s = torch.linalg.svdvals(h)
    sign = torch.where(torch.linalg.det(h) < 0, -1.0, 1.0)
    size = a.square().sum((1, 2)).unsqueeze(1) + b.square().sum((1, 2))
    best, last = size - 2.0 * (s[..., 0] + s[..., 1]), 2.0 * sign * s[..., 2]
    proper, mirrored = ((best + side * last).clamp_min(0.0).div(a.shape[1]).sqrt() for side in (-1.0, 1.0))
    return proper, mirrored


def energy_distance(
    between: Float64[Tensor, "i j"],
    within_a: Float64[Tensor, "i i"],
    within_b: Float64[Tensor, "j j"],
    counts: Int[Tensor, "r i"] | None = None,
) -> Resampled:
    """`2 E|a - b| - E|a - a'| - E|b - b'|` (Székely and Rizzo 2013, eq. 1) from matrices of distances.

    The means within a set run over different structures (the U-statistic): no bias, 0 on average for two samples of one
    law and so a little below 0 at times. With distances after alignment it is a statistic in use rather than a proven
    metric, because those do not embed in a Euclidean space; it has their unit.

    Args:
        counts: how often each structure of a is in each resample; None: r = 1, each once.
    """
    w = torch.ones(1, len(between), dtype=torch.float64) if counts is None else counts.double()
    v = torch.ones(1, len(within_b), dtype=torch.float64)
    own = off_diagonal(((w @ within_a.clone().fill_diagonal_(0.0)) * w).sum(1), w, len(within_a))
    real = off_diagonal(within_b.sum().reshape(1) - within_b.diagonal().sum(), v, len(within_b))
    return 2.0 * (w @ between.mean(1)) / w.sum(1) - own - real


def tm_score(x: Float[Tensor, "b n 3"], to: Float[Tensor, "b n 3"]) -> Float64[Tensor, "b"]:
    """`mean_n 1 / (1 + (d_n / d0)^2)`, `d0 = 1.24 (n - 15)^(1/3) - 1.8`, at least 0.5 (Zhang and Skolnick
    2004, eqs. 1 and 5), on the superposition of least squares: a lower bound of the maximum that defines it.

    Args:
        x, to: in Angstrom, points in the same order.
    """
    n = x.shape[1]
    d0 = max(0.5, 1.24 * max(n - 15, 0) ** (1 / 3) - 1.8)
    moved = RigidMotion().align(x.double(), to.double())
    return (1.0 / (1.0 + (moved - to).square().sum(-1) / d0**2)).mean(-1)


def gyration(x: Float[Tensor, "b n 3"]) -> Float64[Tensor, "b"]:
    """Radius of gyration, all points of one mass."""
    return RigidMotion().project(x.double()).square().sum(-1).mean(-1).sqrt()


def transport(a: Tensor, b: Tensor) -> float:
    """The 1-Wasserstein distance of two sets of numbers."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a.numpy(), b.numpy()))


def valid_bonds(
    x: Float[Tensor, "b n 3"], bonds: Int[Tensor, "m 2"], lengths: Float64[Tensor, "m"]
) -> Float64[Tensor, "b"]:
    """The share of bonds within `BOND_TOLERANCE` of their length; 1 where there are none."""
    if not len(bonds):
        return torch.ones(len(x), dtype=torch.float64)
    found = (x[:, bonds[:, 0]] - x[:, bonds[:, 1]]).double().norm(dim=-1)
    return ((found - lengths).abs() < BOND_TOLERANCE).double().mean(1)


def bootstrap(
    x: Float[Tensor, "i n 3"],
    real: Float[Tensor, "j n 3"],
    within: Float64[Tensor, "j j"],
    counts: Int[Tensor, "r i"],
) -> Resampled:
    """`energy` of resamples of x; see `evaluate`."""
    return energy_distance(rmsd_matrix(x, real)[0], rmsd_matrix(x, x)[0], within, counts)


def evaluate(
    x: Float[Tensor, "i n 3"],
    real: Float[Tensor, "j n 3"],
    bonds: Int[Tensor, "m 2"],
    lengths: Float64[Tensor, "m"],
    within: Float64[Tensor, "j j"] | None = None,
) -> dict[str, float]:
    """How close the ensemble x comes to real structures of the same molecule.

    Args:
        x, real: in Angstrom.
        bonds, lengths: see `valid_bonds`.
        within: `rmsd_matrix(real, real)[0]`, to compute it once.

    Returns:
        energy: energy distance of x and real with aligned RMSD as the distance; sees shapes, their weights, their
            spread and their handedness.
        rmsd: aligned RMSD to the nearest real structure, averaged over samples.
        coverage: aligned RMSD to the nearest sample, averaged over real structures; lower with more samples.
        tm_score: to the nearest real structure, averaged over samples.
        bonds: share of valid bonds.
        mirror: share of samples that are nearer to a mirror image of a real structure than to any real one.
        gyration: 1-Wasserstein distance of the radii of gyration.

    Raises:
        UserError: a sample is NaN or infinite.
    """
    broken = int((~x.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise UserError(
            f"{broken} of {len(x)} samples hold NaN or infinite coordinates; the model has diverged"
        )
    within = rmsd_matrix(real, real)[0] if within is None else within
    between, mirrored = rmsd_matrix(x, real)
    nearest, which = between.min(1)
    return {
        "energy": float(energy_distance(between, rmsd_matrix(x, x)[0], within)),
        "rmsd": float(nearest.mean()),
        "coverage": float(between.min(0).values.mean()),
        "tm_score": float(tm_score(x, real[which]).mean()),
        "bonds": float(valid_bonds(x, bonds, lengths).mean()),
        "mirror": float((mirrored.min(1).values < nearest).double().mean()),
        "gyration": transport(gyration(x), gyration(real)),
    }
