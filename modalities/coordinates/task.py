"""The task of structures in space: adenylate kinase opening and closing, or an ensemble of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError, unknown
from omnidistill.modalities.coordinates import data, metrics
from omnidistill.modalities.coordinates.layout import Layout
from omnidistill.modalities.coordinates.networks import ChainNetwork
from omnidistill.modalities.coordinates.poses import ROTATIONS, Centred, Pose, rotated, superposed
from omnidistill.modalities.coordinates.render import write_structures
from omnidistill.paths import GaussianPath, RigidMotion, edm
from omnidistill.samplers import Ancestral, Sampler
from omnidistill.tasks import Metric, Task

TEACHERS = FilePath(__file__).parent / "teachers"


class Ensemble(Task):
    """`coordinates/adk`: structures of a molecule as points in space, `x0: Float[b n 3]` in units of `scale` Angstrom.

    The path is EDM in sigma with centred noise; `align` superposes targets on beliefs by proper rotations (Kabsch), so
    that no loss depends on the pose. Frames are superposed on one reference pose first: a network that sees every pose
    has to decide a handedness while all is noise, and half of its samples were mirror images.

    Args:
        folder: structures of the user's own, see `data.own`; None: adenylate kinase as `omnidistill data fetch adk`
            gets it. Where files have other residues resolved, or are of other molecules, a mask says which places each
            fills (see `layout`).
        atoms: `ca`, one point a residue, or `heavy`, all atoms but hydrogen.
        held_out: share of the user's files (or of the structures of a single file) that is held out.
        rotations: of the training frames about the reference pose: `none`, `small` (0.1 rad) or `all`.
        align: whether targets are superposed on beliefs; without, only translations are divided out.
        scale: Angstrom a unit; near the root mean square coordinate, which networks take as 1.
        sigma_min, sigma_max: of the path, in units of `scale`.
        network: keywords of `ChainNetwork`.
        on_bad: `stop` at a file that cannot be read, or `skip` it.
        teacher_steps: steps of the full teacher, first order: a step is one call, as a student's is.

    Metrics: see `metrics.evaluate`; against the held-out structures of the same molecule.
    """

    title = "Adenylate kinase between open and closed"
    primary = Metric("energy", "lower")
    data_hint = "`omnidistill data fetch adk` gets it"
    path: GaussianPath

    def __init__(
        self,
        folder: str | None = None,
        atoms: str = "ca",
        held_out: float = 0.2,
        rotations: str = "small",
        align: bool = True,
        scale: float = 10.0,
        sigma_min: float = 0.01,
        sigma_max: float = 20.0,
        network: Mapping[str, Any] | None = None,
        teacher_steps: int = 32,
        name: str = "coordinates/adk",
        on_bad: str = "stop",
    ) -> None:
        if rotations not in ROTATIONS:
            raise unknown("choice of rotations", rotations, ROTATIONS)
        if not 0.0 < sigma_min < sigma_max:
            raise UserError(f"sigmas need 0 < sigma_min < sigma_max, got {sigma_min:g} and {sigma_max:g}")
        if not scale > 0.0:
            raise UserError(f"scale must be a positive number of Angstrom, got {scale}")
        self.name, self.folder, self.atoms, self.share = name, folder, atoms, held_out
        self.on_bad = on_bad
        self.rotations, self.scale, self.teacher_steps = rotations, float(scale), int(teacher_steps)
        self.path = edm(sigma_min, sigma_max, symmetry=RigidMotion() if align else Centred())
        self._network = dict(network or {})
        self._within: dict[int, Tensor] = {}
        self.shape = (self._layout.size, 3)

    # --- data -------------------------------------------------------------------------------------------------------

    @cached_property
    def _split(self) -> data.Split | None:
        if self.folder is not None:
            return data.own(self.folder, self.atoms, self.share, self.on_bad)
        return data.adk(self.atoms) if data.adk_fetched() else None

    @cached_property
    def _layout(self) -> Layout:
        """Of all ensembles, those for training first."""
        if self._split is not None:
            return Layout([*self._split.train, *self._split.held_out])
        if self.atoms != "ca":
            raise UserError(f"{self.name} with atoms={self.atoms} needs its data at hand; {self.data_hint}")
        molecule = data.adk_molecule()
        return Layout([data.Ensemble(self.name, molecule, torch.zeros(1, len(molecule), 3))])

    def _indices(self, split: str) -> range:
        """The places in the layout of a split's ensembles."""
        assert self._split is not None
        count = len(self._split.train)
        return range(count) if split == "train" else range(count, len(self._layout.ensembles))

    @cached_property
    def _frames(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By split: superposed frames, Float32[f n 3] in units of `scale`, zero where nothing is, and which ensemble
        each is of, Long[f]."""
        poses: dict[int, Pose] = {}
        found = {}
        for split in ("train", "held_out"):
            frames, which = [], []
            for index in self._indices(split):
                x, (kind, rows) = (
                    self._layout.ensembles[index].frames / self.scale,
                    self._layout.places[index],
                )
                pose = poses.setdefault(kind, (rows, RigidMotion().project(x[0].double())))
                frames.append(self._layout.spread(superposed(x, rows, pose), index))
                which.append(torch.full((len(x),), index))
            found[split] = (torch.cat(frames), torch.cat(which))
        return found

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if self._split is None:
            return Batch(None, Context(), count)
        return self._drawn(*self._frames["train" if split == "train" else "held_out"], count, g)

    def _drawn(self, frames: Tensor, which: Tensor, count: int, g: torch.Generator) -> Batch:
        rows = torch.randint(len(frames), (count,), generator=g, device=g.device).cpu()
        mask = self._layout.masks[which[rows]].unsqueeze(-1) if self._layout.ragged else None
        return Batch(rotated(frames[rows], self.rotations, g), Context(mask=mask))

    # --- networks ---------------------------------------------------------------------------------------------------

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        return ChainNetwork(self.shape[0], **self._network, target_time=target_time, guidance=guidance)

    def reading(self) -> Mapping[str, Any]:
        return {"parameterisation": "edm", "time_input": "log_sigma/4", "sigma_data": 1.0}

    def sampler(self) -> Sampler:
        # Fresh noise mends what earlier steps got wrong, which Euler's rule carries to the end.
        return Ancestral()

    def shipped_teacher(self) -> FilePath | None:
        return TEACHERS / "adk" if self.folder is None and self.atoms == "ca" else None

    # --- what is good, and what is shown ---------------------------------------------------------------------------

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        """Metrics of `metrics.evaluate`; of each set of points on its own, averaged over samples.

        Held-out structures need not have the same residues resolved: see `Layout.comparable`."""
        total: dict[str, float] = {}
        for rows, x, real, within, (bonds, lengths) in self._judged(x0, context):
            for key, value in metrics.evaluate(x, real, bonds, lengths, within).items():
                total[key] = total.get(key, 0.0) + value * len(rows) / len(x0)
        return total

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        total = torch.zeros(len(counts), dtype=torch.float64)
        for rows, x, real, within, _ in self._judged(x0, context):
            drawn = counts[:, rows]
            # A set of points that a resample leaves out weighs nothing in it.
            share, energy = drawn.sum(1) / len(x0), metrics.bootstrap(x, real, within, drawn)
            total += torch.where(share > 0, share * energy, 0.0)
        return total

    def _judged(
        self, x0: Tensor, context: Context
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]]:
        """For each set of points the rows of its samples, those samples and the held-out structures in Angstrom, on
        the points that they share, the aligned RMSDs among the latter, computed once, and bonds with their lengths."""
        if self._split is None:
            raise UserError(f"{self.name} judges samples by held-out structures; {self.data_hint}")
        frames, which = self._frames["held_out"]
        for index, rows in self._by_molecule(x0, context).items():
            references, places = self._layout.comparable(index, self._indices("held_out"))
            if not references:
                points = int(self._layout.masks[index].sum())
                raise UserError(
                    f"no held-out structure shares the residues of the {points} points that {len(rows)} samples have"
                )
            real = frames[torch.isin(which, torch.tensor(references))][:, places] * self.scale
            if index not in self._within:
                self._within[index] = metrics.rmsd_matrix(real, real)[0]
            x = x0.detach().cpu()[rows][:, places].double() * self.scale
            yield rows, x, real, self._within[index], self._layout.part(index, places)

    def floor(self, count: int, g: torch.Generator) -> dict[str, float]:
        """Of training structures that held-out ones can be compared with."""
        if self._split is None:
            return {}
        held_out = self._indices("held_out")
        known = [i for i in self._indices("train") if self._layout.comparable(i, held_out)[0]]
        frames, which = self._frames["train"]
        inside = torch.isin(which, torch.tensor(known))
        if not inside.any():
            return {}
        real = self._drawn(frames[inside], which[inside], count, g)
        assert real.x0 is not None
        return self.measure(real.x0, real.context, g)

    def _by_molecule(self, x0: Tensor, context: Context) -> dict[int, Tensor]:
        """The samples, by the first ensemble that has just their points."""
        if x0.shape[1:] != self.shape or not len(x0):
            raise UserError(f"{self.name} has structures of {(len(x0), *self.shape)}, got {tuple(x0.shape)}")
        masks = torch.ones(len(x0), self.shape[0], dtype=torch.bool)
        if context.mask is not None:
            masks = context.mask.cpu().expand(*x0.shape[:2], 1).squeeze(-1)
        patterns, which = masks.unique(dim=0, return_inverse=True)
        found: dict[int, Tensor] = {}
        for number, pattern in enumerate(patterns):
            index = self._layout.find(pattern)
            if index is None:
                raise UserError(
                    f"{self.name} has no molecule of the {int(pattern.sum())} points that a mask leaves"
                )
            found[index] = torch.nonzero(which == number).squeeze(1)
        return found

    def file_suffix(self) -> str:
        return ".pdb"

    def file_suffixes(self) -> tuple[str, ...]:
        return (".png", ".pdb", ".cif")

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of superposed backbones, and all samples as models of PDB and mmCIF files, two a molecule."""
        groups = []
        for index, rows in self._by_molecule(x0, context).items():
            x = x0.detach().cpu()[rows][:, self._layout.places[index].rows].double()
            groups.append((self._layout.ensembles[index].molecule, x * self.scale))
        return write_structures(groups, target, self.title if self.folder is None else self.name)
