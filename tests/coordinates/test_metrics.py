"""Aligned distances, energy distance, TM-score and bonds against other libraries and known answers."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from omnidistill.errors import UserError
from omnidistill.modalities.coordinates import metrics
from tests.coordinates.conftest import hinge

NO_BONDS = (torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=torch.float64))
CHAIN = (torch.stack((torch.arange(23), torch.arange(1, 24)), 1), torch.full((23,), 3.8).double())


def moved(x: torch.Tensor, seed: int) -> torch.Tensor:
    """Each structure turned and shifted its own way."""
    turns = torch.from_numpy(Rotation.random(len(x), random_state=seed).as_matrix())
    g = torch.Generator().manual_seed(seed)
    return x.double() @ turns.mT + 5.0 * torch.randn(len(x), 1, 3, generator=g, dtype=torch.float64)


def centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(0)


def test_rmsd_is_scipys_of_the_structure_and_of_its_mirror_image():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(k, 7, 3, generator=g, dtype=torch.float64) for k in (4, 5))
    proper, mirrored = metrics.rmsd_matrix(a, b)
    for i in range(4):
        for j in range(5):
            x, y = centred(a[i].numpy()), centred(b[j].numpy())
            for found, image in ((proper, y), (mirrored, -y)):
                _, distance = Rotation.align_vectors(x, image)
                assert float(found[i, j]) == pytest.approx(distance / 7**0.5, abs=1e-9)


def test_rmsd_ignores_pose_and_sees_handedness():
    x = hinge(6, 24, 0)
    proper, mirrored = metrics.rmsd_matrix(moved(x, 0), moved(x, 1))
    assert float(proper.diagonal().max()) < 1e-5 and float(mirrored.diagonal().min()) > 1.0
    reflected = moved(x, 2) * torch.tensor([1.0, 1.0, -1.0])
    proper, mirrored = metrics.rmsd_matrix(reflected, x)
    assert float(mirrored.diagonal().max()) < 1e-5 and float(proper.diagonal().min()) > 1.0


def test_energy_distance_of_points_on_a_line():
    a, b = torch.tensor([0.0, 2.0]), torch.tensor([1.0])
    between, within = (torch.cdist(p[:, None], q[:, None]).double() for p, q in ((a, b), (a, a)))
    # 2 * 1 - (2 + 2) / 2 - 0: two points on both sides of one, of which nothing says that they are another law
    none = torch.zeros(1, 1, dtype=torch.float64)
    assert metrics.energy_distance(between, within, none).tolist() == pytest.approx([0.0])
    counts = torch.tensor([[1, 1], [2, 0]])
    found = metrics.energy_distance(between, within, none, counts)
    assert found[0] == 0.0 and found[1].isnan(), "one structure twice is no pair"


def test_resamples_are_ensembles_of_the_drawn_structures():
    real, x = hinge(20, 24, 0), hinge(6, 24, 1)
    within = metrics.rmsd_matrix(real, real)[0]
    counts = torch.tensor([[1, 1, 1, 1, 1, 1], [3, 0, 1, 2, 0, 0]])
    found = metrics.bootstrap(x, real, within, counts)
    assert float(found[0]) == pytest.approx(metrics.evaluate(x, real, *CHAIN)["energy"], abs=1e-9)
    rows = torch.repeat_interleave(torch.arange(6), counts[1])
    between, own = (metrics.rmsd_matrix(x[rows], y)[0] for y in (real, x[rows]))
    different = rows.unsqueeze(1) != rows
    expected = 2 * between.mean() - own[different].mean() - within.sum() / (20 * 19)
    assert float(found[1]) == pytest.approx(float(expected), abs=1e-6)


def test_a_good_ensemble_scores_better_than_its_mean_and_than_half_of_it():
    real = hinge(60, 24, 0)
    good, mean = moved(hinge(60, 24, 1), 3), hinge(60, 24, 1).mean(0).expand(60, 24, 3)
    bend = (real[:, -1] - real[:, 0]).norm(dim=-1)
    half = real[bend > bend.median()]
    scores = {
        name: metrics.evaluate(x, real, *CHAIN)
        for name, x in (("good", good), ("mean", mean), ("half", half))
    }
    # The mean structure is near to all of them, but it is one structure.
    assert abs(scores["good"]["energy"]) < 0.2 * scores["half"]["energy"] < scores["mean"]["energy"]
    assert scores["good"]["coverage"] < 0.5 * scores["mean"]["coverage"]
    assert scores["good"]["gyration"] < 0.5 * scores["half"]["gyration"]


def test_mirror_images_are_counted_and_cost_energy():
    real = hinge(40, 24, 0)
    x = hinge(40, 24, 1)
    x[:10] = -x[:10]
    found, clean = metrics.evaluate(x, real, *CHAIN), metrics.evaluate(hinge(40, 24, 1), real, *CHAIN)
    assert found["mirror"] == 0.25 and clean["mirror"] == 0.0
    assert found["energy"] > 10 * abs(clean["energy"])


def test_bonds_outside_the_tolerance_are_not_valid():
    x = torch.tensor([[[0.0, 0, 0], [3.8, 0, 0], [3.8, 3.65, 0], [3.8, 3.65, 4.05]]])
    bonds = torch.tensor([[0, 1], [1, 2], [2, 3]])
    valid = metrics.valid_bonds(x, bonds, torch.full((3,), 3.8).double())
    assert valid.tolist() == pytest.approx([2 / 3])
    assert metrics.valid_bonds(x, *NO_BONDS).tolist() == [1.0]


def test_gyration_is_the_root_mean_square_distance_from_the_centre():
    x = hinge(3, 24, 0).double()
    expected = [float(np.sqrt((centred(s.numpy()) ** 2).sum(-1).mean())) for s in x]
    assert metrics.gyration(x).tolist() == pytest.approx(expected)


def test_tm_score_is_a_close_lower_bound_of_tm_aligns():
    tmtools = pytest.importorskip("tmtools")
    a = hinge(4, 60, 0).double()
    b = a + 0.7 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = metrics.tm_score(moved(a, 0), b)
    assert metrics.tm_score(a, moved(a, 1)).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    for i in range(4):
        best = tmtools.tm_align(a[i].numpy(), b[i].numpy(), "A" * 60, "A" * 60).tm_norm_chain1
        assert best - 0.03 < float(found[i]) <= best + 1e-3 < 0.9


def test_samples_that_are_not_finite_are_refused():
    x = hinge(3, 24, 0)
    x[1, 2] = torch.nan
    with pytest.raises(UserError, match="1 of 3 samples"):
        metrics.evaluate(x, hinge(3, 24, 1), *CHAIN)
