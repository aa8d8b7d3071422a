"""Ensembles made on the fly: helices that bend at a hinge, as PDB files of several models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

RISE, RADIUS, TURN = 1.5, 2.3, np.deg2rad(100.0)  # of an alpha helix, in Angstrom


def hinge(count: int, residues: int, seed: int) -> Tensor:
    """Float32[count residues 3] in Angstrom: a right-handed helix whose second half bends by up to half a radian, every
    atom 0.03 Angstrom off."""
    g = torch.Generator().manual_seed(seed)
    i = torch.arange(residues, dtype=torch.float64)
    helix = torch.stack((RADIUS * torch.cos(TURN * i), RADIUS * torch.sin(TURN * i), RISE * i), -1)
    middle = residues // 2
    bend = 0.5 * torch.rand(count, generator=g, dtype=torch.float64)
    cos, sin, zero, one = bend.cos(), bend.sin(), torch.zeros_like(bend), torch.ones_like(bend)
    turn = torch.stack((one, zero, zero, zero, cos, -sin, zero, sin, cos), -1).reshape(count, 3, 3)
    x = helix.expand(count, residues, 3).clone()
    x[:, middle:] = (x[:, middle:] - helix[middle]) @ turn.mT + helix[middle]
    return (x + 0.03 * torch.randn(x.shape, generator=g, dtype=torch.float64)).float()


def atoms(residues: int):  # type: ignore[no-untyped-def]
    from biotite.structure import AtomArray

    array = AtomArray(residues)
    array.atom_name[:], array.element[:], array.chain_id[:] = "CA", "C", "A"
    array.res_id, array.res_name[:] = np.arange(1, residues + 1), "ALA"
    return array


def write_pdb(path: Path, frames: Tensor) -> Path:
    from biotite.structure import from_template
    from biotite.structure.io.pdb import PDBFile

    file = PDBFile()
    file.set_structure(from_template(atoms(frames.shape[1]), frames.numpy()))
    file.write(str(path))
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files of 20 structures of 24 residues."""
    where = tmp_path_factory.mktemp("hinges")
    for seed in range(5):
        write_pdb(where / f"run{seed}.pdb", hinge(20, 24, seed))
    return where


@pytest.fixture(scope="session")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules of 24 and of 17 residues, two files each, one of each held out by a share of a half."""
    where = tmp_path_factory.mktemp("ragged")
    for number, residues in enumerate((24, 24, 17, 17)):
        write_pdb(where / f"run{number}.pdb", hinge(20, residues, number))
    return where
