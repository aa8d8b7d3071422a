"""The teacher that comes with the package."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.modalities.audio.task import SIGNATURE, TEACHERS, TRACKS, Music
from omnidistill.random import generator
from omnidistill.student import read_denoiser


def test_the_shipped_teacher_knows_its_tracks(tmp_path, monkeypatch):
    """From noise it makes the quiet track quieter than the loud one, as they are; an untrained network does not."""
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))  # it needs no data
    task = Music()
    record = json.loads((TEACHERS / "music" / "teacher.json").read_text())
    assert record["made_by"]["command"].startswith("omnidistill train task=audio/music")
    assert record["task"]["signature"] == SIGNATURE.as_dict()
    assert sum(f.stat().st_size for f in (TEACHERS / "music").iterdir()) < 8e6
    teacher, _ = read_denoiser(TEACHERS / "music", "teacher", task, "cpu")
    untrained = NetworkDenoiser(task.network(), task.path, **task.reading())
    quiet, loud = TRACKS.index("macroform-the_simplicity"), TRACKS.index("reno_project-system")
    context = replace(task.contexts(12, generator(0)), condition=torch.tensor([quiet, loud] * 6))

    def difference(denoiser):
        with torch.no_grad():
            made = task.sampler().sample(denoiser, task.like(12), 4, context, g=generator(1)).x0
        levels = made.mean((1, 2, 3)) * task.std
        return float(levels[1::2].mean() - levels[::2].mean())

    # The recordings themselves: -3.25 and -5.6 in natural logarithms.
    assert difference(teacher) > 1.2
    assert abs(difference(untrained)) < 0.3
