"""Where the points of each molecule stand when several share a batch: the same residue in the same place.

Files of one chain seldom have the same residues resolved. They are laid over one another by what their atoms are
called (chain, residue, insertion, atom), and a mask says which of the places a file fills. Molecules that have little
in common each begin at the first place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from omnidistill.modalities.coordinates.data import Ensemble, Molecule

SHARED = 0.7  # of the shorter molecule's atoms that two must have in common to be of one kind
ALIKE = 0.8  # of these that must be of the same residue: points may be mutated
FEWEST = 4  # points that can be compared: fewer have no handedness
NEARLY = 0.9  # of the most points shared, from which on a reference is as good as the best

Key = tuple[Any, ...]


class Place(NamedTuple):
    """Of one ensemble: which kind of molecule it is, and where its points stand, ascending."""

    kind: int
    rows: Int[Tensor, "n"]


class Layout:
    """The places of ensembles in a batch.

    Args:
        ensembles: as read.

    Attributes:
        ensembles: with their points in the order of their places.
        places: of each.
        size: places in all.
    """

    def __init__(self, ensembles: Sequence[Ensemble]) -> None:
        names = [_names(ensemble.molecule) for ensemble in ensembles]
        templates: list[dict[Key, str]] = []
        kinds = [0] * len(ensembles)
        for index in sorted(range(len(ensembles)), key=lambda i: -len(names[i])):
            kinds[index] = _kind(names[index], templates)
        orders = [{key: place for place, key in enumerate(template)} for template in templates]
        self.size = max(len(template) for template in templates)
        self.ensembles: list[Ensemble] = []
        self.places: list[Place] = []
        for ensemble, kind, named in zip(ensembles, kinds, names, strict=True):
            rows = torch.tensor([orders[kind][key] for key in named])
            order = rows.argsort()
            self.places.append(Place(kind, rows[order]))
            self.ensembles.append(_ordered(ensemble, order))
        self.masks = torch.zeros(len(ensembles), self.size, dtype=torch.bool)
        for index, place in enumerate(self.places):
            self.masks[index, place.rows] = True

    @property
    def ragged(self) -> bool:
        """Whether some ensemble leaves places empty."""
        return not bool(self.masks.all())

    def spread(self, x: Float[Tensor, "f n 3"], index: int) -> Float[Tensor, "f size 3"]:
        """Structures, with zeros in the places that ensemble `index` leaves empty."""
        wide = x.new_zeros(len(x), self.size, 3)
        wide[:, self.places[index].rows] = x
        return wide

    def find(self, mask: Bool[Tensor, "size"]) -> int | None:
        """The first ensemble that fills just the places of the mask."""
        same = (self.masks == mask).all(1).nonzero()
        return int(same[0]) if len(same) else None

    def comparable(self, index: int, among: Iterable[int]) -> tuple[list[int], Int[Tensor, "k"]]:
        """The ensembles that one is judged by, and the places on which.

        Those with just its points, else those that have all of them, else those of its kind that share most of them.
        """
        kind, mine = self.places[index].kind, self.masks[index]
        same = [i for i in among if self.places[i].kind == kind]
        for fits in (self.masks == mine).all(1), (self.masks | ~mine).all(1):
            if chosen := [i for i in same if fits[i]]:
                return chosen, mine.nonzero().squeeze(1)
        shared = (self.masks & mine).sum(1)
        most = max((int(shared[i]) for i in same), default=0)
        chosen = [i for i in same if int(shared[i]) >= NEARLY * most]
        common = mine & self.masks[chosen].all(0) if chosen else torch.zeros_like(mine)
        if int(common.sum()) < FEWEST:
            return [], torch.empty(0, dtype=torch.long)
        return chosen, common.nonzero().squeeze(1)

    def part(self, index: int, places: Int[Tensor, "k"]) -> tuple[Int[Tensor, "m 2"], Float64[Tensor, "m"]]:
        """Bonds among these places, and their lengths."""
        molecule, rows = self.ensembles[index].molecule, self.places[index].rows
        number = torch.full((self.size,), -1)
        number[places] = torch.arange(len(places))
        bonds = number[rows[molecule.bonds]].reshape(-1, 2)
        inside = (bonds >= 0).all(1)
        return bonds[inside], molecule.lengths[inside]


def _names(molecule: Molecule) -> dict[Key, str]:
    """What each atom is called, and its residue; by number where names are not their own."""
    array = molecule.atoms
    parts = (array.chain_id, array.res_id, array.ins_code, array.atom_name)
    keys: list[Key] = list(zip(*(part.tolist() for part in parts), strict=True))
    if len({*keys}) < len(keys):
        keys = [(number,) for number in range(len(keys))]
    return dict(zip(keys, array.res_name.tolist(), strict=True))


def _kind(names: dict[Key, str], templates: list[dict[Key, str]]) -> int:
    """Which template these atoms belong to, widened by those it lacks; a new one if they fit none."""
    for kind, template in enumerate(templates):
        shared = [key for key in names if key in template]
        alike = sum(names[key] == template[key] for key in shared)
        if len(shared) >= SHARED * min(len(names), len(template)) and alike >= ALIKE * len(shared):
            if len(shared) < len(names):
                order, place = list(template), 0
                for key in names:
                    if key in template:
                        place = order.index(key) + 1
                    else:
                        order.insert(place, key)
                        place += 1
                templates[kind] = {key: template.get(key) or names[key] for key in order}
            return kind
    templates.append(dict(names))
    return len(templates) - 1


def _ordered(ensemble: Ensemble, order: Tensor) -> Ensemble:
    """With its points in this order."""
    if torch.equal(order, torch.arange(len(order))):
        return ensemble
    molecule = ensemble.molecule
    bonds = order.argsort()[molecule.bonds]
    atoms = molecule.atoms[np.asarray(order)]
    return Ensemble(ensemble.name, replace(molecule, atoms=atoms, bonds=bonds), ensemble.frames[:, order])
