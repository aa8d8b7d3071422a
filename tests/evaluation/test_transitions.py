"""One student by other transitions than its own: points, falls, table, page, and files from before there were any."""

import copy
import json
from pathlib import Path

import pytest
import torch

from omnidistill import paths
from omnidistill.configuration.compose import compose
from omnidistill.errors import RunError, UserError
from omnidistill.evaluation.metrics_file import fault, read_metrics, upgraded, write_metrics
from omnidistill.evaluation.report.words import headline
from omnidistill.evaluation.table import figures
from omnidistill.runs.distil import distill
from omnidistill.runs.evaluate import other_samplers
from omnidistill.samplers import FewStep


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transitions") / "run"
    given = ["task=exact/gaussian_mixture", "task.network={width: 8, depth: 1}", "task.teacher_steps=8"]
    given += ["recipe=consistency-models", "updates=2", "batch=8", "fit.updates=0", "evaluation.samples=64"]
    with torch.random.fork_rng():
        distill(compose("config", [*given, "steps=1,2,4", f"out={folder}"]))
    return folder


def test_a_run_has_its_student_by_every_transition_that_its_path_allows(run: Path) -> None:
    document = read_metrics(run)
    assert document["transition"] == "renoise" and list(document["transitions"]) == ["ode", "gamma"]
    for other in document["transitions"].values():
        assert [point["steps"] for point in other["points"]] == [2, 4]
        assert [point["nfe"] for point in other["points"]] == [2, 4]
        assert set(other["gap_closed"]) == {"2", "4"}
    own = {point["steps"]: point["metrics"]["energy"] for point in document["student"]}
    by = {name: other["points"][1]["metrics"]["energy"] for name, other in document["transitions"].items()}
    assert len({own[4], *by.values()}) == 3
    _, rows = figures(document)
    named = [row[:3] for row in rows if row[0].startswith("student")]
    assert ["student, ode", "4", "4"] in named and ["student, gamma", "2", "2"] in named
    page = (run / "report.html").read_text()
    assert "Sampled by ode in place of renoise" in page and "student, gamma" in page


def test_falls_by_another_transition_are_said(run: Path) -> None:
    document = copy.deepcopy(read_metrics(run))
    document["transitions"]["ode"]["falls"] = [[1, 4]]
    document["transitions"]["gamma"]["falls"] = []
    said = headline(document)
    assert "Sampled by ode in place of renoise, its energy gets worse from 1 to 4 steps" in said[-2]
    assert "Sampled by gamma in place of renoise, its energy never gets worse" in said[-1]


def test_a_file_from_before_is_read_and_a_wrong_one_is_not(run: Path, tmp_path: Path) -> None:
    document = json.loads((run / "metrics.json").read_text())
    before = {key: value for key, value in document.items() if not key.startswith("transition")}
    assert fault(before) is None
    assert upgraded(before)["transitions"] == {} and upgraded(before)["transition"] == ""
    assert len(figures(upgraded(before))[1]) == len(figures(document)[1]) - 4
    for change, words in (
        (lambda d: d["transitions"].update(ode=3), "transitions.ode"),
        (lambda d: d["transitions"]["ode"]["points"][0].pop("nfe"), r"points\[0\].nfe is missing"),
        (lambda d: d["transitions"]["ode"]["points"][0].update(steps=0), r"points\[0\].steps is 0"),
        (lambda d: d["transitions"]["ode"].update(falls=[[1]]), "falls"),
        (lambda d: d["transitions"]["ode"]["points"][0]["metrics"].pop("energy"), "lacks the primary"),
    ):
        wrong = copy.deepcopy(document)
        change(wrong)
        with pytest.raises(RunError, match=words):
            write_metrics(wrong, tmp_path)


def test_which_transitions_there_are_is_the_paths_to_say() -> None:
    names, own = ["ode", "renoise", "gamma"], FewStep("renoise", shift=2.0)
    flow = other_samplers(names, own, paths.rectified_flow())
    assert list(flow) == ["ode", "gamma"] and flow["gamma"].gamma == 0.5 and flow["ode"].shift == 2.0
    assert list(other_samplers(names, FewStep("ode"), paths.rectified_flow())) == ["renoise", "gamma"]
    assert list(other_samplers(names, FewStep("ancestral"), paths.brownian_bridge())) == ["renoise"]
    assert other_samplers(names, FewStep("ancestral"), paths.MaskedPath(5)) == {}
    assert other_samplers([], own, paths.rectified_flow()) == {}
    assert other_samplers(None, own, paths.rectified_flow()) == {}  # a run of before
    with pytest.raises(UserError, match="one of ode, renoise, gamma"):
        compose(
            "config", ["task=exact/gaussian_mixture", "recipe=scm", "evaluation.transitions=[euler]", "out=a"]
        )
