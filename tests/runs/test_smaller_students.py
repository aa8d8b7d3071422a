"""Students of another size than the teacher: fitted to its beliefs first, then distilled as any other."""

import json

import pytest
import torch
from omegaconf import open_dict

import omnidistill
from omnidistill.cli import main
from omnidistill.configuration.compose import compose
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.runs import distil, setup

TINY = (
    "task=exact/gaussian_mixture", "task.conditional=true", "task.means=[[1.5,0],[-1,1],[-0.5,-1.2]]",
    "task.network={width: 16, depth: 2}", "batch=32", "updates=2", "fit.updates=2", "steps=1", "evaluation.samples=32",
    "evaluation.transitions=[]", "task.teacher_steps=2", "optim.warmup=0", "threads=1",
)  # fmt: skip


def test_critics_stay_as_large_as_the_teacher(tmp_path):
    """A run with a small student is kept, loaded, judged again and resumed as any other."""
    words = ["distill", *TINY, "recipe=diff-instruct", "student.network.width=4", f"out={tmp_path / 'small'}"]
    assert main(words) == 0
    assert main([*words, "resume=true", "updates=3"]) == 0
    assert main(["evaluate", str(tmp_path / "small"), "steps=1,2"]) == 0
    document = json.loads((tmp_path / "small" / "metrics.json").read_text())
    assert [point["steps"] for point in document["student"]] == [1, 2]
    assert document["training"]["calls"]["teacher_fit"] == 4  # the student's, and that of the critic's start
    cfg = compose("config", words[1:])
    task = setup.task_of(cfg)
    models = distil.train_student(cfg, task, task.exact_teacher(), tmp_path / "again", "cpu").module.trained
    widths = [models[name].network.first.out_features for name in ("student", "ema", "fake_score")]
    assert widths == [4, 4, 16]
    assert omnidistill.load(tmp_path / "small").denoiser.network.first.out_features == 4


def test_it_starts_with_the_teachers_beliefs(tmp_path):
    """Every one of several students, fitted in `fit.updates`; a network as it is made knows nothing."""
    more = (
        "recipe=msd",
        "student.experts=3",
        "student.network={width: 12}",
        "fit.updates=150",
        "fit.lr=1e-2",
    )
    cfg = compose("config", [*TINY, *more, "ema=0.9", f"out={tmp_path}"])
    task = setup.task_of(cfg)
    teacher = task.exact_teacher()
    like_cfg, like_task = setup.of_student(cfg, task)
    assert setup.plain(like_cfg.task.network) == {"width": 12, "depth": 2, "ratio": 10}
    start = setup.fitted(like_cfg, like_task, teacher, tmp_path, "cpu", "fit_student")
    student, recipe = setup.student_of(like_cfg, like_task, start, "cpu")
    like_cfg.fit.updates = 0
    raw, _ = setup.student_of(
        like_cfg, like_task, setup.fitted(like_cfg, like_task, teacher, tmp_path, "cpu"), "cpu"
    )
    assert recipe.task["network"]["width"] == 12
    batch = task.batch(256, generator(0, "here"))
    t = torch.full((256,), 0.6, dtype=torch.float64)
    x_t = task.path.renoise(batch.x0, t, batch.context, g=generator(1, "noise"))
    with torch.no_grad():
        truth = teacher(x_t, t, batch.context).mean
        error, far = (
            float((one(x_t, t, batch.context).mean - truth).square().mean()) for one in (student, raw)
        )
    assert error < 0.05 < 0.3 < far


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("student.network={width: 4}", "student.adapter={rank: 2, alpha: 2}"), "leave student.adapter out"),
        (("student.network=small",), "student.network is a section of options by name, or null"),
        (("student.network={widht: 4}",), "widht"),
    ],
)
def test_what_cannot_be_is_one_line(more, line):
    with pytest.raises(UserError, match=line) as error:
        cfg = compose("config", [*TINY, "recipe=dmd2", "out=unused", *more])
        setup.of_student(cfg, setup.task_of(cfg))
    assert "\n" not in str(error.value)


def test_a_misspelt_option_leaves_nothing_behind(capsys, tmp_path):
    words = ["distill", *TINY, "recipe=dmd2", f"out={tmp_path / 'x'}", "student.network={widht: 4}"]
    assert main(words) == 2
    assert "did you mean width?" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_task_whose_network_has_no_options_has_no_smaller_one():
    cfg = compose("config", [*TINY, "recipe=dmd2", "out=unused", "student.network={width: 4}"])
    task = setup.task_of(cfg)
    with open_dict(cfg.task):
        del cfg.task["network"]
    with pytest.raises(UserError, match=r"those of task\.network, and exact/gaussian_mixture has none"):
        setup.of_student(cfg, task)
