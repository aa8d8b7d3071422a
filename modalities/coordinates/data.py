"""Ensembles of structures as tensors: adenylate kinase from its fetched trajectories, or the user's own files.

Lengths are in Angstrom here. Splits are by file, that is by trajectory: frames of one trajectory follow one another by
a fraction of an Angstrom, so a split by frame would judge a generator on frames that it has as good as seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int
from torch import Tensor

from omnidistill.data.datasets import locate
from omnidistill.data.folder import Contents, read_each, scan, shown
from omnidistill.errors import UserError, unknown
from omnidistill.modalities.coordinates.files import (
    NAMED,
    TRAJECTORIES,
    Structures,
    read_dcd,
    read_structures,
)

ATOMS = ("ca", "heavy")
CA_BOND = 3.8
"""Distance in Angstrom of neighbouring CA atoms whose peptide bond is trans; the few cis ones measure 3.0."""
CHAIN_BREAK = 4.5
"""Angstrom from which on two CA atoms are not neighbours: those of two peptide bonds are at least 5 apart."""
ADK_TRAIN = ("adk_dims.dcd", "adk_gbis_tmd-fast1_NAMD.dcd")
ADK_HELD_OUT = "adk_dims2.dcd"
ADK_SEQUENCE = (
    "MRIILLGAPGAGKGTQAQFIMEKYGIPQISTGDMLRAAVKSGSELGKQAKDIMDAGKLVTDELVIALVKERIAQEDCRNGFLLDGFPRTIPQADAMKEAG"
    "INVDYVLEFDVPDELIVDRIVGRRVHAPSGRVYHVKFNPPKVEGKDDVTGEELTTRKDDQEETVRKRLVEYHQMTAPLIGYYSKEAEAGNTKYAKVDGTK"
    "PVAEVRADLEKILG"
)
"""Adenylate kinase of Escherichia coli (UniProt P69441), so that samples can be written without the data at hand."""


@dataclass(frozen=True)
class Molecule:
    """What the points of a structure are.

    Attributes:
        atoms: a biotite `AtomArray` of n atoms: names, elements, residues, chains.
        bonds: pairs that are joined: neighbours in the chain for CA atoms, else as perceived in the file's
            first structure, which is a real one. Samples are never asked what their bonds are.
        lengths: how long these bonds should be, in Angstrom.
    """

    atoms: Any
    bonds: Int[Tensor, "m 2"]
    lengths: Float64[Tensor, "m"]

    def __len__(self) -> int:
        return int(self.atoms.array_length())


class Ensemble(NamedTuple):
    """Structures of one file: `frames` in Angstrom, all of one molecule."""

    name: str
    molecule: Molecule
    frames: Float32[Tensor, "f n 3"]


class Split(NamedTuple):
    """Whole trajectories are held out, never frames: neighbouring frames are nearly equal."""

    train: tuple[Ensemble, ...]
    held_out: tuple[Ensemble, ...]


@lru_cache(maxsize=2)
def adk(atoms: str = "ca") -> Split:
    """The fetched trajectories: two for training (198 frames), `adk_dims2` held out (102 frames).

    Raises:
        UserError: they are not on this machine; the line names the command that fetches them.
    """
    folder = locate("adk")
    runs = [folder / name for name in (*ADK_TRAIN, ADK_HELD_OUT)]
    topology = read_structures(folder / "adk_open.pdb")
    *train, held_out = (trajectory(folder / "adk_open.pdb", topology, run, atoms) for run in runs)
    return Split(tuple(train), (held_out,))


def adk_fetched() -> bool:
    """Whether the trajectories are on this machine."""
    try:
        locate("adk")
    except UserError:
        return False
    return True


def adk_molecule() -> Molecule:
    """The CA atoms of adenylate kinase, without any file."""
    from biotite.sequence import ProteinSequence
    from biotite.structure import AtomArray

    array = AtomArray(len(ADK_SEQUENCE))
    array.res_name = np.array([ProteinSequence.convert_letter_1to3(letter) for letter in ADK_SEQUENCE])
    array.res_id = np.arange(1, len(ADK_SEQUENCE) + 1)
    array.atom_name[:], array.element[:], array.chain_id[:] = "CA", "C", "A"
    return molecule_of(array, "ca")


def own(path: str | Path, atoms: str = "ca", share: float = 0.2, on_bad: str = "stop") -> Split:
    """The user's structures: a file or a folder of mmCIF, PDB (one model or many) or xyz files, of point clouds in PLY
    with their points in the same order, or of DCD trajectories with the one PDB or mmCIF file that names their atoms.

    Whole files are held out: of their sorted names every `1 / share`-th, at least one. A single file is cut once: its
    last `share` of structures is held out, so that neighbours in time stay together.

    Raises:
        UserError: nothing to read, or a file is of another kind, damaged or cut short, or holds NaN; one line.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there is no {shown(path)}; give a folder or a file of structures")
    alone = not path.is_dir()
    found = scan(path.parent if alone else path, (*NAMED, *TRAJECTORIES), deep=not alone, what="structures")
    runs = [p for p in found.files if p.suffix.lower() in TRAJECTORIES and (not alone or p == path)]
    named = [p for p in found.files if p.suffix.lower() in NAMED and (not alone or runs or p == path)]
    if alone:
        found = Contents(path.parent)  # what else lies there is nobody's business
    found.files = runs or named
    if runs:
        if len(named) != 1:
            raise UserError(
                f"trajectories need one structure file beside them, {shown(path)} has {len(named)}"
            )
        topology = read_structures(named[0])

        def read_one(file: Path) -> Ensemble:
            return trajectory(named[0], topology, file, atoms)
    elif named:

        def read_one(file: Path) -> Ensemble:
            return structures(file, atoms)
    else:
        reason = f"; {found.wrong[0]}" if found.wrong else ""
        raise UserError(
            f"{shown(path)} holds no structures; expected {', '.join((*NAMED, *TRAJECTORIES))}{reason}"
        )
    return _split([ensemble for _, ensemble in read_each(found, read_one, on_bad, what="structures")], share)


def structures(path: Path, atoms: str) -> Ensemble:
    """All models of a structure file."""
    array, coordinates = read_structures(path, lambda array: chosen(array, atoms, path))
    return Ensemble(path.name, molecule_of(array, atoms), torch.from_numpy(coordinates))


def trajectory(file: Path, topology: Structures, run: Path, atoms: str) -> Ensemble:
    """A DCD trajectory of the atoms that `topology`, read from `file`, names."""
    array = topology.atoms
    rows = chosen(array, atoms, file)
    coordinates = read_dcd(run)
    if coordinates.shape[1] != len(array):
        raise UserError(
            f"{run.name} holds {coordinates.shape[1]} atoms, but {file.name} beside it names {len(array)}"
        )
    return Ensemble(run.name, molecule_of(array[rows], atoms), torch.from_numpy(coordinates[:, rows]))


def chosen(array: Any, atoms: str, path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Bool[n]: the CA atoms of a protein, or all atoms but hydrogen."""
    if atoms not in ATOMS:
        raise unknown("choice of atoms", atoms, ATOMS)
    rows = (array.atom_name == "CA") & (array.element == "C") if atoms == "ca" else array.element != "H"
    if rows.sum() < 4:  # fewer have no handedness
        mend = "; atoms=heavy takes all but hydrogen" if atoms == "ca" else ""
        raise UserError(f"{path} has {rows.sum()} {atoms} atoms, at least 4 are needed{mend}")
    return rows


def molecule_of(array: Any, atoms: str) -> Molecule:
    """The molecule of the chosen atoms; but for CA atoms, `array.coord` must be a real structure."""
    array = array.copy()
    array.chain_id[array.chain_id == ""] = "A"  # formats of samples want one
    if atoms == "ca":
        first = torch.from_numpy(np.flatnonzero(_joined(array)))
        bonds = torch.stack((first, first + 1), 1)
        return Molecule(array, bonds, torch.full((len(bonds),), CA_BOND, dtype=torch.float64))
    from biotite.structure import connect_via_distances

    bonds = torch.from_numpy(connect_via_distances(array).as_array()[:, :2].astype(np.int64))
    coordinates = torch.from_numpy(array.coord).double()
    return Molecule(array, bonds, (coordinates[bonds[:, 0]] - coordinates[bonds[:, 1]]).norm(dim=-1))


def _joined(array: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Bool[n - 1]: whether a CA atom and the one after it are of residues that are bonded.

    They are of one chain and two residues, and as near as a peptide bond brings them: numbers alone say little, for
    an insertion repeats one (52, 52A, 53), a numbering scheme skips some, and what is unresolved may be counted or not.
    Without coordinates numbers have to do.
    """
    whole = array.chain_id[1:] == array.chain_id[:-1]
    if "segment" in array.get_annotation_categories():
        whole &= array.segment[1:] == array.segment[:-1]
    whole &= (np.diff(array.res_id) != 0) | (array.ins_code[1:] != array.ins_code[:-1])
    apart = np.linalg.norm(np.diff(array.coord.astype(np.float64), axis=0), axis=1)
    if np.isfinite(apart).all() and apart.any():
        return whole & (apart < CHAIN_BREAK)
    step = np.diff(array.res_id)
    return whole & ((step == 1) | (step == 0))


def _split(parts: list[Ensemble], share: float) -> Split:
    if not 0.0 < share < 1.0:
        raise UserError(f"the share held out must lie between 0 and 1, got {share}")
    if len(parts) > 1:
        stride = max(2, round(1.0 / share))
        held = set(range(stride - 1, len(parts), stride)) or {len(parts) - 1}
        return Split(
            tuple(e for i, e in enumerate(parts) if i not in held), tuple(parts[i] for i in sorted(held))
        )
    name, molecule, frames = parts[0]
    kept = len(frames) - max(1, round(share * len(frames)))
    if kept < 1:
        raise UserError(f"{name} holds one structure; at least two are needed, one of them held out")
    return Split((Ensemble(name, molecule, frames[:kept]),), (Ensemble(name, molecule, frames[kept:]),))
