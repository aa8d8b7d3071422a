"""Sweeps: what is run and what is left alone, whatever befalls a cell. Most cells here are a small script that leaves
what `distill` would; the last test runs real ones."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omnidistill.cli import main
from omnidistill.configuration import compose as config
from omnidistill.configuration import sweep_plan as sweeps
from omnidistill.errors import UserError
from omnidistill.evaluation import cells
from omnidistill.evaluation.metrics_file import write_metrics
from omnidistill.runs import sweep as module

MIXTURE, TEXT = "exact/gaussian_mixture", "exact/markov_text"

CHILD = """
import json, os, shutil, signal, sys, time
here, given = sys.argv[1], dict(item.split("=", 1) for item in sys.argv[2:])
name = "-".join((given["task"].split("/")[1], given["recipe"], given["seed"]))
with open(here + "/calls.txt", "a") as calls:
    print(name, "resumed" if given.get("resume") == "true" else "anew", file=calls)
out, bank = given["out"].strip("'"), here + "/bank/" + name
with open(here + "/fates.json") as file:
    fate = json.load(file).get(name)
os.makedirs(out + "/logs", exist_ok=True)
open(out + "/logs/command.txt", "w").close()
if fate != "early":
    shutil.copy(bank + "/config.yaml", out)
if fate in ("nan", "early"):
    print("some remarks")
    sys.exit("error: the loss became NaN at update 7 (run again with --debug for the traceback)")
if fate == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if fate == "empty":
    sys.exit(0)
if fate == "meet":
    open(here + "/here-" + name, "w").close()
    until = time.monotonic() + 60
    while sum(each.startswith("here-") for each in os.listdir(here)) < 2:
        if time.monotonic() > until:
            sys.exit("error: nobody came")
        time.sleep(0.05)
if fate == "long":
    def stop(number, frame):
        with open(here + "/stops.txt", "a") as stops:
            print(number, file=stops)
        raise SystemExit(130)
    signal.signal(signal.SIGINT, stop)
    open(here + "/started", "w").close()
    time.sleep(60)
shutil.copytree(bank, out, dirs_exist_ok=True)
"""

ANSWER = """
import json, sys
runs = json.load(sys.stdin)
with open(sys.argv[1] + "/impossible.json") as file:
    impossible = json.load(file)
print("a remark of some library")
with open(sys.argv[1] + "/asked.txt", "w") as asked:
    print(*("/".join(run[1].split("=")[1] for run in choice) for choice in runs), file=asked)
answers = []
for choice in runs:
    answers.append([])
    for run in choice:
        answers[-1].append(impossible.get("-".join(i.split("=")[1].split("/")[-1] for i in run[:2])))
        if answers[-1][-1] is None:
            break
print(json.dumps(answers))
"""


def document(task: str, recipe: str, seed: int) -> dict:
    def point(steps: int, value: float) -> dict:
        return {
            "steps": steps,
            "nfe": steps,
            "metrics": {"energy": value},
            "seconds_per_sample": 0.001 * steps,
        }

    return {
        "schema": 1,
        "task": task,
        "recipe": recipe,
        "seed": seed,
        "primary": {"name": "energy", "better": "lower"},
        "floor": {"energy": 0.1},
        "teacher": [point(1, 1.1), point(2, 0.6), point(16, 0.1)],
        "student": [point(1, 0.2 + 0.1 * seed), point(2, 0.3)],
        "gap_closed": {"1": 90.0 - 10.0 * seed, "2": 60.0},
        "training": {
            "student_updates": 5,
            "seconds": 1.5,
            "samples_per_second": 10.0,
            "peak_memory_mb": 0.0,
            "calls": {"student": 5, "teacher": 10},
        },
        "environment": {"torch": "2"},
    }


class Place:
    """A folder in which sweeps are run, with what befalls their cells."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.former: tuple[str, ...] = ()
        self.launcher: dict[str, str] | None = None
        self.fates()
        self.impossible()

    def fates(self, **fates: str) -> None:
        (self.folder / "fates.json").write_text(
            json.dumps({k.replace("__", "-"): v for k, v in fates.items()})
        )

    def impossible(self, **reasons: str) -> None:
        found = {key.replace("__", "-"): reason for key, reason in reasons.items()}
        (self.folder / "impossible.json").write_text(json.dumps(found))

    def sweep(self, *given: str, retry: bool = False) -> module.Swept:
        wishes = sweeps.plan(given)
        for wish in wishes:
            for recipe in wish.choices:
                name = "-".join((wish.task.split("/")[1], recipe, str(wish.seed)))
                place = self.folder / "bank" / name
                if (place / "report.html").exists() and wish.overrides == self.former:
                    continue
                place.mkdir(parents=True, exist_ok=True)
                config.save_config(config.compose("config", wish.run(recipe, self.out)), place)
                write_metrics(document(wish.task, recipe, wish.seed), place)
                (place / "report.html").write_text("the page of a run")
        self.former = wishes[0].overrides
        return module.sweep(wishes, self.out, retry=retry, launcher=self.launcher)

    def calls(self) -> list[str]:
        """What was run since the last time this was asked."""
        file = self.folder / "calls.txt"
        said = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return said

    def statuses(self) -> list[str]:
        return [found.status for found in cells.find(self.out)]

    def results(self) -> list[dict]:
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, script in (("child", CHILD), ("answer", ANSWER)):
        (tmp_path / f"{name}.py").write_text(script)
    quick = (sys.executable, "-S", "-E")
    monkeypatch.setattr(module, "DISTILL", (*quick, str(tmp_path / "child.py"), str(tmp_path)))
    monkeypatch.setattr(module, "POSSIBLE", (*quick, str(tmp_path / "answer.py"), str(tmp_path)))
    monkeypatch.setattr(
        "omnidistill.evaluation.report.sweep.comparison_curve", lambda *_: ""
    )  # takes seconds
    return Place(tmp_path)


FOUR = (f"task={MIXTURE},{TEXT}", "recipe=cdlm", "seed=0,1", "updates=5")


def test_only_what_is_missing_is_run(place: Place, capsys: pytest.CaptureFixture) -> None:
    assert place.sweep(*FOUR).ran == 4
    assert place.calls() == [
        f"{task}-cdlm-{seed} anew" for seed in (0, 1) for task in ("gaussian_mixture", "markov_text")
    ]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"[1/4] {MIXTURE} · cdlm · seed 0: gap closed 90.0 % at 1 step, ")
    results = (place.out / "results.jsonl").read_bytes()
    assert place.sweep(*FOUR).ran == 0 and place.calls() == []
    assert (place.out / "results.jsonl").read_bytes() == results

    cell = place.out / TEXT / "cdlm"
    shutil.rmtree(cell / "1")
    (cell / "1.json").unlink()
    assert place.sweep(*FOUR).ran == 1
    assert place.calls() == ["markov_text-cdlm-1 anew"]


def test_results_have_a_line_for_each_cell_model_and_step_count(place: Place) -> None:
    place.sweep(f"task={MIXTURE}", "recipe=cdlm/dmd,cdlm", "seed=0,1", "updates=5")
    lines = place.results()
    keys = [(r["task"], r["recipe"], r["seed"], r["model"], r["steps"]) for r in lines]
    assert keys == [
        (MIXTURE, "cdlm", seed, model, steps)
        for seed in (0, 1)
        for model, counts in (("teacher", (1, 2, 16)), ("student", (1, 2)))
        for steps in counts
    ], "a run that stands in two columns has its lines once"
    first = next(r for r in lines if r["model"] == "student")
    assert first["gap_closed"] == 90.0 and first["nfe"] == 1 and first["metrics"] == {"energy": 0.2}
    assert first["training"] == {"seconds": 1.5, "student_updates": 5, "calls": {"student": 5, "teacher": 10}}
    assert first["environment"] == {"torch": "2"} and first["seconds_per_sample"] == 0.001
    assert all(r["gap_closed"] is None for r in lines if r["model"] == "teacher")


def test_a_cell_that_fails_stops_no_other(place: Place, capsys: pytest.CaptureFixture) -> None:
    place.fates(
        gaussian_mixture__cdlm__0="nan", markov_text__cdlm__0="killed", gaussian_mixture__cdlm__1="empty"
    )
    assert place.sweep(*FOUR).ran == 4
    assert place.statuses() == ["failed", "failed", "failed", "finished"]
    failed = [(r["exit_status"], r["reason"]) for r in place.results() if r["status"] == "failed"]
    assert failed == [
        (1, "the loss became NaN at update 7"),
        (137, "killed by SIGKILL, as systems do when memory runs out"),
        (0, "it ended well and left no whole results"),
    ]
    assert "failed (the loss became NaN at update 7)" in capsys.readouterr().err
    log = (place.out / MIXTURE / "cdlm" / "0.log").read_text()
    assert "some remarks" in log and "--debug" in log

    place.calls(), place.fates()
    assert place.sweep(*FOUR).ran == 0 and place.calls() == [], "failures wait for retry"
    assert place.sweep(*FOUR, retry=True).ran == 3
    assert place.calls() == [
        f"{task} resumed"
        for task in ("gaussian_mixture-cdlm-0", "markov_text-cdlm-0", "gaussian_mixture-cdlm-1")
    ]
    assert place.statuses() == ["finished"] * 4
    assert cells.read_outcome(place.out / MIXTURE / "cdlm" / "0").attempts == 2


def test_a_cell_that_never_came_to_its_configuration_starts_anew(place: Place) -> None:
    place.fates(gaussian_mixture__dmd__0="early")
    place.sweep(f"task={MIXTURE}", "recipe=dmd", "updates=5")
    assert (place.out / MIXTURE / "dmd" / "0" / "logs").is_dir() and place.statuses() == ["failed"]
    place.fates()
    place.sweep(f"task={MIXTURE}", "recipe=dmd", "updates=5", retry=True)
    assert place.calls() == ["gaussian_mixture-dmd-0 anew"] * 2 and place.statuses() == ["finished"]


@pytest.mark.parametrize("lacking", ["metrics.json", "report.html"])
def test_a_run_without_its_last_files_is_gone_on_with(place: Place, lacking: str) -> None:
    given = (f"task={MIXTURE}", "recipe=dmd", "updates=5")
    place.sweep(*given)
    (place.out / MIXTURE / "dmd" / "0" / lacking).unlink()
    assert place.statuses() == ["interrupted"]
    place.sweep(*given)
    assert place.calls() == ["gaussian_mixture-dmd-0 anew", "gaussian_mixture-dmd-0 resumed"]


def test_the_first_recipe_that_the_task_allows(place: Place, capsys: pytest.CaptureFixture) -> None:
    place.impossible(
        markov_text__dmd="dmd needs differentiable", gaussian_mixture__cdlm="no", markov_text__cdlm=None
    )
    given = (f"task={MIXTURE},{TEXT}", "recipe=dmd/cdlm,dmd", "updates=5")
    assert place.sweep(*given).ran == 2
    found = cells.find(place.out)
    assert [(f.cell.recipe, f.status) for f in found] == [
        *(("dmd", "finished"), ("dmd", "finished"), ("cdlm", "finished")),
        (None, "not possible"),
    ]
    assert found[3].reason == "dmd needs differentiable"
    assert place.calls() == ["gaussian_mixture-dmd-0 anew", "markov_text-cdlm-0 anew"]
    assert f"{TEXT} · dmd · seed 0: not possible (dmd needs differentiable)" in capsys.readouterr().err
    (line,) = [r for r in place.results() if r["status"] == "not possible"]
    assert line["recipe"] == "dmd" and line["exit_status"] is None

    place.impossible()  # e.g. the data have been fetched since
    assert place.sweep(*given).ran == 1 and place.calls() == ["markov_text-dmd-0 anew"]
    assert cells.find(place.out)[2].cell.recipe == "cdlm", "a choice that was made stays"


def test_of_what_is_asked_twice_each_seed_gets_the_same_answer(place: Place) -> None:
    place.impossible(gaussian_mixture__cdlm="cdlm needs masked")
    place.sweep(f"task={MIXTURE}", "recipe=cdlm/dmd", "seed=0,1,2", "updates=5")
    assert [found.cell.recipe for found in cells.find(place.out)] == ["dmd"] * 3
    assert (place.folder / "asked.txt").read_text().split() == ["cdlm/dmd"], (
        "of three seeds one is asked about"
    )


def test_if_nobody_can_say_what_is_possible_the_cells_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POSSIBLE", (sys.executable, "-S", "-c", "raise SystemExit(3)"))
    assert place.sweep(f"task={MIXTURE}", "recipe=dmd", "updates=5").ran == 1


def test_another_configuration_is_refused_and_more_seeds_are_not(place: Place) -> None:
    given = (f"task={MIXTURE}", "recipe=dmd")
    place.sweep(*given, "updates=5")
    for change, said in (("updates=6", "updates was 5 and is now 6"), ("task.std=0.3", "task.std was ")):
        with pytest.raises(UserError, match=said) as caught:
            place.sweep(*given, *({"updates=5", change} if change[0] == "t" else {change}))
        assert "\n" not in str(caught.value) and "choose another out" in str(caught.value)
    place.calls()
    assert place.sweep(*given, "updates=5", "seed=0,1", "threads=1").ran == 1
    assert place.calls() == ["gaussian_mixture-dmd-1 anew"]
    assert len(cells.find(place.out)) == 2


@pytest.mark.parametrize(
    "given, said",
    [
        (("updates=0",), "exact/gaussian_mixture · dmd: updates must be a whole number"),
        (("updats=1",), "did you mean updates"),
        (("families.consistency.decay=0.5",), "has no effect"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(place: Place, given: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        module.sweep(sweeps.plan([f"task={MIXTURE}", "recipe=dmd", *given]), place.out)
    assert not place.out.exists()


def test_a_folder_of_something_else_is_left_as_it_is(place: Place) -> None:
    place.out.mkdir()
    (place.out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and has no sweep\.json"):
        place.sweep(f"task={MIXTURE}", "recipe=dmd", "updates=5")
    assert os.listdir(place.out) == ["notes.txt"]


def test_a_second_sweep_in_the_same_folder_is_kept_out(place: Place) -> None:
    given = (f"task={MIXTURE}", "recipe=dmd", "updates=5")
    place.sweep(*given)
    with (place.out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another sweep is at work"):
            place.sweep(*given)
    assert place.sweep(*given).ran == 0


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a shell, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def when(done: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    def watch() -> None:
        while not done():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_the_running_cell_once(
    place: Place, interruptible: None, number: int
) -> None:
    place.fates(markov_text__cdlm__0="long")
    watch = when((place.folder / "started").exists, lambda: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        place.sweep(*FOUR)
    watch.join()
    assert (place.folder / "stops.txt").read_text().split() == [str(int(signal.SIGINT))]
    assert place.statuses() == ["finished", "interrupted", "waiting", "waiting"]
    assert [r["status"] for r in place.results()][-3:] == ["interrupted", "waiting", "waiting"]
    assert "1 finished, 1 interrupted, 2 waiting" in (place.out / "report.html").read_text()

    place.calls(), place.fates()
    assert place.sweep(*FOUR).ran == 3
    assert place.calls() == [
        "markov_text-cdlm-0 resumed",
        "gaussian_mixture-cdlm-1 anew",
        "markov_text-cdlm-1 anew",
    ]


def test_a_lock_that_a_surviving_cell_holds(place: Place, interruptible: None) -> None:
    """The sweep is killed, its cell goes on: nobody may start that cell a second time."""
    place.fates(gaussian_mixture__dmd__0="long")
    given = (f"task={MIXTURE}", "recipe=dmd", "updates=5")
    refused: list[str] = []

    def second() -> None:
        with (place.out / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append("yes")
        os.kill(os.getpid(), signal.SIGINT)

    watch = when((place.folder / "started").exists, second)
    with pytest.raises(KeyboardInterrupt):
        place.sweep(*given)
    watch.join()
    assert refused == ["yes"]


# --- real cells -------------------------------------------------------------------------------------------------------

TINY = (
    *("updates=2", "batch=8", "fit.updates=2", "steps=1,2", "evaluation.samples=32", "device=cpu"),
    *("threads=1", "recipe=consistency-models/cdlm", "task.teacher_steps=4"),
)


@pytest.mark.slow
def test_real_cells(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A mixture and a text by one column: consistency in the form that each allows, in processes of their own."""
    out = tmp_path / "out"
    words = ["sweep", f"task={MIXTURE},{TEXT}", *TINY, f"out={out}"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["2 cells: 2 finished", f"report: {out}/report.html"]
    made = [(out / MIXTURE / "consistency-models" / "0"), (out / TEXT / "cdlm" / "0")]
    for run in made:
        assert json.loads((run / "metrics.json").read_text())["training"]["student_updates"] == 2
        assert (run / "student.safetensors").is_file()
    page = (out / "report.html").read_text()
    assert page.count('">seed 0</a>') == 2 and page.count("data:image/") == 3
    assert page.count("<pre>") == 4, "a text is shown as such, and so is the command"
    stamps = [(run / "metrics.json").stat().st_mtime_ns for run in made]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("nothing was left to run; 2 cells: 2 finished\n")
    assert [(run / "metrics.json").stat().st_mtime_ns for run in made] == stamps


def test_what_a_task_does_not_allow_is_said_by_the_task_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import DictConfig

    from omnidistill.runs import setup
    from omnidistill.runs.possible import Reasons

    def run(task: str, recipe: str, *more: str) -> list[str]:
        return [f"task={task}", f"recipe={recipe}", *more, "seed=0", "out=unused"]

    built: list[object] = []
    task_of = setup.task_of

    def counted(cfg: DictConfig) -> object:
        made = task_of(cfg)
        built.append(made)
        return made

    monkeypatch.setattr(setup, "task_of", counted)
    reasons = Reasons()
    assert reasons.reason(run(MIXTURE, "dmd2")) is None
    said = reasons.reason(run(MIXTURE, "dmd2", "guidance=2.0")) or ""
    assert said.startswith("guidance=2.0 needs a conditional task") and len(built) == 1, "the task is kept"
    assert reasons.reason(run(MIXTURE, "dmd2", "task.std=-1")) is None, "the run says what is wrong"
    said, possible = reasons.choice([run(TEXT, "dmd2"), run(TEXT, "cdlm"), run(TEXT, "sdtt")])
    assert possible is None, "nobody asks about the third"
    assert said == f"dmd2 needs differentiable, which {TEXT} with MaskedPath(vocab=12) does not offer"


# --- launchers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "launcher, package",
    [
        ({"": "joblib", "n_jobs": "2"}, "hydra_plugins.hydra_joblib_launcher"),
        ({"": "submitit_local", "timeout_min": "5"}, "hydra_plugins.hydra_submitit_launcher"),
    ],
    ids=["joblib", "submitit"],
)
def test_cells_by_a_launcher_of_hydra(place: Place, launcher: dict[str, str], package: str) -> None:
    """One cell fails, the other does not; the sweep that follows knows both, and runs what is left by itself."""
    pytest.importorskip(package)
    place.fates(gaussian_mixture__cdlm__0="nan")
    place.launcher = launcher
    assert place.sweep(f"task={MIXTURE},{TEXT}", "recipe=cdlm", "updates=5").ran == 2
    assert sorted(place.calls()) == ["gaussian_mixture-cdlm-0 anew", "markov_text-cdlm-0 anew"]
    assert place.statuses() == ["failed", "finished"]
    (failed,) = [line for line in place.results() if line["status"] == "failed"]
    assert failed["reason"] == "the loss became NaN at update 7"
    place.fates()
    place.launcher = None
    assert place.sweep(f"task={MIXTURE},{TEXT}", "recipe=cdlm", "updates=5", retry=True).ran == 1
    assert place.calls() == ["gaussian_mixture-cdlm-0 resumed"] and place.statuses() == ["finished"] * 2


def test_cells_of_joblib_are_at_work_at_the_same_time(place: Place) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    place.fates(gaussian_mixture__cdlm__0="meet", markov_text__cdlm__0="meet")
    place.launcher = {"": "joblib", "n_jobs": "2"}
    assert place.sweep(f"task={MIXTURE},{TEXT}", "recipe=cdlm", "updates=5").ran == 2
    assert place.statuses() == ["finished"] * 2, "each waited for the other to have begun"


def test_a_launcher_that_is_not_there_is_one_line(place: Place, capsys: pytest.CaptureFixture) -> None:
    place.launcher = {"": "cloud"}
    with pytest.raises(UserError, match=r"launcher=cloud does not work .*omnidistill\[joblib\]") as caught:
        place.sweep(f"task={MIXTURE}", "recipe=dmd", "updates=5")
    assert "\n" not in str(caught.value) and place.statuses() == ["waiting"]
    assert main(["sweep", f"task={MIXTURE}", "recipe=dmd", "launcher.n_jobs=2", f"out={place.out}"]) == 2
    assert "name it, e.g. launcher=joblib" in capsys.readouterr().err
