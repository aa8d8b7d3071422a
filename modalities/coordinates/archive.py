"""PDB and mmCIF files as archives hold them: alternates by occupancy, ends of chains, models of different atoms."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnidistill.data.folder import shown
from omnidistill.errors import UserError
from omnidistill.modalities.coordinates.elements import symbol

Choice = Callable[[Any], NDArray[np.bool_]]
"""Of a biotite `AtomArray` of n atoms: which of them are asked for, Bool[n]."""

NAMES = ("segment", "chain_id", "res_id", "ins_code", "res_name", "atom_name")
"""Annotations that say which atom an atom is; `segment` counts the chains that end before it."""
FIELDS = ["occupancy"]


def read_pdb(path: Path, choice: Choice | None) -> tuple[Any, NDArray[np.float32]]:
    """The chosen atoms of a PDB file, and their coordinates in all models, Float32[models n 3]."""
    from biotite.structure.io.pdb import PDBFile

    models = _pdb_models(path.read_text(encoding="utf-8", errors="replace"))
    if not models:
        raise UserError(f"{shown(path)} holds no atoms")

    def parsed(texts: list[list[str]], **keys: Any) -> Any:
        lines = (f"MODEL {i + 1:>8}\n{''.join(text)}ENDMDL\n" for i, text in enumerate(texts))
        array = PDBFile.read(io.StringIO("".join(lines))).get_structure(
            altloc="all", extra_fields=FIELDS, **keys
        )
        array.set_annotation("segment", _segments(texts[0]))
        return _plain(array)

    if len({tuple(line[12:27] for line in model) for model in models}) == 1:
        stack = parsed(models, model=None)
        return _chosen(stack[0], stack.coord, choice)
    return _matched([parsed([model], model=1) for model in models], choice, path)


def read_mmcif(path: Path, choice: Choice | None) -> tuple[Any, NDArray[np.float32]]:
    """The chosen atoms of an mmCIF file, and their coordinates in all models, Float32[models n 3]."""
    from biotite.structure.io import pdbx

    file = pdbx.CIFFile.read(str(path))
    sites = file.block["atom_site"]
    numbers = sites["pdbx_PDB_model_num"].as_array(str) if "pdbx_PDB_model_num" in sites else None
    if numbers is None or len(set(numbers)) == 1:
        counts, alike = 1, True
    else:
        keys = [
            key
            for key in ("auth_asym_id", "label_asym_id", "auth_seq_id", "pdbx_PDB_ins_code")
            if key in sites
        ]
        keys += [key for key in ("label_comp_id", "label_atom_id", "label_alt_id") if key in sites]
        rows = np.stack([sites[key].as_array(str) for key in keys], 1)
        names = [rows[numbers == number] for number in dict.fromkeys(numbers)]
        counts, alike = len(names), all(np.array_equal(part, names[0]) for part in names)

    def parsed(model: int | None) -> Any:
        array = pdbx.get_structure(file, model=model, altloc="all", extra_fields=FIELDS)
        array.set_annotation("segment", np.zeros(array.array_length(), dtype=np.int64))
        return _plain(array)

    if alike:
        stack = parsed(None)
        return _chosen(stack[0], stack.coord, choice)
    return _matched([parsed(number) for number in range(1, counts + 1)], choice, path)


def _pdb_models(text: str) -> list[list[str]]:
    """The lines of atoms and of ends of chains, of each model; a blank occupancy is a whole one."""
    models: list[list[str]] = [[]]
    for line in text.split("\n"):
        kind = line[:6].rstrip()
        if kind in ("ATOM", "HETATM"):
            line = line.rstrip("\r").ljust(80)
            line = line[:54] + (line[54:60] if line[54:60].strip() else "  1.00") + line[60:]
            line = line[:60] + (line[60:66] if line[60:66].strip() else "  0.00") + line[66:]
            models[-1].append(line + "\n")
        elif kind == "TER":
            models[-1].append("TER\n")
        elif kind in ("MODEL", "ENDMDL"):
            models.append([])
    return [model for model in models if any(not line.startswith("TER") for line in model)]


def _segments(model: list[str]) -> NDArray[np.int64]:
    """For each atom, how many chains have ended before it."""
    ends = np.array([line.startswith("TER") for line in model])
    return np.cumsum(ends)[~ends].astype(np.int64)


def _plain(array: Any) -> Any:
    """With elements by their symbols."""
    pairs = zip(array.element.tolist(), array.atom_name.tolist(), strict=True)
    array.element = np.array([symbol(element, name) for element, name in pairs])
    return array


def _chosen(
    first: Any, coordinates: NDArray[np.float32], choice: Choice | None
) -> tuple[Any, NDArray[np.float32]]:
    rows = _one_of_alternates(first)
    if choice is not None:
        rows = rows[choice(first[rows])]
    return _named(first[rows]), np.asarray(coordinates, np.float32)[:, rows]


def _matched(arrays: list[Any], choice: Choice | None, path: Path) -> tuple[Any, NDArray[np.float32]]:
    """Models of different atoms, of which the chosen ones are the same."""
    chosen = [_chosen(array, array.coord[None], choice) for array in arrays]
    first = names_of(chosen[0][0])
    for number, (array, _) in enumerate(chosen[1:], 2):
        here = names_of(array)
        if here != first:
            other = next(iter({*here} ^ {*first}), None)
            what = (
                "in another order"
                if other is None
                else f"{other[4]} {other[1]}{other[2]}{other[3]} {other[5]}"
            )
            raise UserError(
                f"{shown(path)}: model {number} has other atoms than the first ({what}); split it"
            )
    return chosen[0][0], np.concatenate([coordinates for _, coordinates in chosen])


def names_of(array: Any) -> list[tuple[Any, ...]]:
    """Which atom each atom is, as the values of `NAMES`."""
    return list(zip(*(getattr(array, name).tolist() for name in NAMES), strict=True))


def _one_of_alternates(array: Any) -> NDArray[np.int64]:
    """Rows of the atoms that have no alternates, and of those of the alternate that is most often there: one for a
    residue, two residues in one place (heterogeneity) counting as alternates too."""
    marks = np.char.strip(np.char.replace(array.altloc_id.astype(str), ".", ""))
    marks = np.where(marks == "?", "", marks)
    if not (marks != "").any():
        return np.arange(array.array_length())
    places: dict[tuple[Any, ...], list[int]] = {}
    for row, place in enumerate(
        zip(array.segment, array.chain_id, array.res_id, array.ins_code, strict=True)
    ):
        places.setdefault(place, []).append(row)
    kept = []
    for rows in places.values():
        here = [mark for mark in dict.fromkeys(marks[rows].tolist()) if mark]
        share = {
            mark: float(np.mean([array.occupancy[r] for r in rows if marks[r] == mark])) for mark in here
        }
        order = sorted(here, key=lambda mark: -share[mark])  # stable: of equals the first
        best: dict[str, tuple[int, int]] = {}
        main = {array.res_name[r] for r in rows if here and marks[r] == order[0]}
        for row in rows:
            rank = order.index(marks[row]) if marks[row] else 0
            if main and array.res_name[row] not in main:
                continue
            name = array.atom_name[row]
            if not marks[row]:
                kept.append(row)
            elif name not in best or rank < best[name][0]:
                best[name] = (rank, row)
        kept += [row for _, row in best.values()]
    return np.array(sorted(kept), dtype=np.int64)


def _named(array: Any) -> Any:
    """With letters for chains that have none: the next one after each end."""
    array = array.copy()
    blank = array.chain_id == ""
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    array.chain_id[blank] = letters[array.segment[blank] % len(letters)]
    return array
