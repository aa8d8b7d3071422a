"""Walk a grid of times with a denoiser, count every network call."""

from omnidistill.samplers.base import Rollout, Sample, Sampler, Trajectory
from omnidistill.samplers.confidence import Confidence
from omnidistill.samplers.few_step import FewStep
from omnidistill.samplers.growing import Growing, student_sampler
from omnidistill.samplers.solvers import Ancestral, Euler, Heun, deterministic

__all__ = [
    "Ancestral",
    "Confidence",
    "Euler",
    "FewStep",
    "Growing",
    "Heun",
    "Rollout",
    "Sample",
    "Sampler",
    "Trajectory",
    "deterministic",
    "student_sampler",
]
