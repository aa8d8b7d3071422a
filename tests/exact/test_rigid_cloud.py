"""The matrix Fisher distribution and the rigid clouds' posterior against quadrature over SO(3), and their task."""

import math

import numpy as np
import pytest
import torch

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact.rigid_cloud import APART, REACH, CloudDenoiser, RigidCloudTask, aligned_rmsd
from omnidistill.exact.rotations import CONTOUR, matrix_fisher, proper_svd, random_rotations, rotation_of
from omnidistill.networks.point_transformer import PointTransformer
from omnidistill.networks.posed_memory import PosedMemory, quadratic
from omnidistill.paths import RigidMotion, rectified_flow
from omnidistill.random import generator, normal
from omnidistill.samplers import Euler

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


def euler_grid(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations Float64[n^3 3 3] and Haar weights: R = Rz(a) Ry(b) Rz(c), a and c uniform, Gauss-Legendre in cos b."""
    angle = np.arange(n) * 2 * np.pi / n
    cosines, weights = np.polynomial.legendre.leggauss(n)

    def about(axis, t):
        c, s, o, z = np.cos(t), np.sin(t), np.ones_like(t), np.zeros_like(t)
        rows = ((c, -s, z), (s, c, z), (z, z, o)) if axis == "z" else ((c, z, s), (z, o, z), (-s, z, c))
        return np.stack([np.stack(row, -1) for row in rows], -2)

    z, y = about("z", angle), about("y", np.arccos(cosines))
    grid = np.einsum("aij,bjk,ckl->abcil", z, y, z).reshape(-1, 3, 3)
    haar = np.broadcast_to((weights / 2)[None, :, None] / n**2, (n, n, n)).reshape(-1)
    return torch.from_numpy(grid), torch.from_numpy(haar.copy())


GRID, HAAR = euler_grid()


def matrices() -> torch.Tensor:
    g = generator("matrices")
    f = 2.0 * torch.randn(12, 3, 3, generator=g, dtype=torch.float64)
    rank_one = 5.0 * torch.outer(f[0, 0], f[1, 0]) / f[0, 0].norm() / f[1, 0].norm()
    special = torch.stack(
        (
            0 * f[0],
            1e-6 * f[0],
            rank_one,
            3.0 * torch.eye(3, dtype=torch.float64),
            -3.0 * f[2] / f[2].norm(),
            2.0 * MIRROR,
        )
    )
    return torch.cat((f, special))


def test_the_grid_integrates_over_rotations():
    assert float(HAAR.sum()) == pytest.approx(1.0, abs=1e-13)
    assert torch.allclose(torch.linalg.det(GRID), torch.ones_like(HAAR), atol=1e-12)
    # Schur: the mean of R_ij R_kl is [i=k][j=l] / 3.
    second = torch.einsum("r,rij,rkl->ijkl", HAAR, GRID, GRID)
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(second, torch.einsum("ik,jl->ijkl", eye, eye) / 3, atol=1e-12)


def test_normaliser_and_mean_are_those_of_quadrature():
    for f in matrices():
        density = HAAR * torch.einsum("ij,rij->r", f, GRID).exp()
        log_c, mean = matrix_fisher(f)
        assert float(log_c) == pytest.approx(float(density.sum().log()), abs=1e-9)
        assert torch.allclose(mean, torch.einsum("r,rij->ij", density, GRID) / density.sum(), atol=1e-9)


def test_mean_is_the_gradient_of_the_log_normaliser():
    f, h = matrices()[:6], 1e-5
    mean = matrix_fisher(f).mean
    for i in range(3):
        for j in range(3):
            step = torch.zeros(3, 3, dtype=torch.float64)
            step[i, j] = h
            slope = (matrix_fisher(f + step).log_normaliser - matrix_fisher(f - step).log_normaliser) / (
                2 * h
            )
            assert torch.allclose(mean[:, i, j], slope, atol=1e-8)


@pytest.mark.parametrize("size", [0.0, 1e-4, 0.3, 2.0, 20.0, 400.0, 1e5, 1e9])
def test_contour_has_what_is_known_of_rank_one_and_of_multiples_of_one(size):
    g, s = generator("rank one"), torch.tensor(size, dtype=torch.float64)
    u, v = random_rotations(2, g)
    # One direction: R_33 has the law of a coordinate on the sphere under e^(s u): c = sinh(s) / s, mean coth(s) - 1/s.
    log_c, mean = matrix_fisher(size * torch.outer(u[2], v[2]))
    fall = -torch.expm1(-2.0 * s)
    assert torch.allclose(log_c, s + torch.log(fall / (2.0 * s)) if size else s, rtol=1e-15, atol=1e-9)
    langevin = 1.0 / torch.tanh(s) - 1.0 / s if size > 0.1 else s / 3.0
    assert torch.allclose(mean, langevin * torch.outer(u[2], v[2]), atol=1e-9)
    # s times a rotation, and s times a reflection, where four shells of quaternions are equally good.
    i0, i1 = torch.special.i0e(2.0 * s), torch.special.i1e(2.0 * s)
    log_c, mean = matrix_fisher(size * u)
    assert torch.allclose(log_c, 3.0 * s + torch.log(i0 - i1), rtol=1e-15, atol=1e-6 if size > 1e4 else 1e-9)
    assert torch.allclose(mean @ u.mT, mean[0] @ u[0] * torch.eye(3, dtype=torch.float64), atol=1e-9)
    log_c, mean = matrix_fisher(-size * u)
    assert torch.allclose(log_c, s + torch.log(i0 + i1), rtol=1e-15, atol=1e-9)


def test_contour_inverts_laplace_transforms_of_powers():
    # At r = 1: 1 / z^2 is of r, z^(-1/2) of 1 / sqrt(pi r), [z (z + g)]^(-1/2) of exp(-g r / 2) I0(g r / 2).
    z, weight = CONTOUR
    assert float((weight / z**2).real.sum()) == pytest.approx(1.0, abs=1e-10)
    assert float((weight / z.sqrt()).real.sum()) == pytest.approx(math.pi**-0.5, abs=1e-10)
    for g in (1e-3, 1.0, 30.0, 1e6):
        found = float((weight / (z.sqrt() * (z + g).sqrt())).real.sum())
        exact = float(torch.special.i0e(torch.tensor(g / 2, dtype=torch.float64)))
        assert found == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e7])
def test_at_high_concentration_it_is_kabsch_and_laplace(size):
    g = generator("concentrated")
    u, v = random_rotations(20, g), random_rotations(20, g)
    s = torch.rand(20, 3, generator=g, dtype=torch.float64).add(0.5).sort(-1, descending=True).values
    s[::2, 2] *= -0.5  # a negative determinant: the best match is not the nearest orthogonal matrix
    log_c, mean = matrix_fisher(size * (u * s.unsqueeze(-2)) @ v.mT)
    assert torch.allclose(mean, u @ v.mT, rtol=0.0, atol=20.0 / size)
    assert not torch.allclose(
        mean, u @ v.mT, rtol=0.0, atol=0.05 / size
    )  # there is a spread, of order 1 / size
    pairs = (s[:, 0] + s[:, 1]) * (s[:, 1] + s[:, 2]) * (s[:, 2] + s[:, 0])
    laplace = size * s.sum(1) - 0.5 * torch.log(8 * math.pi * size**3 * pairs)
    assert torch.allclose(log_c, laplace, rtol=1e-14, atol=10.0 / size)


def test_proper_singular_values_carry_the_sign():
    f = torch.cat((matrices(), matrices() @ MIRROR))
    u, s, vh = proper_svd(f)
    assert torch.allclose((u * s.unsqueeze(-2)) @ vh, f, atol=1e-12)
    for turn in (u, vh):
        assert torch.allclose(torch.linalg.det(turn), torch.ones(len(f), dtype=torch.float64), atol=1e-12)
    assert bool((s[:, 1] + 1e-12 >= s[:, 2].abs()).all())


# --- the denoiser ------------------------------------------------------------------------------------------------


@pytest.fixture
def task() -> RigidCloudTask:
    return RigidCloudTask(points=6, shapes=3, seed=1)


def noisy(task: RigidCloudTask, t: float, count: int = 16) -> torch.Tensor:
    x0 = task.batch(count, generator("clean")).x0.double()
    return task.path.corrupt(x0, t, g=generator("noise", str(t)))


@pytest.mark.parametrize("sigma", [0.4, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["edm", "rectified_flow"])
def test_denoiser_is_bayes_by_quadrature(task, sigma, kind):
    path = task.path if kind == "edm" else rectified_flow(symmetry=RigidMotion())
    t = float(path.time_from_noise_level(sigma))
    alpha, _, noise = (float(c) for c in path.coefficients(t))
    x_t = path.corrupt(task.batch(8, generator(0)).x0.double(), t, g=generator(1))
    members = torch.einsum("rij,knj->krni", GRID, task.shapes)
    variance = noise**2 + (alpha * task.std) ** 2
    square = (x_t[:, None, None] - alpha * members).square().sum((-2, -1))
    weight = (torch.log(HAAR) - 0.5 * square / variance).flatten(1).softmax(1).reshape(8, 3, -1)
    rigid = torch.einsum("bkr,krni->bni", weight, members)
    exact = rigid + alpha * task.std**2 / variance * (x_t - alpha * rigid)
    mean = CloudDenoiser(path, task.shapes, task.std)(x_t, t).mean
    assert torch.allclose(mean, exact, atol=1e-8)


@pytest.mark.parametrize("std", [0.0, 0.08])
def test_error_of_the_denoiser_is_orthogonal_to_what_it_sees(std):
    task = RigidCloudTask(points=5, shapes=2, seed=0, std=std)
    x0 = task.batch(8_000, generator(0)).x0.double()
    t = float(task.path.time_from_noise_level(0.15))
    x_t = task.path.corrupt(x0, t, g=generator(1))
    mean = task.exact_teacher()(x_t, t).mean

    def z_score(answer, seen):
        product = ((x0 - answer) * seen).sum((1, 2))
        return float(product.mean().abs() / (product.std() / len(product) ** 0.5))

    for seen in (mean, x_t, x_t - mean):
        assert z_score(mean, seen) < 4.0
    wrong = x_t if std else 0.99 * mean  # what no-one may answer fails the same test
    assert z_score(wrong, x_t - mean if std else mean) > 6.0


@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_gradients_through_the_denoiser_are_right(task, sigma):
    # Its Jacobian is the posterior covariance times alpha / sigma^2: symmetric, and that of finite differences.
    teacher, t = task.exact_teacher(), float(task.path.time_from_noise_level(sigma))
    x_t = noisy(task, t, 1)
    jacobian = torch.func.jacrev(lambda x: teacher(x, t).mean)(x_t).reshape(18, 18)
    assert torch.allclose(jacobian, jacobian.T, atol=1e-6 / sigma**2)
    step = 1e-5 * sigma * normal(x_t, generator(3))
    moved = (teacher(x_t + step, t).mean - teacher(x_t - step, t).mean).flatten()
    assert torch.allclose(
        jacobian @ (2 * step).flatten(), moved, rtol=1e-4, atol=1e-4 * float(moved.abs().max())
    )


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_denoiser_turns_with_its_input_and_ignores_where_it_is(task, sigma):
    teacher, t = task.exact_teacher(), float(task.path.time_from_noise_level(sigma))
    x_t = noisy(task, t)
    turn = random_rotations(1, generator(5))[0]
    mean = teacher(x_t, t).mean
    assert torch.allclose(teacher(x_t @ turn.T, t).mean, mean @ turn.T, atol=1e-9)
    assert torch.allclose(teacher(x_t + torch.tensor([3.0, -1.0, 2.0]), t).mean, mean, atol=1e-9)
    assert torch.allclose(mean.mean(1), torch.zeros(16, 3, dtype=torch.float64), atol=1e-12)


def test_mirror_images_are_never_matches(task):
    # Exactly rigid shapes: with std > 0 part of the mismatch would rightly be read as noise of the data.
    teacher, t = CloudDenoiser(task.path, task.shapes, 0.0), float(task.path.time_from_noise_level(0.02))
    members = task.shapes @ random_rotations(3, generator(2)).mT
    assert float(aligned_rmsd(teacher(members, t).mean, members).max()) < 1e-3
    answers = teacher(members @ MIRROR, t).mean
    assert float(aligned_rmsd(answers, members @ MIRROR).min()) > 0.9 * APART
    best = (
        torch.stack([aligned_rmsd(answers, shape.expand_as(answers)) for shape in task.shapes], 1)
        .min(1)
        .values
    )
    assert float(best.max()) < 0.05  # the answer is some proper shape
    assert not torch.allclose(answers, teacher(members, t).mean @ MIRROR, atol=0.1)
    # The reflection's posterior is the reflected one only for the reflected shapes.
    reflected = CloudDenoiser(task.path, task.shapes @ MIRROR, 0.0)
    assert torch.allclose(reflected(members @ MIRROR, t).mean, teacher(members, t).mean @ MIRROR, atol=1e-9)


def test_at_the_prior_nothing_is_known_and_at_the_data_all(task):
    teacher = task.exact_teacher()
    x_1 = task.path.prior(task.like(64), g=generator(0))
    assert float(teacher(x_1, 1.0).mean.square().sum(-1).mean().sqrt()) < 0.2
    rigid = CloudDenoiser(task.path, task.shapes, 0.0)
    members = task.shapes @ random_rotations(3, generator(2)).mT
    assert torch.allclose(rigid(members, 0.0).mean, members, atol=1e-9)


def test_one_call_may_mix_times_and_keeps_the_dtype(task):
    teacher = task.exact_teacher()
    x_t = noisy(task, 0.5, 4).float()
    t = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    both = teacher(x_t, t).mean
    assert both.dtype == torch.float32
    for i in range(4):
        assert torch.allclose(both[i], teacher(x_t[i : i + 1], float(t[i])).mean[0], atol=1e-6)


def test_padding_never_changes_the_answer_or_a_metric(task):
    x_t = noisy(task, 0.6)
    padded = torch.cat((x_t[:, :2], torch.zeros(16, 3, 3, dtype=torch.float64), x_t[:, 2:]), 1)
    mask = torch.tensor([1, 1, 0, 0, 0, 1, 1, 1, 1], dtype=torch.bool)[None, :, None].expand(16, -1, 1)
    answer = task.exact_teacher()(padded, 0.6, Context(mask=mask)).mean
    assert torch.allclose(
        answer[mask[0, :, 0].expand(16, -1)].reshape(16, 6, 3), task.exact_teacher()(x_t, 0.6).mean
    )
    assert not answer[:, 2:5].any()
    with_padding = task.measure(padded, Context(mask=mask), generator(0))
    assert with_padding == pytest.approx(task.measure(x_t, Context(), generator(0)))
    with pytest.raises(UserError, match="6 points"):
        task.exact_teacher()(padded, 0.6, Context(mask=torch.ones_like(mask)))


# --- the task ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [4, 8, 16, 40])
def test_shapes_are_centred_of_unit_size_distinct_and_chiral(points):
    shapes = RigidCloudTask(points=points, shapes=3).shapes
    assert torch.allclose(shapes.mean(1), torch.zeros(3, 3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(shapes.square().sum(-1).mean(1), torch.ones(3, dtype=torch.float64))
    for i in range(3):
        for j in range(3):
            pair = shapes[i : i + 1], shapes[j : j + 1]
            assert i == j or float(aligned_rmsd(*pair)) > APART
            assert float(aligned_rmsd(pair[0], pair[1] @ MIRROR)) > APART
    assert 2 * REACH <= APART


def test_data_are_the_shapes_in_every_orientation():
    task = RigidCloudTask()
    floor = task.floor(3000, generator(0))
    freedom = 3 * 16 - 6  # six of the 48 directions are rigid motions, which the alignment takes out
    assert floor["aligned_rmsd"] == pytest.approx(task.std * math.sqrt(freedom / 16), rel=0.03)
    assert (floor["shape_recall"], floor["mirror"]) == (1.0, 0.0)
    assert floor["orientation"] < 0.1


def test_metrics_see_what_they_are_for():
    task = RigidCloudTask()
    x0 = task.batch(600, generator(0)).x0
    mirrored = task.measure(-x0, Context(), generator(0))
    assert mirrored["mirror"] == 1.0 and mirrored["aligned_rmsd"] > APART and mirrored["shape_recall"] == 0.0
    one_way = task.shapes.repeat(20, 1, 1)
    assert task.measure(one_way, Context(), generator(0))["orientation"] == pytest.approx(1.0, abs=1e-9)
    # The primary one: near 0 for data, and far from it for another handedness, a lacking shape, blur, too sharp shapes.
    data = task.batch(3000, generator(1)).x0
    nearest = torch.stack(
        [aligned_rmsd(shape.expand(3000, 16, 3).float(), data) for shape in task.shapes]
    ).argmin(0)
    made = {
        "data": data,
        "mirrored": -data,
        "lacking": data[nearest < 2],
        "sharp": task.shapes[nearest].float(),
        "blurred": data + 0.05 * torch.randn(data.shape, generator=generator("blur")),
    }
    found = {name: task.measure(x, Context(), generator(0))["energy"] for name, x in made.items()}
    assert abs(found.pop("data")) < 0.07 and min(found.values()) > 0.12, found
    two_of_three = task.shapes[:2].repeat(20, 1, 1)
    assert task.measure(two_of_three, Context(), generator(0))["shape_recall"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_many_steps_make_shapes_and_one_step_cannot(seed):
    task = RigidCloudTask(seed=seed)
    figures = {}
    for steps in (1, 2, 64):
        sample = Euler().sample(task.exact_teacher(), task.like(96), steps, g=generator(seed, steps))
        assert sample.nfe == steps
        figures[steps] = task.measure(sample.x0, Context(), generator(0))
    print(seed, figures)
    assert figures[1]["aligned_rmsd"] > 0.8 and figures[1]["shape_recall"] == 0.0
    assert figures[64]["aligned_rmsd"] < 0.2 * figures[2]["aligned_rmsd"] < 0.14 * figures[1]["aligned_rmsd"]
    # Nor are they sharper than the data, as those of too few steps are: the width of a shape, test above.
    assert figures[64]["aligned_rmsd"] == pytest.approx(task.std * math.sqrt(42 / 16), rel=0.15)
    assert (figures[64]["shape_recall"], figures[64]["mirror"]) == (1.0, 0.0)
    assert figures[64]["orientation"] < 0.4


def test_untrained_student_makes_no_shapes():
    task = RigidCloudTask()
    student = NetworkDenoiser(task.network(), task.path, **task.reading())
    for steps in (1, 8):
        x0 = Euler().sample(student, task.like(64), steps, g=generator(0)).x0
        figures = task.measure(x0, Context(), generator(0))
        assert figures["aligned_rmsd"] > 0.5 and figures["shape_recall"] == 0.0


def test_rendered_files_hold_the_samples(tmp_path):
    task = RigidCloudTask(points=5)
    x0 = task.batch(14, generator(0)).x0
    picture, text = task.render(x0, Context(), tmp_path / "a.b" / "step.1")
    assert picture.name == "step.1.png" and text.name == "step.1" + task.file_suffix()
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = text.read_text().splitlines()
    assert len(lines) == 14 * (5 + 2) and lines[7] == "5"
    read = [[float(v) for v in line.split()[1:]] for line in lines[9:14]]
    assert torch.allclose(torch.tensor(read), x0[1], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"points": 3}, "points"),
        ({"points": "many"}, "points"),
        ({"shapes": 0}, "shapes"),
        ({"points": 4, "shapes": 400}, "fewer shapes"),
        ({"seed": -1}, "seed"),
        ({"std": -0.1}, "std"),
        ({"std": 0.5}, "std"),
        ({"std": float("nan")}, "std"),
        ({"sigma_min": 0.0}, "sigma_min"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_max"),
        ({"teacher_steps": 0}, "teacher_steps"),
        ({"network": {"depht": 2}}, "depth"),
        ({"network": {"heads": 4}}, "heads"),
    ],
)
def test_bad_options_are_one_line_that_names_them(options, word):
    with pytest.raises(UserError) as error:
        RigidCloudTask(**options).network()
    assert word in str(error.value) and "\n" not in str(error.value)


def test_samples_that_are_no_clouds_are_refused():
    task = RigidCloudTask()
    for bad in (
        torch.zeros(2, 15, 3),
        torch.zeros(2, 16),
        torch.zeros(0, 16, 3),
        torch.full((2, 16, 3), float("nan")),
    ):
        with pytest.raises(UserError):
            task.measure(bad, Context(), generator(0))
    with pytest.raises(UserError, match="shapes"):
        task.exact_teacher()(torch.zeros(2, 15, 3), 0.5)


# --- the network -------------------------------------------------------------------------------------------------


def test_point_transformer_ignores_padding_and_tells_points_apart():
    torch.manual_seed(0)
    network, t = PointTransformer(6, width=32, depth=2), torch.tensor([0.3, 0.8])
    for p in network.parameters():  # away from the zeros, so that every part has an effect
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    x = normal(torch.empty(2, 6, 3), generator(0))
    padded = torch.cat((x, torch.ones(2, 3, 3)), 1)
    mask = torch.arange(9)[None, :, None].expand(2, -1, 1) < 6
    assert torch.allclose(network(padded, t, mask=mask)[:, :6], network(x, t), atol=1e-6)
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    assert not torch.allclose(network(x[:, order], t)[:, order], network(x, t), atol=1e-3)
    with pytest.raises(UserError, match="6 points"):
        network(padded, t)


def test_rotations_are_quadratic_in_quaternions_as_the_network_has_them():
    q = torch.randn(20, 4, generator=generator("quaternions"), dtype=torch.float64)
    q = q / q.norm(dim=1, keepdim=True)
    t = quadratic().double().reshape(3, 3, 4, 4)
    assert torch.equal(t, t.mT)
    assert torch.allclose(torch.einsum("ijab,na,nb->nij", t, q, q), rotation_of(q), atol=1e-14)


def test_what_a_network_remembers_it_answers_in_the_pose_that_it_is_shown():
    # With sharp orientations, a decided choice, e^b = 0 and no perceptron: e^a C_m R^T, of the cloud that is shown.
    network = PosedMemory(7, clouds=4).double()
    with torch.no_grad():
        network.gates.bias[:4] = torch.tensor([6.0, 1.0, math.log(3.0), -40.0])
        clouds = network._centred().detach()
        turn = random_rotations(4, generator("shown"))
        shown = clouds @ turn.mT
        noisy = shown + 0.05 * normal(shown, generator("moved"))
        t = torch.full((4,), 0.3, dtype=torch.float64)
        size = shown.square().mean().sqrt()
        assert float((network(shown, t) / 3.0 - shown).abs().max()) < 1e-3 * size
        assert float((network(noisy, t) / 3.0 - shown).square().mean().sqrt()) < 0.03 * size
        # A mirror image is another cloud, and turned it stays that: nothing is matched by a reflection.
        assert float((network(-shown, t) / 3.0 + shown).square().mean().sqrt()) > 0.5 * size


def test_orientation_fades_where_none_is_best():
    # A cloud and a line of points: turning about the line changes nothing, and only the line's own direction is known.
    network = PosedMemory(5, clouds=1).double()
    line = torch.linspace(-1, 1, 5, dtype=torch.float64)[None, :, None] * torch.tensor([0.0, 0.6, 0.8])
    turn, _ = network._matched(line, torch.full((1, 1), 1.0, dtype=torch.float64))
    values = torch.linalg.svdvals(turn[..., 0, 0].detach())
    assert float(values[0]) > 0.6 and float(values[1:].max()) < 1e-9


@pytest.mark.parametrize("more", [0, 3])
def test_a_posed_network_turns_with_its_input_and_not_with_a_mirror(more):
    torch.manual_seed(0)
    network, t = PosedMemory(6, clouds=3, width=32), torch.tensor([0.3, 0.8])
    torch.nn.init.normal_(network.last.weight)
    torch.nn.init.normal_(network.gates.weight)
    cloud = normal(torch.empty(2, 6, 3), generator(0))
    x = torch.cat((cloud, torch.ones(2, more, 3)), 1)
    mask = (torch.arange(6 + more)[None, :, None] < 6).expand(2, -1, 1)
    turn = random_rotations(2, generator(1)).float()
    with torch.no_grad():
        answer, turned, mirrored = (network(y, t, mask=mask) for y in (x, x @ turn, x @ MIRROR.float()))
        assert torch.allclose(turned, answer @ turn, atol=1e-4) and float(answer.abs().mean()) > 0.1
        assert not torch.allclose(mirrored, answer @ MIRROR.float(), atol=1e-1)
        assert torch.equal(network(cloud, t), answer[:, :6]) and not bool(answer[:, 6:].any())
    with pytest.raises(UserError, match="clouds of 6 points, got 5"):
        network(cloud[:, :5], t)
