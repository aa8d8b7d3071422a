"""Students of several steps by distribution matching: what each way of training them costs, and whether more steps are
never worse. Runs and table of `evidence`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evidence_record import experiment
from evidence_runs import MIXTURE
from matrix_tables import markdown

STEPS = ("1", "2", "4", "8")
TOLD = "families.matching.step_aware=true"
WALKS = "student.walks=[1,2,4]"
PLAIN = ("recipe=diff-instruct", "updates=1200", "optim.lr=1e-3", "families.matching.critic_updates=3")
RUNS: Mapping[str, tuple[str, ...]] = {
    "1 step": (*PLAIN, "student.steps=1"),
    "4 steps, critic not told": (*PLAIN, "student.steps=4"),
    "4 steps": (*PLAIN, "student.steps=4", TOLD),
    "1, 2 or 4 steps": (*PLAIN, "student.steps=4", WALKS, TOLD),
    "1, 2 or 4 steps, gamma 0.5": (
        *PLAIN,
        "student.steps=4",
        WALKS,
        TOLD,
        "student.transition=gamma",
        "student.gamma=0.5",
    ),
    "4 steps, states: tdm": ("recipe=tdm", "updates=800", "optim.lr=1e-3"),
    "4 steps: fvgen": ("recipe=fvgen", "updates=800", "optim.lr=1e-3"),
}
ABOUT = """Three modes in the plane, `diff-instruct` with three updates of its critic, and two recipes of several steps.
Energy distance at 1, 2, 4 and 8 steps by the transition that each was trained with. *Calls* are those of an update of
the student and its critics. A student of one step is asked at times that it was never trained at once it is sampled
with more. Inputs are those of sampling (`student.inputs=simulated`), which the steps before the trained one cost; of
random numbers of steps one is drawn for each update."""


def steps(again: bool) -> None:
    """The runs."""
    experiment(
        "steps", {name: [*MIXTURE, f"steps={','.join(STEPS)}", *more] for name, more in RUNS.items()}, again
    )


def table(record: Mapping[str, Any]) -> list[str]:
    """A row for each run, the teacher's first."""
    rows = [["trained for", *STEPS, "never worse with more", "calls an update", "seconds"]]
    runs = record["runs"]
    first = next(iter(runs.values()))
    shown = [first["teacher"].get(k) for k in STEPS]
    rows.append(["the teacher", *(figure(point) for point in shown), "", "", ""])
    for name, run in runs.items():
        training = run["training"]
        calls = {role: count / training["student_updates"] for role, count in training["calls"].items()}
        said = ", ".join(
            f"{role} {count:.3g}" for role, count in calls.items() if not role.startswith("teacher_")
        )
        falls = ", ".join(f"{few} to {many}" for few, many in run["falls"])
        verdict = f"no: {falls}" if falls else "yes"
        rows.append(
            [
                name,
                *(figure(run["student"].get(k)) for k in STEPS),
                verdict,
                said,
                f"{training['seconds']:.0f}",
            ]
        )
    return markdown(rows)


def figure(point: Mapping[str, Any] | None) -> str:
    """The energy distance of a point with half of its interval."""
    if point is None:
        return "-"
    ends = point.get("interval")
    return f"{point['energy']:.3f}" + ("" if ends is None else f" ±{(ends[1] - ends[0]) / 2:.2g}")
