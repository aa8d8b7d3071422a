"""Every mistake of a user is one line on stderr with exit status 2, and makes no run."""

import os
from pathlib import Path

import pytest

GOOD = ("task=exact/gaussian_mixture", "recipe=dmd2", "out=made")
TINY = ("updates=2", "batch=8", "fit.updates=2", "steps=1", "evaluation.samples=16", "device=cpu")


@pytest.mark.parametrize(
    "words, said",
    [
        (("distil",), "unknown command 'distil'; did you mean distill?"),
        (("--hlep",), "unknown flag '--hlep'; did you mean --help?"),
        (("recipes", "--jsn"), "did you mean --json?"),
        (("distill", "--json", *GOOD), "unknown flag of distill '--json'"),
        (("distill", "runs/a", *GOOD), "distill takes key=value, got 'runs/a'"),
        (("distill", "recipe=dmd2", "out=made"), "task is missing"),
        (("distill", "task=exact/gaussian_mixture", "out=made"), "recipe is missing"),
        (("distill", *GOOD[:2]), "out is missing"),
        (("distill", *GOOD, "recipe=dmd22"), "unknown recipe 'dmd22'; did you mean dmd2"),
        (("distill", *GOOD, "task=exact/gausian_mixture"), "did you mean exact/gaussian_mixture"),
        (("train", "task=image/fashionmnist", "out=made"), "unknown task 'image/fashionmnist'"),
        (("distill", *GOOD, "steps=0"), "steps must be a whole number of at least 1, got 0"),
        (("distill", *GOOD, "steps=1,0"), "got 0"),
        (("distill", *GOOD, "updates=no"), "updates"),
        (("distill", *GOOD, "teacher=nowhere"), "teacher=nowhere does not exist"),
        (("distill", *GOOD, "configs=nowhere"), "configs=nowhere is no folder"),
        (("distill", *GOOD, "--config-dir"), "--config-dir needs a folder"),
        (("sample",), "give one folder of a run"),
        (("sample", "a", "b", "out=c"), "got a, b"),
        (("sample", "nowhere"), "out is missing"),
        (("sample", "nowhere", "out=c", "cuont=4"), "unknown key 'cuont'; did you mean count"),
        (("sample", "nowhere", "out=c", "count=0"), "count must be a whole number of at least 1, got 0"),
        (
            ("sample", "nowhere", "out=c", "steps=two"),
            "steps must be a whole number of at least 1, got 'two'",
        ),
        (("sample", "nowhere", "out=c", "device=tpu"), "auto, cpu, cuda"),
        (("sample", "nowhere", "out=c", "task.std=1"), "sample takes no task.std"),
        (("sample", "nowhere", "out=c", "device=cpu"), "nowhere"),
        (("evaluate", "nowhere", "steps=1"), "'nowhere' holds no run"),
        (("evaluate", "nowhere", "stepz=1"), "did you mean steps?"),
        (("report", "nowhere"), "nowhere"),
        (("report", "nowhere", "steps=1"), "report takes no keys"),
        (("data",), "data needs an action"),
        (("data", "fecth", "x"), "did you mean fetch?"),
        (("data", "fetch"), "give one data set"),
        (("data", "fetch", "fashion_mnits"), "did you mean fashion_mnist?"),
        (("data", "list", "x"), "takes nothing but --json"),
        (("recipes", "x=1"), "unknown key 'x'"),
        (("recipes", "configs=nowhere"), "is no folder"),
        (("check",), "give one plug-in"),
        (("check", "nothing_like_it"), "unknown plug-in, folder or task"),
    ],
)
def test_a_mistake_is_one_line(refused, inside: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words)
    assert list(inside.iterdir()) == [], "nothing is made before the input is known to be right"


@pytest.mark.parametrize(
    "words, said",
    [
        (("task=exact/markov_text",), "dmd2 needs differentiable"),
        (("task._target_=os.system",), "_target_ 'os.system' is outside of the allowed packages"),
        (("families.matching._target_=builtins.eval",), "trust=[builtins]"),
        (("task.stdd=1",), "unknown option of task (GaussianMixtureTask) 'stdd'; did you mean std"),
        (("task.means=[[0,nan],[1,1]]",), "means[0][1] must be finite"),
        (("task.std=0",), "std must be above 0"),
        (("families.matching.critic_updats=1",), "did you mean critic_updates"),
        (("objective.matching=-.inf",), "objective.matching must be a number"),
    ],
)
def test_what_only_a_component_can_judge_is_one_line_too(
    refused, inside: Path, words: tuple, said: str
) -> None:
    assert said in refused("distill", *GOOD, *TINY, *words)


def test_a_target_in_a_file_is_judged_like_one_on_the_command_line(refused, inside: Path) -> None:
    (inside / "own/task").mkdir(parents=True)
    trap = "{_target_: omnidistill.exact.GaussianMixtureTask, means: {_target_: os.getcwd}}"
    (inside / "own/task/trap.yaml").write_text(f"# @package _global_\ntask: {trap}\n")
    said = refused("distill", "--config-dir", "own", *GOOD, *TINY, "task=trap")
    assert "task.means: _target_ 'os.getcwd' is outside of the allowed packages" in said


def test_out_must_be_a_folder_of_ones_own(refused, inside: Path) -> None:
    (inside / "file").write_text("")
    (inside / "full").mkdir()
    (inside / "full/notes.txt").write_text("mine")
    (inside / "run").mkdir()
    (inside / "run/config.yaml").write_text("seed: 1\n")
    assert "out=file is a file" in refused("distill", *GOOD, "out=file")
    assert "not a directory" in refused("distill", *GOOD, "out=file/below")
    assert "out=full is not empty (it holds other files)" in refused("distill", *GOOD, "out=full")
    assert "resume=true goes on" in refused("distill", *GOOD, "out=run")
    assert "nothing to resume" in refused("distill", *GOOD, "out=full", "resume=true")
    assert "not empty" in refused("demo", "out=full"), "the demo replaces a former demo and nothing else"
    assert (inside / "full/notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written(refused, inside: Path) -> None:
    if os.geteuid() == 0:  # whom only the kernel's own file systems refuse
        place = "/sys/omnidistill"
        if not os.path.isdir("/sys"):
            pytest.skip("there is no /sys")
    else:
        (inside / "locked").mkdir(mode=0o500)
        place = "locked"
    assert f"cannot write in out={place}" in refused("distill", *GOOD, f"out={place}")


def test_a_run_of_other_settings_is_not_gone_on_with(refused, inside: Path) -> None:
    from omnidistill.configuration import compose as config

    (inside / "made").mkdir()
    former = config.compose("config", GOOD)
    config.save_config(former, inside / "made")
    said = refused("distill", *GOOD, "resume=true", "optim.lr=0.5")
    assert f"optim.lr was {former.optim.lr} and is now 0.5" in said
