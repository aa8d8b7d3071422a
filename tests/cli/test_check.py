"""`omnidistill check` on a task, on folders, and on something broken."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnidistill.configuration import plugins

TASK = """# @package _global_
task: {{_target_: omnidistill.exact.GaussianMixtureTask, name: mini/points, {more}}}
"""


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `check` takes in for the rest of its process is forgotten after each test."""
    monkeypatch.setattr(plugins, "_sources", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    plugins.search_path.cache_clear()


def write(folder: Path, more: str) -> Path:
    (folder / "task/mini").mkdir(parents=True)
    (folder / "task/mini/points.yaml").write_text(TASK.format(more=more))
    return folder


def test_what_conforms_is_listed(command, tmp_path: Path) -> None:
    done = command("check", write(tmp_path, "std: 0.2"))
    assert done.status == 0 and "mini/points" in done.out
    assert done.out.rstrip().endswith("properties hold")


def test_what_does_not_is_a_failed_run(command, tmp_path: Path) -> None:
    done = command("check", write(tmp_path, "teacher_steps: 1"))
    assert done.status == 1 and done.err.count("\n") == 1 and "teacher_steps is more than one" in done.err


def test_an_example_in_its_source_folder_is_checked_without_installing(command) -> None:
    example = Path(__file__).resolve().parents[2] / "docs/plugin_example"
    done = command("check", example)
    assert done.status == 0 and "series/waves" in done.out


def test_mistakes_in_a_plug_in_are_named(refused, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert "declares no entry point" in refused("check", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project")
    assert "cannot read" in refused("check", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points."omnidistill.modalities"]\nlost = "lost_module"\n'
    )
    assert "cannot be imported" in refused("check", tmp_path)
