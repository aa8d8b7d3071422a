"""Files of one chain with other residues resolved: the same residue in the same place, trained on and judged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.coordinates import data, metrics
from omnidistill.modalities.coordinates.layout import Layout
from omnidistill.modalities.coordinates.poses import superposed
from omnidistill.modalities.coordinates.task import Ensemble
from omnidistill.paths import RigidMotion
from omnidistill.random import generator
from omnidistill.testing import check_task
from tests.coordinates.conftest import atoms, hinge

SMALL = {"width": 32, "depth": 1, "heads": 2, "blocks": 1}


def write(path: Path, residues: list[int], seed: int, count: int = 12, name: str = "ALA") -> Path:
    """Models of a chain of 24 of which these residues, from 0, are resolved, in the file's order."""
    from biotite.structure import from_template
    from biotite.structure.io.pdb import PDBFile

    array = atoms(24)
    array.res_name[:] = name
    file = PDBFile()
    file.set_structure(from_template(array[np.array(residues)], hinge(count, 24, seed).numpy()[:, residues]))
    file.write(str(path))
    return path


@pytest.fixture
def gaps(tmp_path: Path) -> Path:
    """Five files, the last held out: whole ones, one without its ends, and two without a loop."""
    everything, loop = list(range(24)), [i for i in range(24) if i not in (9, 10, 11)]
    for number, residues in enumerate((everything, everything[2:-1], everything, loop, loop[1:])):
        write(tmp_path / f"m{number}.pdb", residues, number)
    return tmp_path


def small(folder: Path, **options) -> Ensemble:
    return Ensemble(str(folder), network=SMALL, teacher_steps=4, **options)


def test_the_same_residue_stands_in_the_same_place(gaps: Path):
    task = small(gaps, rotations="none")
    assert task.shape == (24, 3)
    assert [int(mask.sum()) for mask in task._layout.masks] == [24, 21, 24, 21, 20]
    frames, which = task._frames["train"]
    # Though other residues are there, a residue lies where it lies in the others.
    mean = frames[which == 0].mean(0)
    for index in (1, 3):
        here = task._layout.masks[index]
        apart = (frames[which == index].mean(0) - mean)[here]
        assert float((apart - apart.mean(0)).norm(dim=-1).max()) < 0.15  # of 10 Angstrom
        assert not frames[which == index][:, ~here].any()
        assert float(frames[which == index][:, here].mean(1).abs().max()) < 1e-5


def test_the_task_with_gaps_conforms(gaps: Path):
    assert check_task(small(gaps), count=64)


def test_bonds_end_at_the_gap_and_files_read_back(gaps: Path, tmp_path: Path):
    task = small(gaps)
    batch = task.batch(6, generator("gaps"), "held_out")
    assert batch.x0 is not None and batch.context.mask is not None
    assert batch.context.mask[0, :, 0].tolist() == [i not in (0, 9, 10, 11) for i in range(24)]
    real = task.measure(batch.x0, batch.context, generator("gaps"))
    assert real["bonds"] > 0.95 and real["rmsd"] < 0.1
    (tmp_path / "out").mkdir()
    _, pdb, _ = task.render(batch.x0, batch.context, tmp_path / "out" / "x")
    array, coordinates = data.read_structures(pdb)
    assert array.res_id.tolist() == [i + 1 for i in range(24) if i not in (0, 9, 10, 11)]
    assert len(coordinates) == 6


def test_samples_are_judged_on_the_residues_that_references_share(gaps: Path):
    """Whole samples against held-out structures of 20 residues: as if the samples had been cut to these."""
    task = small(gaps, rotations="none")
    frames, which = task._frames["train"]
    x = frames[which == 0]
    found = task.measure(x, Context(mask=torch.ones(len(x), 24, 1, dtype=torch.bool)), generator("judge"))
    shared = [i for i in range(24) if i not in (0, 9, 10, 11)]
    real = data.structures(gaps / "m4.pdb", "ca")
    expected = metrics.evaluate(
        10.0 * x[:, shared].double(), real.frames, real.molecule.bonds, real.molecule.lengths
    )
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-4), key
    floor = task.floor(64, generator("floor"))
    assert abs(floor["energy"]) < 0.1 < figures_of_noise(task) and floor["mirror"] == 0.0


def test_structures_with_all_the_points_are_preferred_as_references():
    every = [("A", tuple(range(24))), ("B", tuple(range(2, 24))), ("C", tuple(range(20)))]
    array = atoms(24)
    ensembles = [
        data.Ensemble(name, data.molecule_of(array[list(rows)], "ca"), torch.zeros(2, len(rows), 3))
        for name, rows in every
    ]
    layout = Layout(ensembles)
    assert layout.comparable(1, [0, 2])[0] == [0] and layout.comparable(1, [1, 0])[0] == [1]
    chosen, places = layout.comparable(0, [1, 2])
    assert chosen == [1, 2] and places.tolist() == list(range(2, 20))


def test_other_molecules_are_no_references(tmp_path: Path):
    write(tmp_path / "a.pdb", list(range(24)), 0)
    write(tmp_path / "b.pdb", list(range(24)), 1, name="GLY")
    task = small(tmp_path)
    assert [place.kind for place in task._layout.places] == [0, 1]
    assert task.floor(16, generator("floor")) == {}


def test_the_order_of_atoms_in_a_file_does_not_matter():
    array, x = atoms(6), hinge(2, 6, 0)
    back = [5, 4, 3, 2, 1, 0]
    layout = Layout(
        [
            data.Ensemble("a", data.molecule_of(array, "ca"), x),
            data.Ensemble("b", data.molecule_of(array[back], "ca"), x[:, back]),
        ]
    )
    assert torch.equal(layout.ensembles[0].frames, layout.ensembles[1].frames) and not layout.ragged
    assert layout.ensembles[1].molecule.atoms.res_id.tolist() == [1, 2, 3, 4, 5, 6]


def test_frames_are_turned_by_the_points_they_share():
    x = hinge(1, 24, 3).double()
    turn = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    turn = turn * torch.linalg.det(turn)
    rows = torch.tensor([i for i in range(24) if i not in (4, 5)])
    pose = (torch.arange(20), RigidMotion().project(x[0, :20]))
    turned = superposed((x @ turn + 5.0)[:, rows].float(), rows, pose)
    expected = RigidMotion().project(x[:, rows])
    torch.testing.assert_close(turned.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_mask_that_no_molecule_has_is_refused(gaps: Path):
    mask = torch.zeros(2, 24, 1, dtype=torch.bool)
    mask[:, :5] = True
    with pytest.raises(UserError, match="no molecule of the 5 points"):
        small(gaps).measure(torch.zeros(2, 24, 3), Context(mask=mask), generator("mask"))


def test_three_files_of_one_structure_are_trained_on_and_judged(tmp_path: Path):
    for number in range(3):
        write(tmp_path / f"m{number}.pdb", list(range(24)), number, count=1)
    task = small(tmp_path)
    batch = task.batch(16, generator("three"))
    assert batch.x0 is not None
    figures = task.measure(batch.x0, batch.context, generator("three"))
    alone = task.measure(batch.x0[:1], batch.context[:1], generator("three"))
    for found in (figures, alone, task.floor(16, generator("three"))):
        assert all(np.isfinite(value) for value in found.values()), found


def figures_of_noise(task: Ensemble) -> float:
    """The energy of held-out structures with an Angstrom of noise."""
    batch = task.batch(32, generator("noise"), "held_out")
    assert batch.x0 is not None and batch.context.mask is not None
    noised = (batch.x0 + 0.1 * torch.randn(batch.x0.shape, generator=generator("noise"))) * batch.context.mask
    return task.measure(noised, batch.context, generator("noise"))["energy"]
