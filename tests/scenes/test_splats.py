"""The renderer against what a camera must see."""

import math

import pytest
import torch

from omnidistill.modalities.scenes.splats import BLUR, DISTANCE, FOCAL, Splats, axes, rotations, view
from omnidistill.random import generator

BLACK = torch.zeros(3, dtype=torch.float64)


def splats(mean, scale=0.1, opacity=0.9, colour=(1.0, 0.0, -1.0), turn=(1.0, 0.0, 0.0, 0.0)) -> Splats:
    mean = torch.tensor(mean, dtype=torch.float64).reshape(1, -1, 3)
    n = mean.shape[1]

    def each(value, width):
        value = torch.as_tensor(value, dtype=torch.float64)
        return value.expand(n, width)[None] if value.ndim < 2 else value[None]

    levels = torch.as_tensor(opacity, dtype=torch.float64).expand(n)[None]
    return Splats(mean, each(scale, 3), each(turn, 4), levels, each(colour, 3))


def camera(azimuth=0.0, elevation=0.0):
    return torch.tensor([[azimuth, elevation]], dtype=torch.float64)


def centre(picture):
    """Where the first channel lies, (u, v) in [-1, 1], v upwards."""
    weight = picture[0, 0] / picture[0, 0].sum()
    size = picture.shape[-1]
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    return float((weight.sum(0) * line).sum()), float((weight.sum(1) * -line).sum())


def test_a_camera_has_a_right_handed_basis_that_looks_at_the_origin():
    given = torch.randn(20, 2, generator=generator("cameras"), dtype=torch.float64)
    basis = axes(given)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(basis), torch.ones(20, dtype=torch.float64))
    assert float(axes(camera(0.3, 0.5))[0, 1, 2]) > 0  # up is up


@pytest.mark.parametrize("azimuth", [0.0, 1.0, 4.0])
def test_a_point_is_where_the_pinhole_puts_it(azimuth):
    place = (0.2, -0.3, 0.25)
    seen = view(splats(place, 0.02), camera(azimuth, 0.4), 64, BLACK)
    right, up, back = axes(camera(azimuth, 0.4))[0] @ torch.tensor(place, dtype=torch.float64)
    u, v = centre(seen)
    assert u == pytest.approx(float(FOCAL * right / (DISTANCE - back)), abs=5e-3)
    assert v == pytest.approx(float(FOCAL * up / (DISTANCE - back)), abs=5e-3)


def test_one_gaussian_is_its_flattened_density():
    """On the axis: opacity exp(-r^2 / 2 s^2), s = FOCAL scale / DISTANCE and the pixel's own blur, times its colour,
    over the background."""
    size, scale = 32, 0.12
    back = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    seen = view(splats((0.0, 0.0, 0.0), scale, 0.7), camera(), size, back)[0]
    line = (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1
    radius = line[:, None] ** 2 + line**2
    s2 = (FOCAL * scale / DISTANCE) ** 2 + (2 * BLUR / size) ** 2
    alpha = 0.7 * torch.exp(-0.5 * radius / s2)
    colour = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    expected = alpha * colour[:, None, None] + (1 - alpha) * back[:, None, None]
    torch.testing.assert_close(seen, expected)


def test_what_is_nearer_hides_what_is_behind_it():
    pair = splats([(0.5, 0, 0), (-0.5, 0, 0)], 0.2, 0.95, torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    front = view(pair, camera(0.0), 33, BLACK)[0, :, 16, 16]
    behind = view(pair, camera(math.pi), 33, BLACK)[0, :, 16, 16]
    torch.testing.assert_close(
        front, torch.tensor([0.95, 0, 0.05 * 0.95], dtype=torch.float64), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(behind, front.flip(0))


def test_turning_the_scene_is_turning_the_camera_back():
    g = generator("scene")
    n, angle = 12, 0.7
    mean = 0.4 * torch.randn(n, 3, generator=g, dtype=torch.float64)
    turn = torch.nn.functional.normalize(torch.randn(n, 4, generator=g, dtype=torch.float64), dim=1)
    scale = 0.05 + 0.1 * torch.rand(n, 3, generator=g, dtype=torch.float64)
    colour = torch.rand(n, 3, generator=g, dtype=torch.float64)
    there = splats(mean.tolist(), scale, 0.8, colour, turn)
    half = torch.tensor([math.cos(angle / 2), 0, 0, math.sin(angle / 2)], dtype=torch.float64)
    spin = rotations(half)
    w, x, y, z = turn.unbind(1)
    c, s = half[0], half[3]  # the product of the quaternions half and turn
    turned = torch.stack((c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w), 1)
    moved = splats((mean @ spin.T).tolist(), scale, 0.8, colour, turned)
    torch.testing.assert_close(rotations(turned), spin @ rotations(turn))
    torch.testing.assert_close(
        view(moved, camera(0.2 + angle, 0.3), 24, BLACK), view(there, camera(0.2, 0.3), 24, BLACK)
    )


def test_a_flat_gaussian_is_seen_as_long_as_it_lies():
    """Long along y: broad from the front, narrow from the side; turned upright by its quaternion: tall."""

    def spread(given, azimuth):
        picture = view(given, camera(azimuth), 64, BLACK)[0, 0]
        line = (torch.arange(64) + 0.5) / 32 - 1
        shares = (picture.sum(0) / picture.sum(), picture.sum(1) / picture.sum())
        return [float((share * line.square()).sum().sqrt()) for share in shares]

    scale = (0.03, 0.2, 0.03)
    broad, narrow = spread(splats((0.0, 0, 0), scale), 0.0), spread(splats((0.0, 0, 0), scale), math.pi / 2)
    assert broad[0] > 4 * broad[1] and narrow[0] == pytest.approx(narrow[1], rel=0.05)
    root = math.sqrt(0.5)
    tall = spread(splats((0.0, 0, 0), scale, turn=(root, root, 0.0, 0.0)), 0.0)
    assert tall == pytest.approx(broad[::-1], rel=0.05)


def test_derivatives_are_those_of_differences():
    g = generator("derivative")
    n = 5
    parts = [
        0.3 * torch.randn(1, n, 3, generator=g, dtype=torch.float64),
        0.1 + 0.1 * torch.rand(1, n, 3, generator=g, dtype=torch.float64),
        torch.nn.functional.normalize(torch.randn(1, n, 4, generator=g, dtype=torch.float64), dim=2),
        0.2 + 0.6 * torch.rand(1, n, generator=g, dtype=torch.float64),
        torch.randn(1, n, 3, generator=g, dtype=torch.float64),
    ]
    for part in parts:
        part.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda *given: view(Splats(*given), camera(0.4, 0.3), 6, BLACK), parts)


def test_chunks_are_the_whole(monkeypatch):
    many = splats([(0.1, 0.2, 0.0), (0.0, -0.2, 0.3)])
    many = Splats(*(part.expand(7, *part.shape[1:]) for part in vars(many).values()))
    cameras = torch.rand(7, 2, generator=generator("chunks"), dtype=torch.float64)
    with torch.no_grad():
        whole = view(many, cameras, 16, BLACK)
        monkeypatch.setattr("omnidistill.modalities.scenes.splats.CHUNK", 2 * 16 * 16 * 4 * 2)
        torch.testing.assert_close(view(many, cameras, 16, BLACK), whole)
