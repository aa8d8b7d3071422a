"""Plug-ins as installed distributions: found by their entry point, searched for files, never able to break others."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omnidistill.configuration import compose as config
from omnidistill.configuration import listing, plugins
from omnidistill.errors import UserError

TASK = "# @package _global_\ntask: {_target_: a_plugin_for_tests.Thing, size: 3}\nupdates: 5\n"
MODULE = "CONFIGS = 'pkg://a_plugin_for_tests.configs'\nclass Thing:\n    def __init__(self, size): self.size = size\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a distribution with an entry point on the path, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.search_path.cache_clear()

    def made(name: str, module: str, **files: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {module}\n")
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

    yield made
    plugins.search_path.cache_clear()
    for name in [n for n in sys.modules if n.startswith("a_plugin_for_tests")]:
        del sys.modules[name]


def whole(install: Callable[..., None]) -> None:
    empty = {f"a_plugin_for_tests/configs/{f}__init__.py": "" for f in ("", "task/", "task/things/")}
    files = {
        "a_plugin_for_tests/__init__.py": MODULE,
        "a_plugin_for_tests/configs/task/things/small.yaml": TASK,
    }
    install("things", "a_plugin_for_tests", **empty, **files)


def test_its_tasks_are_tasks_like_any_other(install) -> None:
    whole(install)
    assert "a_plugin_for_tests" in plugins.packages() and "a_plugin_for_tests" not in sys.modules
    assert "things/small" in listing.names("task")
    cfg = config.compose("train", ["task=things/small", "out=a"])
    assert cfg.updates == 5
    assert config.build(cfg.task).size == 3, "an installed plug-in is trusted"


@pytest.mark.parametrize(
    "text, said",
    [
        ("raise OSError('no such thing')", "OSError: no such thing"),
        ("import a_module_that_is_missing", "a_module_that_is_missing"),
        ("CONFIGS = 'nowhere_at_all.configs'", "which is no package"),
        ("CONFIGS = ['a_plugin_for_tests.lost']", "which is no package"),
    ],
)
def test_a_broken_one_costs_one_warning(
    install, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    install("broken", "a_plugin_for_tests", **{"a_plugin_for_tests.py": text})
    assert "exact/gaussian_mixture" in listing.names("task")
    config.compose("train", ["task=exact/gaussian_mixture", "out=a"])
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1 and warned.startswith("warning: plug-in") and said in warned


def test_an_unknown_one_comes_with_near_matches() -> None:
    with pytest.raises(UserError, match=r"unknown plug-in 'imge'; did you mean image\?"):
        plugins.load("imge")
    assert plugins.load("image").__name__ == "omnidistill.modalities.image"
