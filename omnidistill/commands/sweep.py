"""sweep: tasks x recipes x seeds."""

from __future__ import annotations

import shlex

from omnidistill.commands import Arguments, Command
from omnidistill.errors import UserError

EXAMPLE = (
    "omnidistill sweep task=exact/gaussian_mixture,exact/markov_text recipe=consistency-models/cdlm,dmd2/di-m-o "
    "seed=0,1 out=runs/sweep"
)

KEYS = {
    "task=A,B": "tasks, a row each",
    "recipe=X,Y/Z": "recipes, a column each; Y/Z is Y where the task allows it, else Z",
    "seed=0,1": "seeds; 0 by default",
    "out=DIR": "folder that the command makes, or goes on with",
    "sweep=NAME": "the lists of sweep/NAME.yaml, here or in configs=DIR; task, recipe and seed replace its own",
    "launcher=NAME": "a Hydra launcher that runs the cells: joblib, submitit_slurm, ...; launcher.X=V are its options",
    "retry=true": "run the cells again that have failed",
    "key=value": "any key of distill, for every cell",
}

MORE = """Every cell is a run of `distill` in DIR/TASK/RECIPE/SEED and a process of its own: one that fails stops no
other. The same command again does only what is missing: what is finished is left alone, what was interrupted goes
on from its checkpoint, what failed is left as it is unless retry=true. More tasks, recipes or seeds may be added in
the same DIR; any other change of a cell's configuration is refused. Ctrl-C keeps the running cell's checkpoint.
Cells run one after another; launcher=joblib launcher.n_jobs=4 runs four at once, launcher=submitit_slurm on a cluster.

Writes results.jsonl (a line for each cell, model and step count) and report.html in DIR. Exit status 1 if a cell has
failed; a recipe that a task does not allow is `not possible` and no failure."""


def sweep(arguments: Arguments) -> int:
    """`omnidistill sweep`: the exit status, 1 where a cell failed."""
    from omnidistill.configuration import sweep_plan as sweeps
    from omnidistill.configuration import values

    own = {"out": "", "sweep": "", "retry": "false"}
    rest = []
    launcher: dict[str, str] = {}
    for item in arguments.overrides:
        key, _, value = item.partition("=")
        if key in own:
            own[key] = value.strip(" '\"")
        elif key == "launcher" or key.startswith("launcher."):
            launcher[key.removeprefix("launcher").removeprefix(".")] = value
        else:
            rest.append(item)
    if not own["out"]:
        raise UserError("out is missing; for example out=runs/sweep")
    values.one_of("true", "false")("retry", own["retry"])
    if launcher and not launcher.get(""):
        raise UserError(
            f"launcher.{next(iter(launcher))} is an option of a launcher; name it, e.g. launcher=joblib"
        )
    wishes = sweeps.plan(rest, own["sweep"] or None)
    from omnidistill.evaluation import cells
    from omnidistill.runs import sweep as matrix

    # Without its place and what it was told of this call: the page shows how to make the same sweep elsewhere.
    ours = ("out", "retry", "launcher")
    kept = [item for item in arguments.overrides if item.partition("=")[0].partition(".")[0] not in ours]
    command = shlex.join(["omnidistill", "sweep", *kept, "out=DIR"])
    swept = matrix.sweep(wishes, own["out"], retry=own["retry"] == "true", command=command, launcher=launcher)
    statuses = [each.status for each in cells.single(swept.cells)]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    print(("" if swept.ran else "nothing was left to run; ") + f"{len(statuses)} cells: {counts}")
    print(f"report: {own['out']}/report.html")
    failed = cells.FAILED in statuses
    if failed and not swept.ran:
        print("retry=true runs again what has failed")
    return 1 if failed else 0


COMMANDS = (
    Command(
        "sweep",
        "task=A,B recipe=X,Y seed=0,1 out=DIR [key=value ...]",
        "tasks x recipes x seeds, with one page that compares them; run again, it does what is missing",
        sweep,
        EXAMPLE,
        KEYS,
        MORE,
    ),
)
