"""What came from somebody else touches nothing but its own folder, runs nothing, and is refused in one line."""

import io
import json
import os
import tarfile
import threading
from pathlib import Path

import pytest

from omnidistill import cli
from omnidistill.configuration import compose, received, student_file
from omnidistill.data import archives, datasets, programs, sources
from omnidistill.errors import UserError
from omnidistill.evaluation import cells
from omnidistill.runs import folders

GOOD = {
    "name": "small",
    "title": "t",
    "licence": "l",
    "attribution": "a",
    "files": {"good": {"bytes": 5, "sha256": "0" * 64}},
    "sources": [{"kind": "folder", "path": "nowhere"}],
}


def refusal(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def describe(folder: Path, **changes) -> str:
    file = folder / "d.yaml"
    file.write_text(json.dumps({**GOOD, **changes}))
    return str(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "."},
        {"name": ".."},
        {"name": "a/b"},
        {"name": 5},
        {"name": "a\0b"},
        {"files": {}},
        {"files": {"": GOOD["files"]["good"]}},
        {"files": {"../x": GOOD["files"]["good"]}},
        {"files": {"good": {"bytes": "5", "sha256": "0" * 64}}},
        {"files": {"good": {"bytes": 5, "sha256": "no"}}},
        {"files": {"good": {"bytes": 5, "sha256": "0" * 64, "pattern": "/etc/*"}}},
        {"files": {"good": {"bytes": 5, "sha256": "0" * 64, "pattern": "../*"}}},
        {"sources": [{"kind": "pypi", "package": "./evil"}]},
        {"sources": [{"kind": "pypi", "package": "/tmp/evil"}]},
        {"sources": [{"kind": "pypi", "package": "--index-url=x"}]},
        {"sources": [{"kind": "pypi", "package": "git+https://x/y"}]},
        {"sources": [{"kind": "npm", "package": "./evil"}]},
        {"sources": [{"kind": "npm", "package": "--prefix@1"}]},
        {"sources": [{"kind": "debian", "package": ["-oDpkg::x=y"]}]},
        {"sources": [{"kind": "debian", "package": "a b"}]},
        {"sources": [{"kind": "debian", "package": "good", "folder": "../.."}]},
        {"sources": [{"kind": "url", "address": "file:///etc"}]},
        {"sources": [{"kind": "url", "address": "https://x", "suffix": "/../y"}]},
        {"sources": [{"kind": "url", "address": "https://x", "archive": "../y.zip"}]},
        {"sources": [{"kind": "shell", "path": "x"}]},
        {"sources": ["folder"]},
        {"sources": 3},
    ],
)
def test_a_description_names_no_other_place_and_no_option(tmp_path, monkeypatch, changes) -> None:
    cache = tmp_path / "cache"
    (cache / "fashion_mnist").mkdir(parents=True)
    (cache / "fashion_mnist/f").write_text("precious")
    monkeypatch.setenv("OMNIDISTILL_DATA", str(cache))
    monkeypatch.setattr(programs.subprocess, "run", lambda *a, **k: pytest.fail("a program was run"))
    refusal(lambda: datasets.fetch(describe(tmp_path, **changes), say=lambda line: None))
    assert [path.name for path in cache.rglob("*")] == ["fashion_mnist", "f"]


def test_no_package_is_asked_for_so_that_its_code_runs(tmp_path, monkeypatch) -> None:
    """pip is told to take wheels alone, npm to run no scripts, and names stand behind `--`."""
    calls = []
    monkeypatch.setattr(sources, "call", lambda command, folder: calls.append(command))
    for kind, package in (("pypi", "thing==1.0"), ("npm", "@a/thing@1.0"), ("debian", "thing")):
        source = {"kind": kind, "package": package}
        sources.check_source(source)
        with pytest.raises(sources.SourceError):
            sources.SOURCES[kind](source, ["good"], tmp_path)
        assert calls[-1][-2:] == ["--", package]
    assert calls[0][5:7] == ["--only-binary", ":all:"] and "--ignore-scripts" in calls[1]


def test_a_source_archive_is_fetched_without_pip(tmp_path, monkeypatch) -> None:
    from omnidistill.data import pypi

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tarred:
        for name, text in (("thing-1.0/data/good", b"good\n"), ("thing-1.0/setup.py", b"open('PWNED','w')")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tarred.addfile(info, io.BytesIO(text))
    import hashlib

    mark = hashlib.sha256(made.getvalue()).hexdigest()
    pages = {
        "https://index/simple/thing/": f'<a href="../../f/thing-1.0.tar.gz#sha256={mark}">x</a>'.encode(),
        "https://index/f/thing-1.0.tar.gz": made.getvalue(),
    }

    class Answer(io.BytesIO):
        def geturl(self) -> str:
            return "https://index/simple/thing/"

    monkeypatch.setenv("PIP_INDEX_URL", "https://index/simple")
    monkeypatch.setattr(pypi.urllib.request, "urlopen", lambda address, timeout: Answer(pages[address]))
    source = {"kind": "pypi", "package": "thing==1.0", "binary": False, "folder": "thing-1.0/data"}
    assert (sources.from_pypi(source, ["good"], tmp_path) / "good").read_text() == "good\n"
    pages["https://index/f/thing-1.0.tar.gz"] = b"another"
    with pytest.raises(sources.SourceError, match="another sum"):
        sources.from_pypi(source, ["good"], tmp_path)


def test_an_archive_that_grows_without_end_is_not_unpacked(tmp_path, monkeypatch) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(1 << 20))
    monkeypatch.setattr(archives, "UNPACKED", 1 << 19)
    with pytest.raises(sources.SourceError, match="would unpack to"):
        archives.unpack(tmp_path)
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize(
    "cell",
    [
        {"recipe": "/tmp/victim"},
        {"recipe": "../../victim"},
        {"task": "/tmp/victim"},
        {"task": "a/../../b"},
        {"choice": ".."},
        {"seed": "../.."},
        {"seed": True},
        {"seed": -1},
        {"recipe": 5},
        {"column": None},
        {"recipe": "9" * 400},  # found by benchmarks/fuzz.py
    ],
)
def test_a_sweep_has_its_cells_below_its_folder(tmp_path, cell) -> None:
    whole = {"task": "t", "column": "c", "choice": "r", "seed": 0, "recipe": "r", "reason": ""}
    file = tmp_path / cells.NAME
    file.write_text(json.dumps({"schema": 1, "cells": [whole]}))
    assert cells.read_cells(tmp_path)[0].folder == Path("t/r/0")
    file.write_text(json.dumps({"schema": 1, "cells": [{**whole, **cell}]}))
    refusal(lambda: cells.read_cells(tmp_path))


def test_nothing_in_a_configuration_is_resolved(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for text in ("about: {title: '${oc.env:SECRET}'}", 'a: "\\x24{oc.env:SECRET}"', "'${oc.env:SECRET}': 1"):
        (tmp_path / "config.yaml").write_text(text)
        said = refusal(lambda: compose.load_config(tmp_path))
        assert "interpolation" in said and "hunter2" not in said


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1, 1]\nb: [*x, *x]",
        "[" * 200 + "]" * 200,
        "a: [",
        "\0",
        "a: !!python/object/apply:os.getcwd []",
    ],
)
def test_a_configuration_that_could_grow_or_act_is_refused(tmp_path, text) -> None:
    (tmp_path / "config.yaml").write_text(text)
    refusal(lambda: compose.load_config(tmp_path))


def test_what_is_no_file_is_not_waited_for(tmp_path) -> None:
    for name in (
        "student.json",
        "config.yaml",
        "metrics.json",
        "sweep.json",
        "student.safetensors",
        "d.yaml",
    ):
        os.mkfifo(tmp_path / name)
    import omnidistill
    from omnidistill.evaluation.metrics_file import read_metrics

    for call in (
        lambda: omnidistill.load(tmp_path),
        lambda: compose.load_config(tmp_path),
        lambda: read_metrics(tmp_path),
        lambda: cells.read_cells(tmp_path),
        lambda: datasets.fetch(str(tmp_path / "d.yaml")),
        lambda: received.read_json(Path("/dev/zero")),
    ):
        waiting = threading.Thread(target=refusal, args=(call,), daemon=True)
        waiting.start()
        waiting.join(20)
        assert not waiting.is_alive()


DESCRIBED = {"task": {"_target_": "x"}, "reading": {"parameterisation": "flow"}, "steps": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"task": 5},
        {"task": "x"},
        {"task": {}},
        {"reading": None},
        {"reading": {"sigma_data": "x"}},
        {"reading": {"sigma_data": 0}},
        {"reading": {"sigma_data": -1}},
        {"reading": {"time_input": []}},
        {"reading": {"network": 1}},
        {"steps": "1"},
        {"steps": 1.5},
        {"steps": None},
        {"steps": True},
        {"guidance": "x"},
        {"transition": "sideways"},
        {"somewhere": {"a": 1}},
        {"somewhere": float("inf")},
    ],
)
def test_a_student_is_described_by_values_of_their_kind(change) -> None:
    assert student_file.check({**DESCRIBED, "times": [1.0, 0.5], "shift": 2.0})
    refusal(lambda: student_file.check({**DESCRIBED, **change}))


def test_links_in_a_received_folder_are_not_followed(tmp_path, capsys) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "student_thesis.txt").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1\n")
    (run / "samples").symlink_to(victim)
    assert "'samples'" in refusal(lambda: folders.prepare(run, resume=True))
    assert cli.main(["report", str(run)]) == 2 and "is a link" in capsys.readouterr().err
    for name in (Path("samples/x"), Path("../victim"), Path("/tmp"), Path("")):
        refusal(lambda name=name: folders.inside(run, name))
    assert folders.inside(run, Path("a/b")) == run / "a/b"
    assert (victim / "student_thesis.txt").read_text() == "precious"


def test_every_packaged_description_is_of_good_names() -> None:
    for name in datasets.available():
        assert datasets.describe(name).sources
