"""Structure files: mmCIF and PDB (one model or many), xyz, PLY, and DCD beside a file that names the atoms."""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omnidistill.data.folder import regular, shown
from omnidistill.errors import UserError
from omnidistill.modalities.coordinates.archive import Choice, read_mmcif, read_pdb
from omnidistill.modalities.coordinates.elements import symbol

NAMED = (".pdb", ".ent", ".cif", ".mmcif", ".xyz", ".ply")  # files that say which points there are
TRAJECTORIES = (".dcd",)
LARGEST, LARGEST_TRAJECTORY = 1 << 30, 1 << 33  # bytes of a file


class Structures(NamedTuple):
    """Models of one file: a biotite `AtomArray` of n atoms and their coordinates, Float32[models n 3], in Angstrom."""

    atoms: Any
    coordinates: NDArray[np.float32]


def read_structures(path: Path, choice: Choice | None = None) -> Structures:
    """All models of a structure file.

    Args:
        choice: the atoms that are asked for; models need not agree in others.

    Raises:
        UserError: the file is missing, empty, damaged, of another format, holds models of different atoms, or a
            coordinate that is not finite.
    """
    suffix = path.suffix.lower()
    if suffix not in NAMED:
        raise UserError(f"{path} is no structure file; its suffix must be one of {', '.join(NAMED)}")
    try:
        if not regular(path, LARGEST):
            raise UserError(f"the structure file {shown(path)} is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # elements guessed from names, and the like
            other = {".xyz": _read_xyz, ".ply": _read_ply}.get(suffix)
            found = _chosen(other(path), choice) if other else _read_biotite(path, suffix, choice)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # parsers raise what they please at damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged or no {suffix} file: {reason}") from error
    if not found.coordinates.size:
        raise UserError(f"{path} holds no atoms")
    return Structures(found.atoms, finite(found.coordinates, path))


def finite(coordinates: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """Coordinates [frames atoms 3] as they are.

    Raises:
        UserError: some are NaN or infinite, in how many of the structures.
    """
    bad = np.asarray(~np.isfinite(coordinates).all(axis=(1, 2)))
    if bad.any():
        raise UserError(
            f"{path} has NaN or infinite coordinates in {int(bad.sum())} of {len(bad)} structures"
        )
    return coordinates


def _chosen(found: Structures, choice: Choice | None) -> Structures:
    if choice is None:
        return found
    rows = choice(found.atoms)
    return Structures(found.atoms[rows], found.coordinates[:, rows])


def _read_biotite(path: Path, suffix: str, choice: Choice | None) -> Structures:
    try:
        import biotite.structure  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"reading {path.name} needs biotite; `pip install omnidistill[coordinates]` installs it"
        ) from error

    read = read_pdb if suffix in (".pdb", ".ent") else read_mmcif
    return Structures(*read(path, choice))


def _read_xyz(path: Path) -> Structures:
    """Frames of `count`, a comment, and `count` lines of an element and three numbers in Angstrom."""
    lines = path.read_text(encoding="utf-8").rstrip().split("\n")
    frames, elements, place = [], None, 0
    while place < len(lines):
        count = int(lines[place])
        rows = [line.split() for line in lines[place + 2 : place + 2 + count]]
        if count < 1 or len(rows) != count or any(len(row) < 4 for row in rows):
            raise UserError(f"{path} is cut short or no xyz file at line {place + 1}: expected {count} atoms")
        here = [row[0] for row in rows]
        if elements not in (None, here):
            raise UserError(
                f"{path} holds frames of different atoms, the first at line {place + 1}; split it"
            )
        elements = here
        frames.append([[float(number) for number in row[1:4]] for row in rows])
        place += count + 2
    return Structures(unnamed(elements or []), np.asarray(frames, np.float32))


def _read_ply(path: Path) -> Structures:
    """The vertices of a PLY file, text or binary, as one structure; what joins them is not read. They stand as CA atoms
    of one residue, so that nothing is taken for a bond."""
    try:
        import trimesh
    except ImportError as error:
        raise UserError(
            f"reading {path.name} needs trimesh; `pip install omnidistill[coordinates]` installs it"
        ) from error
    raw = path.read_bytes()
    stated = [int(n) for n in re.findall(rb"element\s+\S+\s+(\d{1,18})", raw.partition(b"end_header")[0])]
    if any(count > len(raw) for count in stated):  # looked at before memory is taken for them
        raise UserError(f"{path} is cut short: its head states {max(stated)} elements in {len(raw)} bytes")
    vertices = np.asarray(trimesh.load(path, process=False).vertices, np.float32)
    found = re.search(rb"element\s+vertex\s+(\d+)", raw.partition(b"end_header")[0])
    if found is None or int(found[1]) != len(vertices):  # which trimesh lets pass
        count = "no" if found is None else int(found[1])
        raise UserError(f"{path} is cut short: its head states {count} vertices, it holds {len(vertices)}")
    atoms = unnamed(["C"] * len(vertices))
    atoms.atom_name[:] = "CA"
    return Structures(atoms, vertices[None])


def unnamed(elements: list[str]) -> Any:
    """An `AtomArray` of atoms of which only the elements are known: one residue UNK."""
    from biotite.structure import AtomArray

    atoms = AtomArray(len(elements))
    atoms.element = np.array([symbol(element) for element in elements])
    atoms.atom_name = np.array([f"{element}{i + 1}"[:4] for i, element in enumerate(elements)])
    atoms.res_name[:], atoms.res_id[:], atoms.chain_id[:] = "UNK", 1, "A"
    atoms.set_annotation("segment", np.zeros(len(elements), dtype=np.int64))
    return atoms


def read_dcd(path: Path) -> NDArray[np.float32]:
    """Coordinates of a DCD trajectory of CHARMM or NAMD, Float32[frames atoms 3] in Angstrom.

    Such a file is a sequence of Fortran records, each between two copies of its length: a header ("CORD" and 20
    integers), titles, the number of atoms; then for each frame its unit cell, where the header says so, and the x, y
    and z of all atoms. Frames are counted from the file's length: a writer that was stopped leaves another number in
    the header.

    Raises:
        UserError: the file is missing, empty, no DCD file, cut short, or stores some atoms only once.
    """
    try:
        regular(path, LARGEST_TRAJECTORY)
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the trajectory {path}: {error.strerror or error}") from error
    order = next((o for o in "<>" if raw[:8] == struct.pack(f"{o}i", 84) + b"CORD"), None)
    if order is None:
        what = f"it begins with {raw[:8].hex()}" if raw else "it is empty"
        raise UserError(f"{path} is no DCD trajectory: {what}")
    try:
        header, place = _record(raw, 0, order)
        _, place = _record(raw, place, order)
        count, place = _record(raw, place, order)
        flags, atoms = struct.unpack(f"{order}20i", header[4:]), struct.unpack(f"{order}i", count)[0]
    except struct.error as error:
        raise UserError(f"the trajectory {path} is cut short or damaged in its header") from error
    fixed, cell, fourth, charmm = flags[8], flags[10], flags[11], flags[19]
    if fixed or (fourth and charmm):
        raise UserError(f"{path} stores fixed atoms only once or a fourth coordinate; write it anew without")
    if atoms < 1:
        raise UserError(f"the trajectory {path} is damaged: it states {atoms} atoms")
    before = 56 if cell and charmm else 0
    size = before + 3 * (4 * atoms + 8)
    frames, rest = divmod(len(raw) - place, size)
    if frames < 1 or rest:
        raise UserError(
            f"the trajectory {path} is cut short: {rest} bytes follow {frames} frames of {atoms} atoms"
        )
    rows = np.frombuffer(raw, np.uint8, frames * size, place).reshape(frames, size)[:, before:]
    rows = rows.reshape(frames, 3, 4 * atoms + 8)
    if (np.ascontiguousarray(rows[:, :, :4]).view(f"{order}i4") != 4 * atoms).any():
        raise UserError(f"the trajectory {path} is damaged: its frames are not of {atoms} atoms each")
    values = np.ascontiguousarray(rows[:, :, 4:-4]).view(f"{order}f4")
    return finite(values.transpose(0, 2, 1).astype(np.float32, order="C"), path)


def _record(raw: bytes, start: int, order: str) -> tuple[bytes, int]:
    """One Fortran record and where the next one starts."""
    (length,) = struct.unpack(f"{order}i", raw[start : start + 4])
    end = start + 4 + length
    if length < 0 or raw[end : end + 4] != raw[start : start + 4]:
        raise struct.error("a record's two lengths differ")
    return raw[start + 4 : end], end + 4
