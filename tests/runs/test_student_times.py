"""A student keeps where its steps lie and how it goes on: saved, loaded, evaluated."""

import json
from pathlib import Path

import pytest
import torch

from omnidistill import paths
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.student import Recipe, load, save


class Half(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.scale * x * time[:, None]


def kept(folder: Path, **sampling: object) -> Path:
    student = NetworkDenoiser(Half(), paths.rectified_flow(), "x0")
    recipe = Recipe(None, student.reading(), steps=4, made_by={"shape": [3]}, **sampling)  # type: ignore[arg-type]
    save(student, recipe, folder)
    return folder


CHOICES = [
    {"times": [1.0, 0.9375, 0.8333, 0.625]},
    {"shift": 5.0},
    {"transition": "gamma", "gamma": 0.3, "shift": 2.0},
]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_loaded_student_samples_as_it_was_trained(tmp_path: Path, choice: dict[str, object]) -> None:
    student = load(kept(tmp_path, **choice), network=Half(), path=paths.rectified_flow())
    wanted = Recipe(None, {}, **choice).sampler()  # type: ignore[arg-type]
    assert torch.equal(student.sampler.times(student.denoiser, 4), wanted.times(student.denoiser, 4))
    assert (student.sampler.transition, student.sampler.gamma) == (wanted.transition, wanted.gamma)
    plain = load(kept(tmp_path), network=Half(), path=paths.rectified_flow())
    assert not torch.equal(student.sample(8, seed=1), plain.sample(8, seed=1))


def test_a_student_of_before_has_even_times(tmp_path: Path) -> None:
    file = kept(tmp_path) / "student.json"
    document = json.loads(file.read_text())
    for key in ("times", "shift", "gamma"):
        del document[key]
    file.write_text(json.dumps(document))
    student = load(tmp_path, network=Half(), path=paths.rectified_flow())
    assert student.sampler.times(student.denoiser, 4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("wrong", [
    {"times": "1,0.5"}, {"times": ["1"]}, {"times": [1.0, float("nan")]}, {"times": []}, {"shift": "5"},
    {"shift": -1.0},
    {"gamma": "half", "transition": "gamma"}, {"times": [True, 0.5]},
])  # fmt: skip
def test_a_received_student_with_senseless_times_is_one_line(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    file = kept(tmp_path) / "student.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong}))
    with pytest.raises(UserError) as error:
        load(tmp_path, network=Half(), path=paths.rectified_flow())
    assert "\n" not in str(error.value)
