"""A teacher is asked about the data before it is distilled: ours pass, one that is read wrongly ends with status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from omnidistill.cli import main
from omnidistill.configuration.compose import build, compose
from omnidistill.denoisers.plausible import doubt
from omnidistill.runs.setup import samples_of
from omnidistill.student import read_denoiser
from omnidistill.tasks import Task

WITH_DATA = ("image/digits", "image/fashion_mnist_pixels", "image/fashion_mnist")
"""Tasks whose data, at least the held-out ones, come with the package."""


def task_of(name: str) -> Task:
    return build(compose("train", [f"task={name}", "out=unused"]).task)


@pytest.mark.parametrize("name", WITH_DATA)
def test_shipped_teachers_are_not_doubted_about_their_own_data(name: str) -> None:
    task = task_of(name)
    shipped = task.shipped_teacher()
    assert shipped is not None
    batch = samples_of(task, 0)
    assert batch.x0 is not None
    assert doubt(read_denoiser(shipped, "teacher", task)[0], batch.x0, batch.context) is None


def test_a_teacher_that_is_read_wrongly_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shipped = task_of("image/digits").shipped_teacher()
    assert shipped is not None
    shutil.copytree(shipped, tmp_path / "teacher")
    file = tmp_path / "teacher" / "teacher.json"
    document = json.loads(file.read_text())
    truly = document["reading"]["parameterisation"]
    document["reading"]["parameterisation"] = "x0" if truly != "x0" else "eps"
    file.write_text(json.dumps(document))
    words = ["distill", "task=image/digits", "recipe=consistency-models", "updates=1", "device=cpu"]
    assert main([*words, f"teacher={tmp_path / 'teacher'}", f"out={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and f"read as parameterisation '{truly}'" in said[0]
