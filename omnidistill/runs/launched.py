"""Cells of a sweep through a Hydra launcher: side by side in processes (joblib), or as jobs of a cluster (submitit).

What a cell is stays the sweep's business; a launcher is told numbers, and each of its jobs looks up in the sweep's
folder, which all of them see, what that number is, and runs it in a process of its own as the sweep would have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidistill.configuration import plugins
from omnidistill.configuration.overrides import quoted
from omnidistill.data.files import write_text
from omnidistill.errors import RunError, UserError

JOBS = "jobs.json"
PLACE = ".jobs"


def launch(jobs: Sequence[Mapping[str, Any]], folder: Path, launcher: Mapping[str, str]) -> None:
    """Runs all jobs and comes back when the last one has ended.

    Args:
        jobs: what each of them needs, as JSON has it.
        folder: of the sweep.
        launcher: its name under the key `""`, and its options, as the user typed them.

    Raises:
        UserError: no such launcher, or none of its options.
        RunError: the launcher itself failed.
    """
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if not jobs:
        return
    (folder / PLACE).mkdir(exist_ok=True)
    write_text(json.dumps(list(jobs)), folder / PLACE / JOBS)
    given = [f"hydra/launcher={launcher['']}"]
    given += [f"hydra.launcher.{key}={value}" for key, value in launcher.items() if key]
    given += [f"folder={quoted(str(folder.absolute()))}", f"number={','.join(map(str, range(len(jobs))))}"]
    with initialize_config_module(plugins.BUILT_IN, job_name="sweep", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            returned = hydra.multirun("launch", cell, given)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(
                f"launcher={launcher['']} does not work ({' '.join(str(error).split())[:200]}); those of Hydra are "
                "extras: pip install 'omnidistill[joblib]' or 'omnidistill[submitit]'"
            ) from error
    for job in [job for part in returned for job in part]:
        if isinstance(job._return_value, Exception):
            raise RunError(f"launcher={launcher['']} lost a cell: {job._return_value}") from job._return_value


def cell(cfg: Any) -> None:
    """One job, wherever it was put."""
    from omnidistill.runs.sweep import run_described

    folder = Path(cfg.folder)
    jobs = json.loads((folder / PLACE / JOBS).read_text(encoding="utf-8"))
    run_described(jobs[int(cfg.number)], folder)
