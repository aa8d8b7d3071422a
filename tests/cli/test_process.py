"""The installed command in a process of its own: quick, light, and honest in its exit status."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("lightning", "diffusers", "transformers", "hydra", "torch", "rich", "matplotlib", "sklearn")


def python(code: str, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]


MAIN = "import sys; from omnidistill.cli import main; sys.exit(main())"


def loaded_by(code: str) -> set[str]:
    done = python(f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.split()}


def best_seconds(code: str) -> float:
    """The quickest of three: what the machine's other work adds is not the project's."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert python(code).returncode == 0
        times.append(time.perf_counter() - start)
    return min(times)


def test_help_and_import_load_nothing_heavy() -> None:
    assert not loaded_by("import omnidistill") & set(HEAVY)
    for words in ([], ["--help"], ["distill", "--help"], ["--version"]):
        assert not loaded_by(f"from omnidistill.cli import main; assert main({words}) == 0") & set(HEAVY)


@pytest.mark.parametrize("words", [["recipes", "--json"], ["tasks"], ["data", "list"]])
def test_lists_load_no_torch(words: list[str]) -> None:
    heavy = set(HEAVY) - {"rich"}
    assert not loaded_by(f"from omnidistill.cli import main; assert main({words}) == 0") & heavy


@pytest.mark.parametrize(
    "words",
    [
        ["distil"],
        ["distill", "recipe=dmd"],
        ["distill", "task=exact/bridge", "recipe=dmd", "updates=x", "out=a"],
        ["distill", "task=exact/bridge", "recipe=dmd", f"out={__file__}"],
        ["train", "task=exact/bridge", f"out={Path(__file__).parent}"],
        ["distill", "task=exact/bridge", "recipe=dmd", "teacher=nowhere", "out=a"],
        ["sample", "nowhere", "out=a"],
        ["evaluate", "nowhere"],
        ["report", "nowhere"],
        ["sweep", "task=nothing", "recipe=dmd", "out=a"],
    ],
)
def test_a_mistake_is_answered_before_anything_heavy_is_imported(words: list[str]) -> None:
    code = f"from omnidistill.cli import main; assert main({words}) == 2"
    assert not loaded_by(code) & {"torch", "numpy", "lightning", "diffusers", "transformers"}


def test_names_come_when_asked_for() -> None:
    loaded = loaded_by("import omnidistill; assert omnidistill.Context().mask is None; omnidistill.load")
    assert "torch" in loaded and not loaded & {"lightning", "diffusers", "transformers", "hydra"}
    done = python("import omnidistill; omnidistill.lod")
    assert "has no attribute 'lod'" in done.stderr
    assert python("from omnidistill import *; Task, UserError, __version__").returncode == 0


def test_help_costs_far_less_than_importing_torch() -> None:
    torch = best_seconds("import torch")
    help_page = best_seconds("from omnidistill.cli import main; main(['--help'])")
    assert help_page < torch and help_page < 1.0
    assert best_seconds("import omnidistill") < 2.0


def test_exit_status_reaches_the_shell(tmp_path: Path) -> None:
    done = python(MAIN, "distill", "task=exact/gaussian_mixture", "recipe=dmd22", "out=a", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "error: unknown recipe 'dmd22'; did you mean " + done.stderr.split("did you mean ")[1]
    )
    assert "Traceback" not in done.stderr
    debug = python(MAIN, "distill", "recipe=dmd22", "--debug", cwd=tmp_path)
    assert debug.returncode == 1 and "Traceback" in debug.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = f"{MAIN} | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'{sys.executable} -c "{MAIN}" tasks --json | head -c 1'],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[" and done.stderr == "", code


def test_a_disk_that_fills_up_during_a_run(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = (
        "task=exact/gaussian_mixture",
        "recipe=dmd2",
        "out=a",
        "steps=1",
        "evaluation.samples=16",
        "device=cpu",
    )
    few = ("updates=2", "fit.updates=2", "batch=8", "threads=1")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = python(MAIN, "distill", *words, *few, cwd=tmp_path, preexec_fn=small_files, env=environment)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: cannot write"), done.stderr
    assert "Traceback" not in done.stderr
