"""`sample DIR input=... out=...`: one sample for each of the user's own inputs, and no harm to any of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.cli import main
from omnidistill.configuration import compose as config
from omnidistill.configuration.instantiation import build
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import BridgeTask
from omnidistill.paths import rectified_flow
from omnidistill.samplers import FewStep
from omnidistill.student import Recipe, Student, save
from omnidistill.tasks import Task

DIM = 4


def inputs(task: BridgeTask, source: Path) -> Iterator[tuple[str, Context | UserError]]:
    """Vectors in json files, as a task with an anchor would read recordings."""
    files = [source] if source.is_file() else sorted(source.rglob("*.json"))
    for file in files:
        name = file.relative_to(source.parent if source.is_file() else source).with_suffix("").as_posix()
        row = json.loads(file.read_text())
        if isinstance(row, dict):
            name, row = row["id"], row["y"]
        yield (
            name,
            Context(anchor=torch.tensor([row]))
            if len(row) == DIM
            else UserError(f"{len(row)} of {DIM} numbers"),
        )


def write(task: BridgeTask, x0: Tensor, context: Context, target: Path) -> Path:
    file = target.with_name(target.name + ".json")
    file.write_text(json.dumps(x0[0].tolist()))
    return file


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A student that has learned nothing yet, of a task that reads vectors."""
    monkeypatch.setattr(BridgeTask, "inputs", inputs)
    monkeypatch.setattr(BridgeTask, "write", write)
    given = [
        "task=exact/bridge",
        f"task.dim={DIM}",
        "task.network={width: 8, depth: 1}",
        "recipe=rose-cd",
        "out=x",
    ]
    cfg = config.compose("config", given)
    task = build(cfg.task)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = NetworkDenoiser(task.network(), task.path, **task.reading())
    folder = tmp_path / "run"
    folder.mkdir()
    settings = config.save_config(cfg, folder)
    assert settings.is_file()
    from omegaconf import OmegaConf

    save(denoiser, Recipe(task=OmegaConf.to_container(cfg.task), reading=dict(task.reading())), folder)
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Three inputs in two folders, one of them bad."""
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_text("[0.1, 0.2, 0.3, 0.4]")
    (folder / "b.json").write_text("[1.0]")
    (folder / "sub" / "c.json").write_text("[1.0, 2.0, 3.0, 4.0]")
    return folder


def sampled(run: Path, *words: str) -> int:
    return main(["sample", str(run), "device=cpu", *words])


def test_every_input_gets_a_sample_and_a_bad_one_is_named(
    run: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    before = {file: file.read_bytes() for file in mine.rglob("*.json")}
    assert sampled(run, f"input={mine}", f"out={out}", "steps=2", "seed=3") == 2
    done = capsys.readouterr()
    assert done.out.split() == [str(out / "a.json"), str(out / "sub" / "c.json")]
    assert done.err.strip().splitlines() == ["error: b: 1 of 4 numbers"]
    assert {file: file.read_bytes() for file in mine.rglob("*.json")} == before
    made = json.loads((out / "sub" / "c.json").read_text())
    student = omnidistill.load(run)
    ((_, x0, context),) = student.sample_for(mine / "sub" / "c.json", steps=2, seed=3)
    assert not isinstance(x0, UserError) and torch.equal(context.anchor, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert x0.shape == (1, DIM)
    other = dict((name, x) for name, x, _ in student.sample_for(mine, steps=2, seed=3))
    assert made == other["sub/c"][0].tolist()
    again = dict((name, x) for name, x, _ in student.sample_for(mine, steps=2, seed=4))
    assert not torch.equal(again["sub/c"], other["sub/c"]), "the seed counts"


def test_a_sample_does_not_depend_on_its_neighbours(run: Path, mine: Path) -> None:
    student = omnidistill.load(run)
    whole = {name: x0 for name, x0, _ in student.sample_for(mine)}
    (mine / "a.json").unlink()
    fewer = {name: x0 for name, x0, _ in student.sample_for(mine)}
    assert torch.equal(whole["sub/c"], fewer["sub/c"])


def test_one_file_alone(run: Path, mine: Path, tmp_path: Path) -> None:
    assert sampled(run, f"input={mine / 'a.json'}", f"out={tmp_path / 'out'}") == 0
    assert os.listdir(tmp_path / "out") == ["a.json"]


def test_inputs_of_one_name_do_not_overwrite_one_another(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(3):
        row = {"id": "same", "y": [float(number)] * DIM}
        (mine / f"{number}.json").write_text(json.dumps(row))
    assert sampled(run, f"input={mine}", f"out={tmp_path / 'out'}") == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["same.json", "same_2.json", "same_3.json"]


@pytest.mark.parametrize("name", ["../escaped", "/{}/escaped"])
def test_a_name_leads_nowhere_else(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"id": name.format(tmp_path), "y": [0.0] * DIM}))
    assert sampled(run, f"input={tmp_path / 'one.json'}", f"out={tmp_path / 'out'}") == 2
    assert "leads out of" in capsys.readouterr().err
    assert not list(tmp_path.glob("escaped*"))


@pytest.mark.parametrize(
    "words, said",
    [
        (("input=nowhere", "out=out"), "input=nowhere does not exist"),
        (("input=mine", "out=mine"), "out=mine is where the inputs are"),
        (("input=mine/a.json", "out=mine"), "out=mine is where the inputs are"),
        (("input=mine", "out=mine/made"), "out=mine/made is where the inputs are"),
        (("input=mine", "out=full"), "out=full is not empty"),
        (("input=empty", "out=out"), "input=empty holds nothing that exact/bridge can read"),
        (("input=mine", "out=out", "count=3"), "count has no effect with input="),
        (("input=mine", "out=out", "condition=3"), "condition has no effect with input="),
        (("input=mine",), "out is missing"),
    ],
)
def test_mistakes(
    run: Path,
    mine: Path,
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.json").write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert sampled(run, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_task_that_reads_no_inputs_says_so(
    run: Path, mine: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(BridgeTask, "inputs", Task.inputs)
    assert sampled(run, f"input={mine}", f"out={tmp_path / 'out'}") == 2
    assert "exact/bridge samples from nothing but noise" in capsys.readouterr().err


class Mirror(nn.Module):
    """Answers with the anchor it was shown, and keeps how much that was at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.lengths: list[int] = []

    def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor | None = None, **more: object) -> Tensor:
        self.lengths.append(x.shape[-1])
        assert anchor is not None
        return anchor + 0.0 * x


def long_task(window: tuple[int, int] | None) -> Task:
    class Long(Task):
        path, shape, name = rectified_flow(), (1, 16), "long"

        def inputs(self, source: Path) -> Iterator[tuple[str, Context | UserError]]:
            for length in (10, 50):
                yield str(length), Context(anchor=torch.linspace(-1, 1, length).reshape(1, 1, length))

    Long.window = window
    return Long()


@pytest.mark.parametrize("window, seen", [(None, {10, 50}), ((16, 4), {10, 16})])
def test_long_inputs_are_sampled_in_windows(
    window: tuple[int, int] | None, seen: set[int], anchored: Callable
) -> None:
    network = Mirror()
    student = Student(anchored(network), FewStep("renoise"), 2, long_task(window))
    made = {name: x0 for name, x0, _ in student.sample_for("anywhere")}
    assert set(network.lengths) == seen
    assert {name: x0.shape[-1] for name, x0 in made.items()} == {"10": 10, "50": 50}
    torch.testing.assert_close(made["50"], torch.linspace(-1, 1, 50).reshape(1, 1, 50))  # no seam


@pytest.fixture
def anchored() -> Callable[[nn.Module], NetworkDenoiser]:
    return lambda network: NetworkDenoiser(network, rectified_flow(), parameterisation="x0", time_input="t")
