"""The commands' work: train a teacher, distil it, sample, evaluate."""

from omnidistill.runs.distil import distill
from omnidistill.runs.evaluate import evaluate
from omnidistill.runs.sample import sample
from omnidistill.runs.train import train

__all__ = ["distill", "evaluate", "sample", "train"]
