"""The matrix of all modalities: what is kept of a sweep, and that its tables say what the cells say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from omnidistill.evaluation import cells
from omnidistill.evaluation.cells import Cell, Outcome
from omnidistill.evaluation.metrics_file import write_metrics

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("matrix"), importlib.import_module("matrix_tables")
    for name in ("matrix", "matrix_tables"):
        sys.modules.pop(name)


def point(steps: int, value: float, seconds: float) -> dict:
    return {"steps": steps, "nfe": steps, "metrics": {"quality": value}, "seconds_per_sample": seconds}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    listed = []
    for recipe, seed, one, two in (("x", 0, 8.0, 9.0), ("x", 1, 6.0, 9.4), ("y", 0, 9.5, None)):
        cell = Cell("a/b", recipe, recipe, seed, recipe)
        listed.append(cell)
        run = tmp_path / cell.folder
        student = [point(1, one, 0.01)] + ([] if two is None else [point(2, two, 0.02)])
        gaps = {"1": 100 * (one - 2) / 8} | ({} if two is None else {"2": 100 * (two - 4) / 6})
        document = {
            "schema": 1,
            **{"task": "a/b", "recipe": recipe, "seed": seed, "floor": {"quality": 11.0}},
            "primary": {"name": "quality", "better": "higher"},
            "teacher": [point(1, 2.0, 0.01), point(2, 4.0, 0.02), point(16, 10.0, 0.16)],
            **{"student": student, "gap_closed": gaps},
            "training": dict.fromkeys(
                ("student_updates", "seconds", "samples_per_second", "peak_memory_mb"), 1.0
            )
            | {"calls": {}},
            "environment": {"torch": "2"},
        }
        write_metrics(document, run)
        (run / "logs").mkdir()
        (run / "logs" / "command.txt").write_text(
            f"omnidistill distill task=a/b recipe={recipe} 'note=a b' out='/some where/{seed}' resume=true\n"
        )
        (run / "report.html").write_text("page")
        cells.write_outcome(Outcome(cells.FINISHED, 0, "", 60.0 * (1 + seed), 1), run)
    listed.append(Cell("c", "x", "x", 0, None, "x needs data"))
    cells.write_cells(listed, tmp_path)
    return tmp_path


def test_cells_are_kept_with_their_command_and_without_their_place(
    scripts: tuple[ModuleType, ModuleType], runs: Path, tmp_path: Path
) -> None:
    matrix, _ = scripts
    files = matrix.copy([runs], tmp_path / "results")
    assert [file.name for file in files] == ["a_b-x-0.json", "a_b-x-1.json", "a_b-y-0.json"]
    document = json.loads(files[1].read_text())
    assert document["command"] == "omnidistill distill task=a/b recipe=x 'note=a b'"
    assert document["wall_seconds"] == 120.0 and document["metrics"]["seed"] == 1
    assert json.loads((tmp_path / "results" / "unfinished.json").read_text()) == [
        {"task": "c", "recipe": "x", "seed": 0, "status": "not possible", "reason": "x needs data"}
    ]


def test_the_tables_say_what_the_cells_say(
    scripts: tuple[ModuleType, ModuleType], runs: Path, tmp_path: Path
) -> None:
    matrix, tables = scripts
    folder = tmp_path / "results"
    matrix.copy([runs], folder)
    head, _, first, second = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in tables.table(folder)
    )
    row = dict(zip(head, first, strict=True))
    assert row["task"] == "a/b" and row["metric"] == "quality ↑" and row["real data"] == "11.00"
    assert row["teacher, full"] == "10.00 (16)" and row["teacher, 2"] == "4.00" and row["teacher, 4"] == "-"
    assert (row["student, 1"], row["student, 2"], row["student, 4"]) == ("7.00", "9.20", "-"), (
        "means over seeds"
    )
    assert row["gap closed"] == "86.7 % at 2" and row["faster by"] == "8.0×" and row["minutes"] == "1.5"
    assert dict(zip(head, second, strict=True))["gap closed"] == "93.8 % at 1"
    best = [cell.strip() for cell in tables.headline(folder).splitlines()[-1].strip("|").split("|")]
    assert best == ["a/b", "quality ↑", "10.00 (16)", "y", "1", "2.00", "9.50", "93.8 %", "16.0×"]
    section = "\n".join(tables.section(folder))
    assert "- c · x · seed 0: not possible, x needs data" in section
    assert tables.section(tmp_path / "nothing") == []


def test_intervals_are_in_the_tables_and_former_figures_are_marked(
    scripts: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tables = scripts
    summary = importlib.import_module("summary")
    try:
        document = {
            "schema": 2,
            "samples": 256,
            "primary": {"name": "quality", "better": "higher"},
            "floor": {},
            "input": {"metrics": {"quality": 1.5}, "interval": None},
            "teacher": [{**point(1, 2.0, 0.01), "interval": [1.5, 2.1]}],
            "student": [{**point(k, 8.0, 0.01), "interval": None} for k in (1, 2)],
            "gap_closed": {"1": 75.0, "2": None},
            "gap_interval": {"1": [70.0, 81.0], "2": None},
        }
        lines = summary._table({"metrics": document})
        assert "| teacher | 1 | 1 | 2.00 ±0.3 |  | 10.00 |" in lines
        assert "| student | 1 | 1 | 8.00 | 75.0 ±5.5 % | 10.00 |" in lines
        assert "| student | 2 | 2 | 8.00 | no gap | 10.00 |" in lines
        assert "| input |  |  | 1.50 |  |  |" in lines
        assert tables.basis(document) == "256 samples; ± is half the 95 % interval."
        assert tables.basis({**document, "schema": 1}) == "Schema 1: no intervals."
        former = {**document, "schema": 1, "teacher": [{"metrics": {"energy": 1.0}}]}
        assert "former statistic" in tables.basis(former)
    finally:
        sys.modules.pop("summary")
