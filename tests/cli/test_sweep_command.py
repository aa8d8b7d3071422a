"""The command around a sweep: its keys, its words, its exit status."""

from pathlib import Path

import pytest

from omnidistill.evaluation.cells import Cell, Found

GOOD = ("sweep", "task=exact/gaussian_mixture", "recipe=dmd,dmd2", "out=a")


def found(recipe: str, status: str) -> Found:
    cell = Cell("t", recipe, recipe, 0, recipe)
    return Found(cell, Path("a") / cell.folder, status, "", None, None)


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What `runs.sweep.sweep` is asked, and what it answers."""
    from types import SimpleNamespace

    seen: dict = {"statuses": ["finished", "finished"], "ran": 2}

    def sweep(wishes, out, *, retry, command, launcher):
        seen.update(wishes=wishes, out=out, retry=retry, command=command, launcher=launcher)
        listed = [found(f"r{index}", status) for index, status in enumerate(seen["statuses"])]
        return SimpleNamespace(cells=listed, ran=seen["ran"])

    monkeypatch.setattr("omnidistill.runs.sweep.sweep", sweep)
    return seen


def test_what_was_asked_reaches_the_sweep(command, swept, inside: Path) -> None:
    done = command(*GOOD, "seed=3", "updates=5", "retry=true", "--config-dir", str(inside))
    assert (done.status, done.out) == (0, "2 cells: 2 finished\nreport: a/report.html\n")
    assert (swept["out"], swept["retry"]) == ("a", True)
    assert "updates=5" in swept["command"] and swept["command"].endswith("out=DIR"), (
        "for the page, without its place"
    )
    assert "retry" not in swept["command"]
    assert [(w.task, w.choice, w.seed) for w in swept["wishes"]] == [
        ("exact/gaussian_mixture", "dmd", 3),
        ("exact/gaussian_mixture", "dmd2", 3),
    ]
    assert swept["wishes"][0].overrides == ("updates=5", f"configs={inside}")


def test_a_launcher_is_no_key_of_the_cells(command, swept, inside: Path) -> None:
    assert command(*GOOD, "launcher=joblib", "launcher.n_jobs=4").status == 0
    assert swept["launcher"] == {"": "joblib", "n_jobs": "4"}
    assert swept["wishes"][0].overrides == () and "launcher" not in swept["command"]


def test_a_finished_sweep_says_that_nothing_was_left(command, swept, inside: Path) -> None:
    swept["ran"] = 0
    done = command(*GOOD)
    assert done.status == 0
    assert done.out == "nothing was left to run; 2 cells: 2 finished\nreport: a/report.html\n"


@pytest.mark.parametrize(
    "statuses, status",
    [
        (["finished", "failed"], 1),
        (["finished", "not possible"], 0),
        (["failed", "failed"], 1),
    ],
)
def test_failed_cells_are_exit_status_1(
    command, swept, inside: Path, statuses: list[str], status: int
) -> None:
    swept["statuses"] = statuses
    assert command(*GOOD).status == status
    swept["ran"] = 0
    assert ("retry=true" in command(*GOOD).out) == (status == 1)


def test_an_interrupted_sweep_is_exit_status_130(command, inside: Path, monkeypatch) -> None:
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("omnidistill.runs.sweep.sweep", stopped)
    assert command(*GOOD) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    "words, said",
    [
        (GOOD[:-1], "out is missing"),
        ((*GOOD, "retry=yes"), "retry must be one of true, false, got 'yes'"),
        ((*GOOD, "sweep=exat"), "unknown sweep 'exat'; did you mean exact?"),
        (("sweep", "out=a"), "task is missing"),
        ((*GOOD, "updats=1"), "exact/gaussian_mixture · dmd: unknown key 'updats'; did you mean updates"),
        ((*GOOD, "updates=1,2"), "updates takes one value here"),
        ((*GOOD, "recipe=dmd/dmd22"), "unknown recipe 'dmd22'"),
        (("sweep", "runs/a", *GOOD[1:]), "sweep takes key=value, got 'runs/a'"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(
    refused, inside: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in refused(*words)
    assert list(inside.iterdir()) == []


def test_the_page_of_the_command_says_what_a_second_call_does(command) -> None:
    page = command("sweep", "--help").out
    assert "retry=true" in page and "does only what is missing" in page and "Y/Z" in page
