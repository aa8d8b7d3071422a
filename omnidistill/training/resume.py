"""From which checkpoint a run goes on, so that it ends as one that was never stopped.

The same number of updates: from the last one. More updates than before: the learning rate of the shorter run may
have begun to fall, at a time that depends on where it was to end. A longer run then goes back to the update at which
the fall began, of which a checkpoint is kept (`steady.safetensors`), and does the rest at the rate of its own length.
Where the objective itself asks how long the run is (a grid that is refined, mentors that are replaced), there is no
such point, and the longer run is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path as FilePath
from typing import Any

import torch

from omnidistill.errors import UserError
from omnidistill.training import checkpoint
from omnidistill.training.settings import Settings

LAST, STEADY = "last.safetensors", "steady.safetensors"


def check(folder: FilePath, settings: Settings) -> None:
    """Before anything is written: refuses what `place` would refuse."""
    _choose(folder, settings)


def place(folder: FilePath, settings: Settings, device: str = "cpu") -> FilePath | None:
    """The checkpoint to go on from, None to start; what the user should know is said in a line on stderr.

    Raises:
        UserError: a run of more updates would not be that which was never stopped.
    """
    chosen, state = _choose(folder, settings)
    if chosen is None:
        return None
    if chosen.name == STEADY:
        branch = settings.optim.steady(state["updates"])
        _say(
            f"goes back from update {state['update']} to {branch}, before the learning rate fell towards the end of "
            f"{state['updates']} updates; from there it is the run of {settings.updates} that was never stopped"
        )
    threads = torch.get_num_threads()
    if device == "cpu" and state.get("threads", threads) != threads:
        _say(
            f"written with threads={state['threads']} and resumed with {threads}: sums run in another order, so that "
            "last digits may differ from a run never stopped"
        )
    return chosen


def _choose(folder: FilePath, settings: Settings) -> tuple[FilePath | None, dict[str, Any]]:
    """The checkpoint and the state of the last one."""
    last, steady = folder / "checkpoints" / LAST, folder / "checkpoints" / STEADY
    if not last.is_file():
        return None, {}
    state = checkpoint.state_of(last)
    former = int(state.get("updates", settings.updates))
    if former >= settings.updates:
        return last, state
    asked = f"cannot resume in '{folder}' with updates={settings.updates}: "
    if state["bound_to_end"]:
        raise UserError(
            f"{asked}the objective changes with the share of the run that is over, and that was {former} updates; "
            "choose another out for a longer run"
        )
    if state["update"] <= settings.optim.steady(former):
        return last, state
    if not steady.is_file():
        raise UserError(
            f"{asked}the learning rate fell towards the end of {former} updates, and {steady} is gone; "
            "choose another out for a longer run"
        )
    return steady, state


def _say(line: str) -> None:
    print(f"resume: {line}", file=sys.stderr)
