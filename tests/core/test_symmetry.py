"""Rigid motion: Kabsch against scipy, never a mirror image, padding."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.paths.symmetry import NoSymmetry, RigidMotion
from omnidistill.posteriors import PointPosterior

F64 = torch.float64
RIGID = RigidMotion()


def cloud(g, count=4, points=9):
    return torch.randn(count, points, 3, dtype=F64, generator=g)


def test_align_equals_scipy(g):
    """The best proper rotation of noisy, moved and even mirrored clouds."""
    target = cloud(g)
    to = 0.7 * target + cloud(g) + 3.0
    to[2:] = to[2:] * torch.tensor([1.0, 1.0, -1.0], dtype=F64)
    aligned = RIGID.align(target, to)
    for one, other, found in zip(target, to, aligned, strict=True):
        a, b = one - one.mean(0), other - other.mean(0)
        rotation, _ = Rotation.align_vectors(b.numpy(), a.numpy())
        expected = torch.from_numpy(rotation.apply(a.numpy())) + other.mean(0)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_a_moved_cloud_is_brought_back(g):
    target = cloud(g)
    turn = torch.from_numpy(Rotation.random(4, rng=0).as_matrix())
    moved = target @ turn.mT + torch.randn(4, 1, 3, dtype=F64, generator=g)
    torch.testing.assert_close(RIGID.align(moved, target), target, rtol=1e-10, atol=1e-10)


def test_a_mirror_image_stays_a_mirror_image(g):
    target = cloud(g)
    mirrored = target * torch.tensor([-1.0, 1.0, 1.0], dtype=F64)
    aligned = RIGID.align(mirrored, target)
    assert float((aligned - target).norm(dim=-1).mean()) > 0.3

    def volume(x):
        return torch.linalg.det(x[:, 1:4] - x[:, :1])

    torch.testing.assert_close(volume(aligned), volume(mirrored), rtol=1e-9, atol=1e-9)


def test_flat_clouds_are_rotated_not_mirrored(g):
    """All points in a plane: the sign of the third axis is free, the map must still be a rotation."""
    target, to = cloud(g), cloud(g)
    target[..., 2] = 0.0
    aligned = RIGID.align(target, to)
    assert bool(torch.isfinite(aligned).all())
    torch.testing.assert_close(
        torch.cdist(aligned, aligned), torch.cdist(target, target), rtol=1e-9, atol=1e-9
    )


def test_padding_changes_nothing(g):
    target, to = cloud(g, points=5), cloud(g, points=5)
    pad = torch.full((4, 3, 3), 7.0, dtype=F64)
    mask = torch.tensor([True] * 5 + [False] * 3).reshape(1, 8, 1).expand(4, 8, 1)
    padded = RIGID.align(torch.cat((target, pad), 1), torch.cat((to, -pad), 1), mask)
    torch.testing.assert_close(padded[:, :5], RIGID.align(target, to), rtol=1e-10, atol=1e-10)
    assert float(padded[:, 5:].abs().max()) == 0.0
    centred = RIGID.project(torch.cat((target, pad), 1), mask)
    torch.testing.assert_close(centred[:, :5], RIGID.project(target), rtol=1e-12, atol=1e-12)
    assert float(centred[:, 5:].abs().max()) == 0.0


def test_the_motion_is_a_constant_to_the_gradient(g):
    """A target does not follow the belief it is aligned to; what flows back to the target is only turned."""
    target, to = cloud(g).requires_grad_(), cloud(g).requires_grad_()
    aligned = RIGID.align(target, to)
    direction = cloud(g)
    into_target, into_to = torch.autograd.grad((aligned * direction).sum(), (target, to), allow_unused=True)
    assert into_to is None
    torch.testing.assert_close(into_target.norm(dim=-1), direction.norm(dim=-1))


def test_project_removes_the_centre(g):
    torch.testing.assert_close(
        RIGID.project(cloud(g) + 5.0).mean(1), torch.zeros(4, 3, dtype=F64), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("make", [paths.rectified_flow, paths.edm])
def test_a_path_modulo_rigid_motion_keeps_clouds_centred(make, g):
    path, x0 = make(symmetry=RigidMotion()), RIGID.project(cloud(g))
    mask = torch.ones(4, 9, 1, dtype=torch.bool)
    mask[:, 6:] = False
    for context in (Context(), Context(mask=mask)):
        data = RIGID.project(x0, context.mask)
        x_t = path.corrupt(data, 0.7, context, g=g)
        x_s = path.bridge(x_t, data, 0.7, 0.3, context, churn=1.0, g=g)
        for x in (x_t, x_s, path.prior(data, context, g=g)):
            torch.testing.assert_close(x.sum(1), torch.zeros(4, 3, dtype=F64), rtol=0, atol=1e-11)
    aligned = path.align(PointPosterior(x0 + 2.0), PointPosterior(x0))
    torch.testing.assert_close(aligned.mean, x0, rtol=1e-9, atol=1e-9)


def test_without_symmetry_nothing_moves(g):
    x, y = cloud(g), cloud(g)
    assert NoSymmetry().project(x) is x and NoSymmetry().align(x, y) is x
