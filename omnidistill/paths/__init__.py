"""How data become noise, and the exact way back. t = 0 is data, t = 1 is the prior, for every path."""

from omnidistill.paths.base import Path, floored, grid, shifted
from omnidistill.paths.gaussian import GaussianPath
from omnidistill.paths.masked import MaskedPath
from omnidistill.paths.named import (
    brownian_bridge,
    discrete,
    edm,
    grad_tts,
    ouve,
    rectified_flow,
    residual_shift,
    trigflow,
    vp_cosine,
    vp_linear,
)
from omnidistill.paths.onehot import OneHotPath
from omnidistill.paths.symmetry import RigidMotion
from omnidistill.paths.table import TablePath
from omnidistill.paths.uniform import UniformPath

__all__ = [
    "GaussianPath",
    "MaskedPath",
    "OneHotPath",
    "Path",
    "RigidMotion",
    "TablePath",
    "UniformPath",
    "brownian_bridge",
    "discrete",
    "edm",
    "floored",
    "grad_tts",
    "grid",
    "ouve",
    "rectified_flow",
    "residual_shift",
    "shifted",
    "trigflow",
    "vp_cosine",
    "vp_linear",
]
