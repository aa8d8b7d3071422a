"""Several teachers from the command line: each sample is taught by the one that its label names."""

import json

import pytest
import torch

from omnidistill.cli import main
from omnidistill.configuration.compose import compose
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.runs import distil, pairs, setup, teachers

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
    given = [
        *TINY,
        "recipe=diffusionopd",
        "out=unused",
        f"teachers.a={folder / 'a'}",
        f"teachers.b={folder / 'b'}",
    ]
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
    words = [
        f"teachers.a={folder / 'a'}",
        f"teachers.b={folder / 'b'}",
        "route={a: [0, 1]}",
        f"out={tmp_path / 'c'}",
    ]
    given = [*TINY, "task.network={width: 8, depth: 1}", *words]
    assert main(["distill", "recipe=flow-opd", "student.steps=2", *given]) == 0
    document = json.loads((tmp_path / "c" / "metrics.json").read_text())
    assert document["training"]["calls"]["teacher"] > 0
    assert main(["evaluate", str(tmp_path / "c"), "steps=2"]) == 0


def test_drawn_teachers_need_no_labels(folder, tmp_path):
    """In training each is asked in about half of the turns; as one teacher they answer for every other row."""
    unlabelled = []
    for index, name in enumerate("ab"):
        words = ["distill", *TINY, "task.conditional=false", "recipe=diffusion-nft", f"seed={index}"]
        assert main([*words, f"out={tmp_path / name}"]) == 0
        unlabelled.append(f"teachers.{name}={tmp_path / name}")
    given = [*TINY, "task.conditional=false", *unlabelled, "route=drawn", "updates=20", "student.steps=2"]
    assert main(["distill", "recipe=diffusionopd", *given, f"out={tmp_path / 'c'}"]) == 0
    document = json.loads((tmp_path / "c" / "metrics.json").read_text())
    assert document["training"]["calls"]["teacher"] > 0
    assert main(["evaluate", str(tmp_path / "c"), "steps=2"]) == 0
    cfg = compose("config", [*given, "recipe=diffusionopd", "out=unused"])
    task = setup.task_of(cfg)
    teacher = setup.teacher_of(cfg, task, "cpu")
    asked = distil.train_student(cfg, task, teacher, tmp_path / "d", "cpu").module.teacher.denoisers
    first, second = (one.calls for _, one in asked)
    assert first > 0 < second and teacher.calls == 0
    x, t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5).double()
    with torch.no_grad():
        found = teacher(x, t, Context()).mean
        a, b = (teachers.opened(str(tmp_path / name), task, "cpu")(x, t, Context()).mean for name in "ab")
    assert torch.equal(found[::2], a[::2]) and torch.equal(found[1::2], b[1::2])
    assert (a - b).abs().max() > 1e-4


def test_drawn_teachers_are_guided_each(folder):
    cfg = config(folder, "route=drawn")
    task = setup.task_of(cfg)
    teacher = setup.teacher_of(cfg, task, "cpu")
    alone = [teachers.opened(str(folder / name), task, "cpu") for name in "ab"]
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5).double()
    labels = Context(torch.tensor([0, 1, 2, 0]))
    with torch.no_grad():
        found = setup.guided(teacher, task, 2.0)(x, t, labels).mean
        a, b = (setup.guided(one, task, 2.0)(x, t, labels).mean for one in alone)
    assert torch.equal(found[::2], a[::2]) and torch.equal(found[1::2], b[1::2])
    assert teacher.calls == 2


def test_a_store_knows_whose_trajectories_it_holds(folder):
    """Two of several teachers are not the one, and another route is another teacher."""
    told = []
    for more in (("route.a=[0]",), ("route.a=[1]",), ("route=drawn",)):
        cfg = config(folder, *more)
        task = setup.task_of(cfg)
        teacher = setup.teacher_of(cfg, task, "cpu")
        told.append(pairs.digest_of(teacher, {}, setup.plain(cfg.route)))
    told += [pairs.digest_of(teachers.opened(str(folder / name), task, "cpu"), {}) for name in "ab"]
    told.append(pairs.digest_of(task.exact_teacher(), {}))
    assert len(set(told)) == 6


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
    with pytest.raises(UserError, match=r"labels by the name of a teacher, or drawn, got 'even'"):
        config(folder, "route=even")
    words = [
        "distill",
        *TINY,
        "recipe=diffusionopd",
        f"out={tmp_path / 'x'}",
        "teachers.a=nowhere",
        "teachers.b=x",
    ]
    assert main(words) == 2
    assert "teachers.a=nowhere does not exist" in capsys.readouterr().err


def test_a_route_without_teachers_leaves_nothing_behind(capsys, tmp_path):
    assert main(["distill", *TINY, "recipe=diffusionopd", f"out={tmp_path / 'x'}", "route=drawn"]) == 2
    assert "route=drawn chooses among several teachers, and none are named" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
