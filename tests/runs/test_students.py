"""Students that leave their run: saved, loaded, asked with another condition, judged again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.cli import main
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import rectified_flow

SMALL = [
    *("threads=1", "device=cpu", "task.teacher_steps=4", "updates=3", "fit.updates=3", "batch=16"),
    *("evaluation.samples=64", "steps=1,2"),
]
MIXTURE = ["task=exact/gaussian_mixture", "task.network={width: 32, depth: 1}"]
CHAIN = ["task=exact/markov_text", "task.network={width: 32, depth: 1, heads: 2}"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that learned a range of guidance scales, in a folder with a name that needs quoting."""
    out = tmp_path_factory.mktemp("runs") / "a student's, told"
    labelled = [*MIXTURE, "task.conditional=true", "guidance=2"]
    assert main(["distill", *labelled, "recipe=lcm", *SMALL, f"out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def random_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tokens"
    assert main(["distill", *CHAIN, "recipe=di-m-o", *SMALL, f"out={out}"]) == 0
    return out


@pytest.mark.parametrize("name", ["told", "random_start"])
def test_a_reloaded_student_is_the_one_that_was_trained(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    before = json.loads((run / "metrics.json").read_text())  # of the student in memory
    assert main(["evaluate", str(run)]) == 0
    after = json.loads((run / "metrics.json").read_text())  # of the student from its file
    assert [p["metrics"] for p in after["student"]] == [p["metrics"] for p in before["student"]]
    assert after["training"] == before["training"]


def test_a_reloaded_student_is_told_its_guidance(told: Path, tmp_path: Path) -> None:
    student = omnidistill.load(told)
    usual = student.sample(8, steps=1, seed=0)
    document = json.loads((told / "student.json").read_text())
    assert document["guidance"] == 2.0 and document["guided"]
    (tmp_path / "student.safetensors").write_bytes((told / "student.safetensors").read_bytes())
    (tmp_path / "student.json").write_text(json.dumps({**document, "guidance": 4.0}))
    assert not torch.equal(omnidistill.load(tmp_path).sample(8, steps=1, seed=0), usual)


def test_a_reloaded_student_starts_from_random_tokens(random_start: Path) -> None:
    student = omnidistill.load(random_start)
    start = student.denoiser.path.prior(
        torch.empty(400, 24, dtype=torch.long), g=torch.Generator().manual_seed(0)
    )
    share = float((start != student.denoiser.path.mask_id).double().mean())
    assert share == pytest.approx(0.4, abs=0.03)
    assert student.sample(5).shape == (5, 24) and int(student.sample(5).max()) < 12


def test_resuming_a_finished_run_changes_nothing(random_start: Path) -> None:
    before = (random_start / "student.safetensors").read_bytes()
    calls = json.loads((random_start / "metrics.json").read_text())["training"]["calls"]
    assert main(["distill", *CHAIN, "recipe=di-m-o", *SMALL, f"out={random_start}", "resume=true"]) == 0
    assert (random_start / "student.safetensors").read_bytes() == before
    assert json.loads((random_start / "metrics.json").read_text())["training"]["calls"] == calls


def test_samples_of_one_condition(told: Path, tmp_path: Path) -> None:
    student = omnidistill.load(told)
    first, second = (student.sample(16, steps=1, seed=0, condition=label) for label in (1, 2))
    assert not torch.equal(first, second), "the label reaches the network"
    assert torch.equal(first, student.sample(16, steps=1, seed=0, condition=torch.full((16,), 1)))
    assert main(["sample", str(told), "condition=1", "count=16", "steps=1", f"out={tmp_path / 'made'}"]) == 0
    rows = [r for r in (tmp_path / "made.csv").read_text().split() if r[0].isdigit() or r[0] == "-"]
    written = torch.tensor([[float(x) for x in row.split(",")[:2]] for row in rows])
    assert torch.allclose(written, first, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("told", ["condition=8"], "a label from 0 to 7, got 8"),
        ("random_start", ["condition=1"], "exact/markov_text is not conditional"),
        ("told", ["steps=0"], "at least 1, got 0"),
    ],
)
def test_what_a_student_cannot_be_asked(
    name: str,
    words: list[str],
    said: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    run = request.getfixturevalue(name)
    capsys.readouterr()
    assert main(["sample", str(run), "count=2", *words, f"out={tmp_path / 'x'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reading": {"parametrisation": "flow"}}, "did you mean parameterisation"),
        ({"task": {"_target_": "os.system", "command": "true"}}, "task: _target_ 'os.system' is outside"),
        ({"schema": 7}, "another schema"),
        ({"colour": "red"}, "not a description of a saved model"),
    ],
)
def test_a_description_that_is_none(told: Path, tmp_path: Path, change: dict, said: str) -> None:
    (tmp_path / "student.safetensors").write_bytes((told / "student.safetensors").read_bytes())
    document = json.loads((told / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(omnidistill.UserError, match=re.escape(said)):
        omnidistill.load(tmp_path)


def test_evaluate_refuses_what_training_was_told(told: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(told), "optim.lr=3"]) == 2
    assert "evaluate takes no optim.lr" in capsys.readouterr().err


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Dropout(0.5), nn.Linear(16, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat((x, t[:, None]), 1))


def test_a_student_of_ones_own_module_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = NetworkDenoiser(Velocity(), rectified_flow(), "flow")
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    out = tmp_path / "it's my own"
    options = ["families.regression.pairs=32", "families.regression.steps=2", "threads=1"]
    student = omnidistill.distill(
        teacher,
        "dmd",
        shape=(2,),
        data=torch.zeros(4, 2),
        out=out,
        options=options,
        updates=3,
        batch=8,
        device="cpu",
    )
    loaded = omnidistill.load(out, network=Velocity(), path=rectified_flow())
    assert torch.equal(loaded.sample(7, seed=3), student.sample(7, seed=3))
    assert not torch.equal(loaded.denoiser.network.layers[0].weight, weights["network.layers.0.weight"])
    # The user's own teacher stays as it was: mode, gradients, weights, count.
    assert teacher.training and all(p.requires_grad for p in teacher.parameters()) and teacher.calls == 0
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    with pytest.raises(omnidistill.UserError, match="your own module"):
        omnidistill.load(out)


def test_a_bare_module_is_no_teacher() -> None:
    with pytest.raises(omnidistill.UserError, match="NetworkDenoiser"):
        omnidistill.distill(Velocity(), "dmd", shape=(2,))
