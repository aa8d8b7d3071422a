"""Splits by file, the choice of atoms, and what pairs of files must agree on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.coordinates import data
from tests.coordinates.conftest import hinge, write_pdb
from tests.coordinates.test_files import dcd

PEPTIDE = """\
ATOM      1  N   GLY A   1      -1.204   0.870   0.000  1.00  0.00           N
ATOM      2  CA  GLY A   1       0.000   0.000   0.000  1.00  0.00           C
ATOM      3  C   GLY A   1       1.250   0.881   0.000  1.00  0.00           C
ATOM      4  O   GLY A   1       1.150   2.107   0.000  1.00  0.00           O
ATOM      5  HA1 GLY A   1       0.000  -0.640   0.880  1.00  0.00           H
HETATM    6 CA    CA A   2       9.000   9.000   9.000  1.00  0.00          CA
"""


def test_whole_files_are_held_out(folder: Path):
    split = data.own(folder)
    assert [e.name for e in split.train] == [f"run{i}.pdb" for i in range(4)]
    assert [e.name for e in split.held_out] == ["run4.pdb"]
    half = data.own(folder, share=0.5)
    assert [e.name for e in half.held_out] == ["run1.pdb", "run3.pdb"]
    assert [e.name for e in half.train] == ["run0.pdb", "run2.pdb", "run4.pdb"]


def test_the_end_of_a_single_file_is_held_out(folder: Path):
    split = data.own(folder / "run0.pdb", share=0.25)
    whole = data.structures(folder / "run0.pdb", "ca").frames
    assert torch.equal(split.train[0].frames, whole[:15]) and torch.equal(
        split.held_out[0].frames, whole[15:]
    )


def test_trajectories_take_their_atoms_from_the_file_beside_them(tmp_path: Path):
    frames = {name: hinge(4, 10, seed) for seed, name in enumerate(("a", "b"))}
    for name, x in frames.items():
        (tmp_path / f"{name}.dcd").write_bytes(dcd(x.numpy()))
    write_pdb(tmp_path / "top.pdb", hinge(1, 10, 9))
    split = data.own(tmp_path)
    assert torch.equal(split.train[0].frames, frames["a"]) and torch.equal(
        split.held_out[0].frames, frames["b"]
    )
    alone = data.own(tmp_path / "b.dcd")
    assert torch.equal(torch.cat((alone.train[0].frames, alone.held_out[0].frames)), frames["b"])
    write_pdb(tmp_path / "top.pdb", hinge(1, 11, 9))
    with pytest.raises(UserError, match=r"a\.dcd holds 10 atoms, but top\.pdb beside it names 11"):
        data.own(tmp_path)
    (tmp_path / "top.pdb").unlink()
    with pytest.raises(UserError, match="need one structure file"):
        data.own(tmp_path)


def test_atoms_are_chosen_by_what_they_are(tmp_path: Path):
    (tmp_path / "a.pdb").write_text(PEPTIDE)
    array, _ = data.read_structures(tmp_path / "a.pdb")
    # The calcium ion is called CA too.
    heavy = data.chosen(array, "heavy", tmp_path)
    assert heavy.tolist() == [True, True, True, True, False, True]
    with pytest.raises(UserError, match="1 ca atoms, at least 4 are needed; atoms=heavy"):
        data.chosen(array, "ca", tmp_path)
    with pytest.raises(UserError, match="heavy"):
        data.chosen(array, "hevy", tmp_path)


def test_bonds_of_heavy_atoms_are_those_of_the_real_structure(tmp_path: Path):
    (tmp_path / "a.pdb").write_text(PEPTIDE)
    molecule = data.structures(tmp_path / "a.pdb", "heavy").molecule
    assert sorted(map(tuple, molecule.bonds.tolist())) == [(0, 1), (1, 2), (2, 3)]
    assert molecule.lengths.tolist() == pytest.approx([1.485, 1.529, 1.230], abs=2e-3)


def test_neighbours_in_a_chain_are_bonded_and_gaps_are_not():
    from tests.coordinates.conftest import atoms

    array = atoms(6)
    array.res_id = np.array([1, 2, 5, 6, 7, 8])
    array.chain_id = np.array(list("AAAABB"))
    molecule = data.molecule_of(array, "ca")
    assert molecule.bonds.tolist() == [[0, 1], [2, 3], [4, 5]] and set(molecule.lengths.tolist()) == {3.8}


@pytest.mark.parametrize("what", ["nothing", "missing", "single"])
def test_bad_folders_are_refused_in_one_line(tmp_path: Path, what: str):
    path, said = tmp_path, "holds no structures"
    if what == "missing":
        path, said = tmp_path / "not here", "there is no"
    if what == "single":
        write_pdb(tmp_path / "a.pdb", hinge(1, 9, 0))
        said = "at least two"
    with pytest.raises(UserError, match=said) as error:
        data.own(path)
    assert "\n" not in str(error.value)


def test_the_known_sequence_makes_a_molecule():
    molecule = data.adk_molecule()
    assert len(molecule) == 214 and len(molecule.bonds) == 213
    assert list(molecule.atoms.res_name[:3]) == ["MET", "ARG", "ILE"]
