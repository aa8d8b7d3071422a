"""The example package is small, is found through its entry point alone, and passes the suites."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from omnidistill.errors import UserError
from omnidistill.testing import ConformanceError, check_plugin

EXAMPLE = Path(__file__).parents[2] / "docs" / "plugin_example"


@pytest.fixture
def installed(tmp_path):
    """A folder that looks like site-packages after `pip install docs/plugin_example`, entry points included."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "omnidistill_waves-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "omnidistill_waves").symlink_to(EXAMPLE / "omnidistill_waves")
    return tmp_path


def python(code, folder):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PATH": "", "MPLBACKEND": "Agg"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_example_is_small():
    lines = [line for file in EXAMPLE.rglob("*.py") for line in file.read_text().splitlines()]
    assert 0 < len(lines) <= 60
    assert len(list(EXAMPLE.rglob("*.yaml"))) == 1


def test_its_entry_point_passes_the_suites(installed):
    done = python(
        "from omnidistill.testing import check_plugin; print('\\n'.join(check_plugin('waves')))", installed
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "task=series/waves composes and builds",
        "renoise then bridge has the law of renoise",
        "samples do not see one another",
        "render writes readable files",
    ):
        assert line in done.stdout


def test_its_task_is_listed_and_composes_with_a_recipe(installed):
    code = """
from omnidistill.configuration import listing
from omnidistill.configuration.compose import build, compose
assert "series/waves" in listing.names("task")
cfg = compose("config", ["task=series/waves", "recipe=dmd2", "task.length=16", "out=x"])
print(build(cfg.task).shape, cfg.batch, dict(cfg.objective))
"""
    done = python(code, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(16,) 128 {'matching': 1.0")


def test_a_folder_is_checked_without_being_installed(tmp_path):
    folder = str(EXAMPLE / "omnidistill_waves")
    code = f"from omnidistill.testing import check_plugin; print(len(check_plugin({folder!r})))"
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


def test_a_worse_plug_in_is_told_what_is_wrong(installed):
    code = """
import omnidistill_waves
omnidistill_waves.Waves.measure = lambda self, x0, context, g: {"energy": float(x0[0, 0])}
from omnidistill.testing import check_plugin
check_plugin("waves")
"""
    done = python(code, installed)
    assert done.returncode == 1
    assert "ConformanceError: task series/waves: energy ignores the order" in done.stderr.splitlines()[-1]


def test_what_is_no_plug_in_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be imported"):
        check_plugin("nowhere_to_be_found")
    with pytest.raises(UserError, match="no package"):
        check_plugin(str(tmp_path))
    (tmp_path / "bare_plugin.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConformanceError, match="names its configurations in CONFIGS"):
        check_plugin("bare_plugin")
