"""A network, its parameterisation and its guidance: something that answers x_t with a belief about x0."""

from omnidistill.denoisers.base import Denoiser
from omnidistill.denoisers.guidance import Guided, Told
from omnidistill.denoisers.network import NetworkDenoiser
from omnidistill.denoisers.parameterisation import PARAMETERISATIONS, convert
from omnidistill.denoisers.policies import PolicyDenoiser
from omnidistill.denoisers.windowed import Windowed

__all__ = [
    "PARAMETERISATIONS",
    "Denoiser",
    "Guided",
    "NetworkDenoiser",
    "PolicyDenoiser",
    "Told",
    "Windowed",
    "convert",
]
