"""What reaches the run functions, and which exit status comes of what they do."""

import errno
import json
import os
from pathlib import Path

import pytest

from omnidistill.configuration import compose as config
from omnidistill.errors import RunError

GOOD = ("task=exact/gaussian_mixture", "recipe=dmd2")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The arguments of the last call of each run function, none of which does anything."""
    seen: dict = {}

    def run(cfg):
        seen["cfg"] = cfg
        (Path(cfg.out) / "config.yaml").write_text("seed: 0\n")
        return Path(cfg.out)

    monkeypatch.setattr("omnidistill.runs.distil.distill", run)
    monkeypatch.setattr("omnidistill.runs.train.train", run)
    return seen


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(cfg):
        raise error

    monkeypatch.setattr("omnidistill.runs.distil.distill", run)


def test_distill_makes_the_folder_and_names_the_report(command, called, inside: Path) -> None:
    done = command("distill", *GOOD, "out=a/b", "steps=1,8", "--config-dir", str(inside))
    assert (done.status, done.out) == (0, "report: a/b/report.html\n")
    assert (inside / "a/b").is_dir()
    assert (list(called["cfg"].steps), called["cfg"].recipe.name) == ([1, 8], "dmd2")


def test_train_composes_the_teachers_root(command, called, inside: Path) -> None:
    done = command("train", GOOD[0], "out=a", "updates=7")
    assert (done.status, done.out) == (0, "teacher: a/teacher.safetensors\n")
    assert called["cfg"].updates == 7 and list(called["cfg"].objective) == ["denoising"]


def test_demo_is_distill_with_overrides_of_its_own_below_the_users(command, called, inside: Path) -> None:
    assert command("demo", "out=a", "updates=7").status == 0
    assert called["cfg"].updates == 7 and called["cfg"].recipe.name
    (inside / "a/logs/metrics.csv").write_text("update\n")
    assert command("demo", "out=a").status == 0, "a second demo replaces the first"
    assert not (inside / "a/logs/metrics.csv").exists() and called["cfg"].updates != 7
    assert (
        (inside / "a/logs/command.txt")
        .read_text()
        .startswith("omnidistill distill task=image/fashion_mnist_pixels")
    )


def test_resume_reaches_the_run(command, called, inside: Path) -> None:
    (inside / "a").mkdir()
    config.save_config(config.compose("config", [*GOOD, "out=a", "updates=5"]), inside / "a")
    assert command("distill", *GOOD, "out=a", "updates=6", "resume=true").status == 0
    assert called["cfg"].resume is True


def test_sample_and_evaluate_pass_what_was_asked(command, inside: Path, monkeypatch) -> None:
    seen: dict = {}
    (inside / "run").mkdir()
    (inside / "run" / "student.json").touch()
    monkeypatch.setattr(
        "omnidistill.runs.sample.sample", lambda *a, **k: seen.update(a=a, k=k) or [Path("x.png")]
    )
    done = command(
        "sample", "run", "steps=2", "count=3", "seed=4", "out=x", "condition=5", "device=cpu", "trust=[mine]"
    )
    assert (done.status, done.out) == (0, "x.png\n")
    assert seen == {"a": ("run", 2, 3, 4, "x"), "k": {"device": "cpu", "condition": "5", "trust": ("mine",)}}

    config.save_config(config.compose("config", [*GOOD, "out=run"]), inside / "run")

    def evaluate(folder, changes):
        seen["cfg"] = changes(None)
        print("a table")
        return {"schema": 1}

    monkeypatch.setattr("omnidistill.runs.evaluate.evaluate", evaluate)
    done = command("evaluate", "run", "steps=1,16", "evaluation.samples=64", "--json")
    assert json.loads(done.out) == {"schema": 1} and "a table" in done.err
    assert (list(seen["cfg"].steps), seen["cfg"].evaluation.samples) == ([1, 16], 64)


def test_a_failed_run_is_exit_status_1(command, inside: Path, monkeypatch) -> None:
    fails_with(monkeypatch, RunError("the loss of fake_score became NaN at update 7"))
    done = command("distill", *GOOD, "out=a")
    assert done.status == 1
    assert (
        done.err
        == "error: the loss of fake_score became NaN at update 7 (run again with --debug for the traceback)\n"
    )


def test_an_unexpected_failure_shows_its_type(command, inside: Path, monkeypatch) -> None:
    fails_with(monkeypatch, ZeroDivisionError("a\nb"))
    done = command("distill", *GOOD, "out=a")
    assert done.status == 1 and done.err.startswith("error: ZeroDivisionError: a b (")
    with pytest.raises(ZeroDivisionError):
        command("distill", *GOOD, "out=b", "--debug")


def test_an_interrupted_run_says_what_was_kept(command, inside: Path, monkeypatch) -> None:
    fails_with(monkeypatch, KeyboardInterrupt("checkpoint of update 40 kept in a/checkpoints"))
    done = command("distill", *GOOD, "out=a")
    assert done.status == 130
    assert (
        "checkpoint of update 40 kept in a/checkpoints; resume=true" in done.err and done.err.count("\n") == 1
    )
    fails_with(monkeypatch, KeyboardInterrupt())
    assert command("distill", *GOOD, "out=b") == (130, "", "interrupted\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_the_users_to_mend(refused, inside: Path, monkeypatch) -> None:
    def run(cfg):
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    monkeypatch.setattr("omnidistill.runs.distil.distill", run)
    assert "no space is left on the device" in refused("distill", *GOOD, "out=a")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOSPC])
def test_faults_of_the_place_are_found_behind_other_errors(
    refused, inside: Path, monkeypatch, number: int
) -> None:
    def run(cfg):
        try:
            raise OSError(number, os.strerror(number), "a/b")
        except OSError as error:
            raise ValueError("the writer failed") from error

    monkeypatch.setattr("omnidistill.runs.distil.distill", run)
    assert "cannot write or read 'a/b': " in refused("distill", *GOOD, "out=a")


def test_other_errors_of_the_system_are_failures_of_the_run(command, inside: Path, monkeypatch) -> None:
    fails_with(monkeypatch, OSError(errno.ECONNRESET, "reset"))
    assert command("distill", *GOOD, "out=a").status == 1
