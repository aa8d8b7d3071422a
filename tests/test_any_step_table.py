"""The any-step table: every step count of teacher and student, what of the gap is closed, and where quality falls."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from omnidistill.configuration.compose import compose

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("any_step")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "any_step")
    monkeypatch.setattr(module, "MATRIX", tmp_path / "matrix")
    yield module
    sys.modules.pop("any_step")


def document(task: str, recipe: str, falls: list[list[int]], device: str = "cpu") -> dict:
    def point(steps: int, value: float) -> dict:
        return {"steps": steps, "metrics": {"energy": value}}

    metrics = {
        "task": task,
        "recipe": recipe,
        "primary": {"name": "energy", "better": "lower"},
        "teacher": [point(1, 1.0), point(2, 0.5), point(64, 0.125)],
        "student": [point(1, 0.25), point(2, 0.3)],
        "gap_closed": {"1": 85.714, "2": None},
        "falls": falls,
        "environment": {"device": device},
    }
    return {"command": "omnidistill distill", "wall_seconds": 90.0, "metrics": metrics}


def test_the_table_has_every_step_and_says_where_it_falls(script: ModuleType) -> None:
    for folder, name, found in (
        (script.RESULTS, "one-new", document("a/b", "new", [])),
        (script.MATRIX, "a_b-old-0", document("a/b", "old", [[1, 2]], "H100")),
        (script.MATRIX, "c_d-old-0", document("c/d", "old", [])),
    ):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(found))
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in script.table())
    new, old = (dict(zip(head, row, strict=True)) for row in rows)  # c/d has no any-step student beside it
    assert (new["cell"], old["cell"]) == ("one-new", "a_b-old-0")
    assert new["recipe"] == "new" and new["monotone"] == "yes" and old["monotone"] == "no: 1 to 2"
    assert new["teacher, full"] == "0.1250 (64)" and new["metric"] == "energy ↓" and new["minutes"] == "1.5"
    assert old["minutes"] == "1.5 (H100)"
    assert new["by other transitions at 2, 4, 8, 16"] == "-"
    assert new["teacher at 1, 2, 4, 8, 16"] == "1.00 / 0.5000 / - / - / -"
    assert new["student at 1, 2, 4, 8, 16"] == "0.2500 / 0.3000 / - / - / -"
    assert new["gap closed, %"] == "85.7 / - / - / - / -"
    assert script.section()[0] == "## Any step"


def test_nothing_made_is_no_section(script: ModuleType) -> None:
    assert script.section() == []


def test_every_cell_composes(script: ModuleType) -> None:
    for name, overrides in {**script.CELLS, **script.LONG}.items():
        cfg = compose("config", [*overrides, "out=unused"])
        # Consistency models stand beside the map, and the trajectories of adk's teacher end badly.
        renoises = cfg.recipe.name == "consistency-models" or name.startswith("adk")
        assert name.endswith(cfg.recipe.name) and cfg.student.transition == ("renoise" if renoises else "ode")


def test_long_cells_are_run_where_they_are_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(script, "run", lambda overrides: ran.append(overrides) or document("a/b", "c", []))
    monkeypatch.setattr(sys, "argv", ["any_step.py"])
    assert script.main() == 0 and ran == list(script.CELLS.values())
    name, long = next(iter(script.LONG.items()))
    monkeypatch.setattr(sys, "argv", ["any_step.py", name])
    assert script.main() == 0 and ran[len(script.CELLS) :] == [long]
    assert (script.RESULTS / f"{name}.json").is_file()


def test_other_transitions_and_what_is_as_good_as_the_whole_teacher(script: ModuleType) -> None:
    found = document("a/b", "new", [])
    points = [{"steps": k, "metrics": {"energy": v}} for k, v in ((4, 0.5), (2, 0.25))]
    found["metrics"]["transitions"] = {"renoise": {"points": points}, "gamma": {"points": points[1:]}}
    script.RESULTS.mkdir()
    full = {"steps": 64, "metrics": {"energy": 0.125}, "interval": [0.1, 0.15]}
    found["metrics"]["teacher"] = [full]
    for name, ends in (("far", [0.16, 0.2]), ("near", [0.14, 0.2]), ("past", [0.01, 0.09])):
        found["metrics"]["student"] = [{"steps": 8, "metrics": {"energy": 0.1}, "interval": ends}]
        (script.RESULTS / f"{name}.json").write_text(json.dumps(found))
    head, _, row, *_ = ([cell.strip() for cell in line.strip("|").split("|")] for line in script.table())
    said = dict(zip(head, row, strict=True))["by other transitions at 2, 4, 8, 16"]
    assert said == "renoise 0.2500 / 0.5000; gamma 0.2500"
    better, told, worse = script.whole()
    assert better.endswith("better than the teacher in full: past") and told.endswith(": near")
    assert worse == "- at 8 steps not as good as the teacher in full: far"


RECORDS = sorted((BENCHMARKS / "results/any_step").glob("*.json"))


def test_the_committed_table_and_page_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    try:
        lines = importlib.import_module("any_step").table()
    finally:
        sys.modules.pop("any_step")
    assert (BENCHMARKS / "results/any_step/table.md").read_text() == "\n".join(lines) + "\n"
    page = (BENCHMARKS.parent / "docs/results.md").read_text()
    assert "\n".join(lines) in page.split("## Any step", 1)[1]


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_where_a_record_says_that_more_steps_are_never_worse_its_figures_say_so(file: Path) -> None:
    """Records keep the interval of each figure, not the resamples: a fall between two whose intervals are apart would
    be one in any case, and one that is said is from the best of all fewer steps to a worse figure."""
    metrics = json.loads(file.read_text())["metrics"]
    name, sign = metrics["primary"]["name"], 1.0 if metrics["primary"]["better"] == "lower" else -1.0
    points = sorted(metrics["student"], key=lambda point: point["steps"])
    assert len(points) >= 4
    value = {point["steps"]: sign * point["metrics"][name] for point in points}
    ends = {point["steps"]: sorted(sign * end for end in point["interval"]) for point in points}
    said = {many: few for few, many in metrics["falls"]}
    for many in list(value)[1:]:
        best = min((few for few in value if few < many), key=value.__getitem__)
        if many in said:
            assert said[many] == best and value[many] > value[best]
        else:
            assert ends[many][0] <= ends[best][1], f"{many} steps are worse than {best}"


def test_records_are_of_the_cells_as_they_stand(script: ModuleType) -> None:
    """Those of `vp_linear` were made when the ratio and the schedule that their cells say were the defaults."""
    cells = {**script.CELLS, **script.LONG}
    assert {file.stem for file in RECORDS} <= {*cells}
    for file in RECORDS:
        wanted = {"omnidistill", "distill", "seed=0", "threads=1", *cells[file.stem]}
        made = set(shlex.split(json.loads(file.read_text())["command"]))
        if "vp_linear" in file.stem:
            assert {word.partition("=")[0] for word in wanted ^ made} == {"task.network", "optim.decay"}
        else:
            assert made == wanted, file.stem


def test_consistency_models_that_renoise_fall_where_a_flow_map_of_the_same_budget_does_not() -> None:
    fallen = {
        recipe: json.loads((BENCHMARKS / f"results/any_step/mixture_16d-{recipe}.json").read_text())[
            "metrics"
        ]
        for recipe in ("consistency-models", "flow-map-matching")
    }
    assert fallen["consistency-models"]["transition"] == "renoise" and fallen["consistency-models"]["falls"]
    assert fallen["flow-map-matching"]["transition"] == "ode" and not fallen["flow-map-matching"]["falls"]
