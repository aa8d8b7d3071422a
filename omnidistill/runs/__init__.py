"""The commands' work: train a teacher, distil it, sample, evaluate, sweep."""

from omnidistill.runs.distil import distill
from omnidistill.runs.evaluate import evaluate
from omnidistill.runs.sample import sample, sample_inputs
from omnidistill.runs.sweep import sweep
from omnidistill.runs.train import train

__all__ = ["distill", "evaluate", "sample", "sample_inputs", "sweep", "train"]
