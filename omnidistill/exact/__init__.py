"""Tasks whose teacher is known in closed form: what is measured on them is the distillation alone."""

from omnidistill.exact.gaussian_mixture import GaussianMixtureTask, MixtureDenoiser
from omnidistill.exact.networks import MLP

__all__ = ["MLP", "GaussianMixtureTask", "MixtureDenoiser"]
