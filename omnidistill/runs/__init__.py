"""The commands' work: train a teacher, distil it, sample, evaluate, sweep."""

from omnidistill.runs.distil import distill
from omnidistill.runs.evaluate import evaluate
from omnidistill.runs.sample import sample
from omnidistill.runs.sweep import sweep
from omnidistill.runs.train import train

__all__ = ["distill", "evaluate", "sample", "sweep", "train"]
