"""The teacher that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.modalities.coordinates import data
from omnidistill.modalities.coordinates.task import TEACHERS, Ensemble
from omnidistill.random import generator
from omnidistill.student import read_denoiser, read_recipe


def test_the_shipped_teacher_makes_whole_right_handed_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without data: neighbouring residues are 3.8 Angstrom apart, helices turn as proteins' do, and samples differ; an
    untrained network's bonds are noise."""
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))
    data.adk.cache_clear()
    record = read_recipe(TEACHERS / "adk", "teacher")
    made_by = json.loads((TEACHERS / "adk" / "teacher.json").read_text())["made_by"]
    assert made_by["command"].startswith("omnidistill train task=coordinates/adk") and made_by["seed"] == 0
    assert sum(file.stat().st_size for file in (TEACHERS / "adk").iterdir()) < 8e6
    task = Ensemble(network=record.task["network"])
    teacher, _ = read_denoiser(TEACHERS / "adk", "teacher", task, "cpu")
    untrained = NetworkDenoiser(task.network(), task.path, **task.reading())

    def samples(denoiser: Denoiser) -> torch.Tensor:
        with torch.no_grad():
            x0 = (
                task.sampler()
                .sample(denoiser, task.like(6), 8, task.contexts(6, generator(0)), g=generator(1))
                .x0
            )
        return x0.double() * task.scale

    def valid_bonds(x: torch.Tensor) -> float:
        return float(((x.diff(dim=1).norm(dim=-1) - 3.8).abs() < 0.2).double().mean())

    x = samples(teacher)
    assert valid_bonds(x) > 0.9 > 0.3 > valid_bonds(samples(untrained))
    # Four residues of an alpha helix are a right-handed turn of 50 degrees; a mirror image's would be one of -50.
    a, b, c = x.diff(dim=1).unfold(1, 3, 1).unbind(-1)
    turn = torch.atan2(
        (a * torch.linalg.cross(b, c)).sum(-1) * b.norm(dim=-1),
        (torch.linalg.cross(a, b) * torch.linalg.cross(b, c)).sum(-1),
    ).rad2deg()
    right, left = ((side * turn - 50).abs() < 15 for side in (1, -1))
    assert (
        float(right.double().mean()) > 10 * float(left.double().mean()) and float(right.double().mean()) > 0.3
    )
    assert (
        float((x[1:] - x[0]).square().sum(-1).mean(-1).sqrt().min()) > 0.3
    )  # after 8 steps they are not one shape
