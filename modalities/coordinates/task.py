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
from omnidistill.modalities.coordinates.networks import ChainNetwork
from omnidistill.modalities.coordinates.poses import ROTATIONS, Centred, rotated, superposed
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
            gets it. Molecules of several lengths are padded to the longest, with a mask.
        atoms: `ca`, one point a residue, or `heavy`, all atoms but hydrogen.
        held_out: share of the user's files (or of the structures of a single file) that is held out.
        rotations: of the training frames about the reference pose: `none`, `small` (0.1 rad) or `all`.
        align: whether targets are superposed on beliefs; without, only translations are divided out.
        scale: Angstrom a unit; near the root mean square coordinate, which networks take as 1.
        sigma_min, sigma_max: of the path, in units of `scale`.
        network: keywords of `ChainNetwork`.
        on_bad: `stop` at a file that cannot be read, or `skip` it.
        teacher_steps: steps of the full teacher, first order: a step is one call, as a student's is.

    Metrics: see `metrics.evaluate`; against all held-out structures with as many points.
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
        self.shape = (max(len(molecule) for molecule in self._molecules), 3)

    # --- data -------------------------------------------------------------------------------------------------------

    @cached_property
    def _split(self) -> data.Split | None:
        if self.folder is not None:
            return data.own(self.folder, self.atoms, self.share, self.on_bad)
        return data.adk(self.atoms) if data.adk_fetched() else None

    @cached_property
    def _molecules(self) -> list[data.Molecule]:
        if self._split is not None:
            return [e.molecule for e in (*self._split.train, *self._split.held_out)]
        if self.atoms != "ca":
            raise UserError(f"{self.name} with atoms={self.atoms} needs its data at hand; {self.data_hint}")
        return [data.adk_molecule()]

    @cached_property
    def _frames(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By split: superposed frames, Float32[f n 3] in units of `scale`, padded with zeros, and lengths, Long[f]."""
        split, size = self._split, self.shape[0]
        assert split is not None
        poses: dict[int, Tensor] = {}
        found = {}
        for name in ("train", "held_out"):
            frames, lengths = [], []
            for ensemble in getattr(split, name):
                x = superposed(ensemble.frames / self.scale, poses)
                frames.append(torch.nn.functional.pad(x, (0, 0, 0, size - x.shape[1])))
                lengths.append(torch.full((len(x),), x.shape[1]))
            found[name] = (torch.cat(frames), torch.cat(lengths))
        return found

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        if self._split is None:
            return Batch(None, Context(), count)
        frames, lengths = self._frames["train" if split == "train" else "held_out"]
        rows = torch.randint(len(frames), (count,), generator=g, device=g.device).cpu()
        return Batch(rotated(frames[rows], self.rotations, g), self._context(lengths[rows]))

    def _context(self, lengths: Tensor) -> Context:
        size = self.shape[0]
        if all(len(molecule) == size for molecule in self._molecules):
            return Context()
        return Context(mask=(torch.arange(size) < lengths.unsqueeze(1)).unsqueeze(-1))

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
        """Metrics of `metrics.evaluate`; where lengths differ, of each length, averaged over samples."""
        total: dict[str, float] = {}
        for rows, x, real, within in self._judged(x0, context):
            molecule = self._molecule(x.shape[1])
            found = metrics.evaluate(x, real, molecule.bonds, molecule.lengths, within)
            for key, value in found.items():
                total[key] = total.get(key, 0.0) + value * len(rows) / len(x0)
        return total

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        total = torch.zeros(len(counts), dtype=torch.float64)
        for rows, x, real, within in self._judged(x0, context):
            drawn = counts[:, rows]
            # A length that a resample leaves out weighs nothing in it.
            share, energy = drawn.sum(1) / len(x0), metrics.bootstrap(x, real, within, drawn)
            total += torch.where(share > 0, share * energy, 0.0)
        return total

    def _judged(self, x0: Tensor, context: Context) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each length the rows of its samples, those samples and the held-out structures in Angstrom, and the
        aligned RMSDs among the latter, computed once."""
        if self._split is None:
            raise UserError(f"{self.name} judges samples by held-out structures; {self.data_hint}")
        frames, lengths = self._frames["held_out"]
        for length, rows in self._by_length(x0, context).items():
            real = frames[lengths == length][:, :length] * self.scale
            if not len(real):
                raise UserError(f"no held-out structure has {length} points, as {len(rows)} samples have")
            if length not in self._within:
                self._within[length] = metrics.rmsd_matrix(real, real)[0]
            yield rows, x0.detach().cpu()[rows, :length].double() * self.scale, real, self._within[length]

    def _by_length(self, x0: Tensor, context: Context) -> dict[int, Tensor]:
        if x0.shape[1:] != self.shape or not len(x0):
            raise UserError(f"{self.name} has structures of {(len(x0), *self.shape)}, got {tuple(x0.shape)}")
        size = torch.full((len(x0),), self.shape[0])
        counts = size if context.mask is None else context.mask.cpu().expand(*x0.shape[:2], 1).sum((1, 2))
        return {int(n): torch.nonzero(counts == n).squeeze(1) for n in counts.unique()}

    def _molecule(self, length: int) -> data.Molecule:
        """The molecule with this many points; of several the first, for nothing tells them apart."""
        return next(molecule for molecule in self._molecules if len(molecule) == length)

    def file_suffix(self) -> str:
        return ".pdb"

    def file_suffixes(self) -> tuple[str, ...]:
        return (".png", ".pdb", ".cif")

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture of superposed backbones, and all samples as models of PDB and mmCIF files, one of each a length."""
        groups = [
            (self._molecule(length), x0.detach().cpu()[rows, :length].double() * self.scale)
            for length, rows in self._by_length(x0, context).items()
        ]
        return write_structures(groups, target, self.title if self.folder is None else self.name)
