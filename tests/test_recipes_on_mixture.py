"""The table of all recipes on one mixture: what holds, what is not run again, what says why it cannot be."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from omnidistill.configuration import listing

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("recipes_on_mixture")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    yield module
    sys.modules.pop("recipes_on_mixture")


def record(recipe: str, **changes) -> dict:
    plane = importlib.import_module("recipes_on_mixture").PLANE
    command = shlex.join(("omnidistill", "distill", *plane, "recipe=dmd2", "steps=1", "out=DIR"))
    made = {"recipe": recipe, "command": command, "steps": 1, "gap": 96.0, "gap_interval": [95.0, 97.0]}
    return (
        made
        | {"modes": 1.0, "seconds": 20.0, "student_updates": 10, "calls": {"student": 20, "teacher": 10}}
        | changes
    )


def test_a_recipe_holds_by_gap_modes_and_time(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.holds(record("a"))
    for change in ({"gap": 94.9}, {"gap": None}, {"modes": 0.8}, {"seconds": 241.0}):
        assert not script.holds(record("a", **change))
    near, far = {"gap": 94.0, "gap_interval": [90.0, 96.0]}, {"gap": 90.0, "gap_interval": [88.0, 92.0]}
    told = [script.verdict(record("a", **change)) for change in ({}, near, far, near | {"modes": 0.8})]
    assert told == ["yes", "not told", "no", "no"]
    text = script.table(
        [record("a"), record("b", gap=None, gap_interval=None), {"recipe": "c", "reason": "needs tokens"}],
        ["d", "e"],
    )
    assert "with more said" not in text and script.FOUR in text
    monkeypatch.setattr(script, "WHY", {"a": "it is slow", "b": "it is small"})
    text_of_both = script.table([record("a"), record("b", gap=90.0)])
    assert "- b falls short: it is small" in text_of_both and "it is slow" not in text_of_both
    single = [
        record("a", gap=97.5),
        record("b", gap=93.0),
        record("c", gap=96.04),
        record("d", steps=4, gap=20.0),
    ]
    assert "Of 3 recipes of one step 1 close 97 %; the others: c 96.0, b 93.0.\n" in script.table(single)
    late = "- near enough, but later than after 240 seconds: a\n"
    assert late in script.table([record("a", seconds=241.0)]) and late not in text_of_both
    more = record("a", command="omnidistill distill task=exact/gaussian_mixture updates=600 recipe=a")
    said = "- with more said than the mixture and the recipe, by the commands in their records: a\n"
    assert said in script.table([more, record("b")])
    assert "| a | 1 | 96.0 (95.0 to 97.0) | 1.00 | 20 | 10 | student 2, teacher 1 | yes |" in text
    assert (
        "| b | 1 | no gap |" in text
        and "1 of 1 hold;" in text
        and "- c: needs tokens" in text
        and "not run yet: d, e" in text
    )


def test_what_has_a_record_is_not_run_again(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(
        script, "run", lambda name, needs, known, more: ran.append((name, *more)) or record(name)
    )

    def call(*words: str) -> list:
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["recipes_on_mixture.py", *words])
        assert script.main() == 0
        return list(ran)

    (_, sixteen), (_, plane) = script.MIXTURES["sixteen"], script.MIXTURES["plane"]
    assert call("dmd2", "lcm") == [("dmd2", *sixteen), ("lcm", *sixteen)]
    assert call("dmd2", "scm") == [("scm", *sixteen)]
    assert call("dmd2", "--again", "updates=9") == [("dmd2", *sixteen, "updates=9")]
    assert call("--minutes", "0") == [] and call("--table") == []
    assert call("scm", "--on", "plane") == [("scm", *plane)]
    for name, expected in (("recipes_on_mixture", {"dmd2", "lcm", "scm"}), ("recipes_on_plane", {"scm"})):
        folder = script.RESULTS / name
        assert {file.stem for file in folder.glob("*.json")} == expected and (folder / "table.md").is_file()


def test_a_recipe_runs_on_the_mixture_or_says_why_not(script: ModuleType) -> None:
    needs = {entry["name"]: entry["needs"] for entry in listing.recipes()}
    for name, says in (
        ("rose-cd", "anchor"),
        ("di-m-o", "masked"),
        ("r0", "where a reward is"),
        ("score-forgetting-distillation", "the law of one label to that of another"),
        ("sdi", "nothing asks for the law of all"),
        ("swiftbrush", None),
        ("adversarial-score-distillation", None),
        ("dmd2", None),
        ("nct", None),
    ):
        reason = script.lacks(name, needs[name])  # nct with labels
        assert reason is None if says is None else says in reason and "\n" not in reason


def test_a_row_is_what_a_run_measured(script: ModuleType) -> None:
    """The smallest run there is: its steps, gap, curve and calls are in the record."""
    small = (
        "updates=2",
        "fit.updates=2",
        "batch=8",
        "evaluation.samples=256",
        "task.network={width: 8, depth: 1}",
    )
    known: dict = {}
    small = [*script.MIXTURE, *small, "task.teacher_steps=4"]
    row = script.run("scott", [], known, small)
    assert (
        row["steps"] == 2
        and set(row["student"]) == {"1", "2", "4"}
        and set(row["teacher"]) == {"1", "2", "4"}
    )
    assert row["calls"]["student"] >= 2 and row["student_updates"] == 2 and row["seconds"] > 0
    assert not script.holds(row)
    again = script.run("scott", [], known, small)
    assert again["teacher"] == row["teacher"] and again["gaps"] == row["gaps"]


def test_a_recipe_is_run_as_a_user_types_it(script: ModuleType) -> None:
    """Its budget is in the packaged configurations."""
    needs = {entry["name"]: entry["needs"] for entry in listing.recipes()}
    for name, (_, mixture) in script.MIXTURES.items():
        for recipe in ("dmd2", "lcm"):
            words = [
                "omnidistill",
                "distill",
                *script.given(recipe, needs[recipe], mixture),
                "steps=1",
                "out=DIR",
            ]
            assert script.typed(shlex.join(words)), name
            assert not script.typed(shlex.join([*words, "updates=9"]))
            assert ("task.conditional=true" in words) == (recipe == "lcm")
            told = next((w.partition("=")[2] for w in words if w.startswith("task.labels=")), "[]")
            count = {"sixteen": 6, "plane": 7}[name] if recipe == "lcm" else 0
            assert json.loads(told) == [k % 2 for k in range(count)]
    tuned = {
        name.rpartition("/")[2]
        for name in listing.names("tuning")
        if name.startswith("exact/gaussian_mixture/")
    }
    rates = {"pdd": 2e-3, "dmd": 1e-3, "ctm": 1e-3, "nitrofusion": 3e-4}
    for name, rate in rates.items():
        cfg = script.compose("config", [*script.given(name, needs[name], script.PLANE), "out=unused"])
        assert cfg.optim.lr == rate and cfg.ema == 0.98 and "student" in tuned


def test_nothing_is_trained_where_the_teacher_leaves_no_gap(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "train_student", None)
    found = script.run("lora-cfg-distill", ["condition"], {}, [*script.MIXTURE, "evaluation.samples=64"])
    assert found == {
        "recipe": "lora-cfg-distill",
        "reason": "no gap to close: the teacher at 16 steps is as good as in full",
    }
