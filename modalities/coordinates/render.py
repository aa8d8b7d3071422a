"""Samples as a picture of superposed backbones, as PDB and as mmCIF."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from omnidistill.errors import UserError
from omnidistill.modalities.coordinates.data import Molecule
from omnidistill.paths import RigidMotion

DRAWN = 12
"""Structures in one picture."""
PDB_ATOMS = 99_999
PDB_REACH = 999.0
"""What the columns of the PDB format hold: atom numbers and Angstrom."""

Group = tuple[Molecule, Tensor]
"""Structures of one molecule, Float[b n 3] in Angstrom."""


def write_structures(groups: Sequence[Group], target: Path, title: str) -> list[Path]:
    """Writes `target.png`, `target.pdb` and `target.cif`; of further molecules `target_2.pdb` and so on.

    Args:
        target: a path without suffix.

    Raises:
        UserError: NaN coordinates, or a file cannot be written.
    """
    aligned = [(molecule, _superposed(x)) for molecule, x in groups]
    written = [_whole(target.with_name(f"{target.name}.png"), lambda file: _draw(aligned, file, title))]
    for number, (molecule, x) in enumerate(aligned, 1):
        stem = target.name if number == 1 else f"{target.name}_{number}"
        for suffix, write in ((".pdb", _write_pdb), (".cif", _write_cif)):
            written.append(_whole(target.with_name(stem + suffix), partial(write, molecule, x)))
    return written


def _superposed(x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()):
        raise UserError("cannot draw structures with NaN or infinite coordinates")
    motion = RigidMotion()
    return motion.align(x, motion.project(x[:1]).expand_as(x))


def _draw(groups: Sequence[Group], file: Path, title: str) -> None:
    """Each molecule in a panel: its first structures over one another, coloured along the chain, seen along the axis
    in which they are flattest."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    figure = Figure(figsize=(6.0 * len(groups), 5.6), facecolor="white")
    figure.subplots_adjust(0, 0, 1, 0.9, 0, 0)
    for place, (molecule, x) in enumerate(groups, 1):
        axis = figure.add_subplot(1, len(groups), place, projection="3d", proj_type="ortho")
        _, _, axes = torch.linalg.svd(RigidMotion().project(x.mean(0)), full_matrices=False)
        shown = (x[:DRAWN] @ axes.mT).float()
        shades = colormaps["turbo"](molecule.bonds[:, 0].numpy() / max(len(molecule) - 1, 1))
        for structure in shown:
            if not len(molecule.bonds):  # a point cloud
                axis.scatter(*structure.T.numpy(), s=4, c=range(len(structure)), cmap="turbo", alpha=0.75)
                continue
            segments = structure[molecule.bonds].numpy()
            axis.add_collection3d(Line3DCollection(segments, colors=shades, linewidths=1.2, alpha=0.75))
        low, high = shown.flatten(0, 1).aminmax(dim=0)
        axis.set(
            **{
                f"{name}lim": ends
                for name, ends in zip("xyz", zip(low.tolist(), high.tolist(), strict=True), strict=True)
            }
        )
        axis.set_box_aspect((high - low).clamp_min(1e-3).tolist(), zoom=1.2)
        axis.view_init(elev=90, azim=-90)
        axis.set_axis_off()
    drawn = min(DRAWN, max(len(x) for _, x in groups))
    figure.suptitle(
        f"{title}\n{drawn} superposed structures, coloured from first residue to last", fontsize=10
    )
    figure.savefig(file, dpi=110, format="png")


def _stack(molecule: Molecule, x: Tensor) -> object:
    from biotite.structure import from_template

    return from_template(molecule.atoms, x.float().numpy())


def _write_pdb(molecule: Molecule, x: Tensor, file: Path) -> None:
    from biotite.structure.io.pdb import PDBFile

    if len(molecule) > PDB_ATOMS or float(x.abs().max()) > PDB_REACH:
        raise UserError(
            "these structures do not fit the columns of the PDB format; the samples have diverged"
        )
    pdb = PDBFile()
    pdb.set_structure(_stack(molecule, x))
    pdb.write(str(file))


def _write_cif(molecule: Molecule, x: Tensor, file: Path) -> None:
    from biotite.structure.io import pdbx

    cif = pdbx.CIFFile()
    pdbx.set_structure(cif, _stack(molecule, x), data_block="ensemble")
    cif.write(str(file))


def _whole(target: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a temporary file beside `target` and moves it there: a reader never sees half a file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            staged = Path(work) / target.name
            write(staged)
            os.replace(staged, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target
