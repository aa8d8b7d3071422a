"""Several teachers from the command line: each sample is taught by the one that its label names."""

import json

import pytest
import torch

from omnidistill.cli import main
from omnidistill.configuration.compose import compose
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.runs import setup, teachers

TINY = (
    "task=exact/gaussian_mixture", "task.conditional=true", "task.means=[[1.5,0],[-1,1],[-0.5,-1.2]]",
    "task.network={width: 8, depth: 1}", "batch=16", "updates=2", "fit.updates=2", "steps=1", "evaluation.samples=32",
    "evaluation.transitions=[]", "task.teacher_steps=2", "optim.warmup=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("teachers")
    for index, name in enumerate("ab"):
        words = ["distill", *TINY, "recipe=diffusion-nft", f"seed={index}", f"out={made / name}"]
        assert main([*words, "task.network={width: 8, depth: 1}"]) == 0
    return made


def config(folder, *more):
    given = [*TINY, "recipe=diffusionopd", "out=unused", f"teachers.a={folder / 'a'}", f"teachers.b={folder / 'b'}"]
    return compose("config", [*given, "task.network={width: 8, depth: 1}", *more])


def test_each_label_is_answered_by_its_own(folder):
    cfg = config(folder, "route.b=[1]")
    task = setup.task_of(cfg)
    teacher = setup.teacher_of(cfg, task, "cpu")
    alone = [teachers.opened(str(folder / name), task, "cpu") for name in "ab"]
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5).double()
    labels = torch.tensor([0, 1, 2, 3])  # 3: no label, which the one without a list answers
    with torch.no_grad():
        found = teacher(x, t, Context(labels)).mean
        a, b = (one(x, t, Context(labels)).mean for one in alone)
    assert torch.equal(found[[0, 2, 3]], a[[0, 2, 3]]) and torch.equal(found[1], b[1])
    assert (a - b).abs().max() > 1e-4
    guided = setup.guided(teacher, task, 2.0)
    with torch.no_grad():
        of_b = setup.guided(alone[1], task, 2.0)(x, t, Context(labels)).mean
        assert torch.equal(guided(x, t, Context(labels)).mean[1], of_b[1])


def test_the_student_starts_from_the_first_or_from_the_base(folder):
    for more, name in (((), "a"), ((f"teacher={folder / 'b'}",), "b")):
        cfg = config(folder, "route.a=[0,1]", *more)
        task = setup.task_of(cfg)
        origin = setup.origin_of(cfg, task, setup.teacher_of(cfg, task, "cpu"), folder, "cpu")
        alone = teachers.opened(str(folder / name), task, "cpu")
        for mine, theirs in zip(origin.network.parameters(), alone.network.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_whole_run(folder, tmp_path):
    words = [f"teachers.a={folder / 'a'}", f"teachers.b={folder / 'b'}", "route={a: [0, 1]}", f"out={tmp_path / 'c'}"]
    given = [*TINY, "task.network={width: 8, depth: 1}", *words]
    assert main(["distill", "recipe=flow-opd", "student.steps=2", *given]) == 0
    document = json.loads((tmp_path / "c" / "metrics.json").read_text())
    assert document["training"]["calls"]["teacher"] > 0
    assert main(["evaluate", str(tmp_path / "c"), "steps=2"]) == 0


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ((), "route says no labels for a and b; give each its own"),
        (("route.a=[0]", "route.b=[0,1]"), "route has the label 0 twice"),
        (("route.a=[0]", "route.b=[1]"), "route has no teacher for the label 2"),
        (("route.a=[0,7]",), "route.a has the label 7; labels are from 0 to 2"),
        (("route.c=[0]",), "route names c, and the teachers are a, b"),
        (("route.a=[0]", "task.conditional=false"), "has no labels; distil from one"),
    ],
)
def test_wrong_routes_are_one_line(folder, more, line):
    cfg = config(folder, *more)
    with pytest.raises(UserError, match=line) as error:
        setup.teacher_of(cfg, setup.task_of(cfg), "cpu")
    assert "\n" not in str(error.value)


def test_what_is_no_section_or_no_folder_is_one_line(folder, capsys, tmp_path):
    with pytest.raises(UserError, match="teachers is a section of folders by the name of a teacher"):
        config(folder, "teachers=runs")
    with pytest.raises(UserError, match=r"route\.a is a label's number or name"):
        config(folder, "route.a=[0.5]")
    words = ["distill", *TINY, "recipe=diffusionopd", f"out={tmp_path / 'x'}", "teachers.a=nowhere", "teachers.b=x"]
    assert main(words) == 2
    assert "teachers.a=nowhere does not exist" in capsys.readouterr().err
