"""Conformance suites: the properties that everybody's paths, denoisers, objectives and tasks must have.

    from omnidistill.testing import check_task
    check_task(MyTask())

Each suite raises a `ConformanceError` of one line, which property failed and what was seen, and returns one line for
each property that held.
"""

from omnidistill.testing.base import ConformanceError
from omnidistill.testing.beliefs import check_belief
from omnidistill.testing.denoisers import check_denoiser
from omnidistill.testing.objectives import check_objective
from omnidistill.testing.paths import check_path
from omnidistill.testing.plugin import check_plugin
from omnidistill.testing.tasks import check_task

__all__ = [
    "ConformanceError",
    "check_belief",
    "check_denoiser",
    "check_objective",
    "check_path",
    "check_plugin",
    "check_task",
]
