"""What is installed: one top-level package with its modalities and configurations, which works outside the checkout."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAPPING = {
    "omnidistill": "omnidistill",
    "modalities": "omnidistill/modalities",
    "configs": "omnidistill/configs",
}


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that must succeed; what it wrote is shown if it does not."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"{command} exits {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def copy_checkout(target: Path) -> Path:
    """The sources alone: an old build/ beside them would put files into the wheel that are long gone."""
    for folder in (*MAPPING, "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, target / path.name)
    return target


def build_wheel(source: Path, target: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(
        *pip,
        "wheel",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        target,
        source,
        cwd=target,
    )
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"))


def shipped(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if not name.split("/")[0].endswith(".dist-info")}


def test_wheel_installs_the_three_folders_as_one_package_and_nothing_else(wheel: Path) -> None:
    on_disk = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in MAPPING.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not any(p == "__pycache__" or p[0] == "." for p in path.relative_to(ROOT).parts)
    }
    names = shipped(wheel)
    assert {name.split("/")[0] for name in names} == {"omnidistill"}
    assert sorted(names) == sorted(on_disk)
    assert {
        "omnidistill/modalities/__init__.py",
        "omnidistill/configs/__init__.py",
        "omnidistill/py.typed",
    } <= names


def test_wheel_carries_its_licence_command_and_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        read = {
            name.split(".dist-info/")[-1]: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert "Apache License" in read["licenses/LICENSE"]
    assert "License-Expression: Apache-2.0" in read["METADATA"]
    assert "omnidistill = omnidistill.cli:main" in read["entry_points.txt"]
    assert "[omnidistill.modalities]" in read["entry_points.txt"]


def test_wheel_from_the_sdist_is_the_wheel_from_the_checkout(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", tmp_path, checkout, cwd=tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert shipped(build_wheel(source, tmp_path)) == shipped(wheel)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin/` of a virtual environment that has the wheel and, by path, the packages this one has.

    A path in a .pth file does not run the .pth files found there: an editable install of the checkout stays unseen.
    """
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", home / "bin" / "python")
    run(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=home)
    (site,) = home.glob("lib/python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return home / "bin"


def test_installed_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import omnidistill.configs as c, omnidistill.modalities as m; print(c.__file__, m.__file__, sep='\\n')"
    found = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert len(found) == 2 and all(Path(line).is_relative_to(installed.parent) for line in found)


@pytest.mark.parametrize("command", ["recipes", "tasks"])
def test_installed_wheel_lists_its_packaged_configurations(
    installed: Path, tmp_path: Path, command: str
) -> None:
    listed = {
        entry["name"] for entry in json.loads(run(installed / "omnidistill", command, "--json", cwd=tmp_path))
    }
    folder = ROOT / "configs" / command.removesuffix("s")
    packaged = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    assert packaged, f"no YAML in {folder}"
    chosen = {name for name in packaged if not name.startswith("_")} - {"own"}  # which is for Python alone
    assert listed >= chosen


@pytest.mark.slow
def test_installed_wheel_distils_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    run(
        *(installed / "omnidistill", "distill", "task=exact/gaussian_mixture", "recipe=consistency-models"),
        *("updates=3", "batch=16", "device=cpu", "steps=1", "evaluation.samples=64", "out=made"),
        cwd=tmp_path,
    )
    assert json.loads((tmp_path / "made" / "metrics.json").read_text())["schema"] == 2
    assert {"student.safetensors", "student.json", "config.yaml", "report.html"} <= set(
        os.listdir(tmp_path / "made")
    )


def imported(source: str, package: str) -> Iterator[str]:
    """The absolute names that a source imports, also inside functions, relatively, or by importlib.import_module."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")
            ):
                yield from (
                    a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
                )


def reaches(names: Iterator[str], *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in names for package in packages)


@pytest.mark.parametrize(
    "source, package",
    [
        ("import omnidistill.modalities.image", "omnidistill"),
        ("def f():\n    from omnidistill import modalities", "omnidistill"),
        ("from . import modalities", "omnidistill"),
        ("from ..modalities.image import task", "omnidistill.training"),
        ("import importlib\nimportlib.import_module('omnidistill.modalities.image')", "omnidistill"),
    ],
)
def test_each_way_to_import_a_modality_is_seen(source: str, package: str) -> None:
    assert reaches(imported(source, package), "omnidistill.modalities")


def test_entry_point_group_is_no_import() -> None:
    source = "from importlib.metadata import entry_points\nentry_points(group='omnidistill.modalities')"
    assert not reaches(imported(source, "omnidistill"), "omnidistill.modalities")


def test_core_never_imports_a_modality() -> None:
    sources = sorted((ROOT / "omnidistill").rglob("*.py"))
    assert sources
    offenders = [
        path.relative_to(ROOT).as_posix()
        for path in sources
        if reaches(
            imported(path.read_text(), ".".join(path.relative_to(ROOT).parts[:-1])), "omnidistill.modalities"
        )
    ]
    assert offenders == []


def test_nothing_imports_the_folders_by_their_bare_names() -> None:
    sources = [path for folder in (*MAPPING, "tests") for path in (ROOT / folder).rglob("*.py")]
    bare = [path for path in sources if reaches(imported(path.read_text(), "-"), "modalities", "configs")]
    assert bare == []


def test_every_modality_folder_is_an_entry_point() -> None:
    declared = PROJECT["entry-points"]["omnidistill.modalities"]
    folders = {path.parent.name for path in (ROOT / "modalities").glob("*/__init__.py")}
    assert declared == {name: f"omnidistill.modalities.{name}" for name in folders}


def test_entry_points_load_under_their_one_name() -> None:
    found = {point.name: point.value for point in entry_points(group="omnidistill.modalities")}
    assert found.items() >= PROJECT["entry-points"]["omnidistill.modalities"].items()
    for point in entry_points(group="omnidistill.modalities"):
        assert point.load().__name__ == point.value


def test_configurations_are_package_resources() -> None:
    recipes = files("omnidistill.configs") / "recipe"
    on_disk = {path.name for path in (ROOT / "configs" / "recipe").glob("*.yaml")}
    assert {entry.name for entry in recipes.iterdir() if entry.name.endswith(".yaml")} == on_disk
    without = [
        path for path in (ROOT / "configs").rglob("*.yaml") if not (path.parent / "__init__.py").exists()
    ]
    assert without == [], "Hydra finds a folder of configurations in a wheel only if it is a package"


def test_lock_pins_every_requirement_once_and_within_its_range() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = dict(re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)", line).groups() for line in lines)  # type: ignore[union-attr]
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    assert len(pins) == len(lines)
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        if requirement.name not in (
            "omnidistill",
            "torchaudio",
        ):  # torchaudio has to match the build of torch
            assert requirement.specifier.contains(pins[requirement.name.lower()]), text
    assert f"torch=={pins['torch']}" in (ROOT / "Makefile").read_text()
