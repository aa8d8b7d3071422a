"""Tasks whose teacher is known in closed form: what is measured on them is the distillation alone."""

from omnidistill.exact.bridge import BridgeDenoiser, BridgeTask
from omnidistill.exact.gaussian_mixture import GaussianMixtureTask, MixtureDenoiser
from omnidistill.exact.markov_text import ChainDenoiser, MarkovTextTask
from omnidistill.exact.rigid_cloud import CloudDenoiser, RigidCloudTask
from omnidistill.networks.mlp import MLP
from omnidistill.networks.point_transformer import PointTransformer
from omnidistill.networks.posed_memory import PosedMemory
from omnidistill.networks.transformer import Transformer

__all__ = [
    "MLP",
    "BridgeDenoiser",
    "BridgeTask",
    "ChainDenoiser",
    "CloudDenoiser",
    "GaussianMixtureTask",
    "MarkovTextTask",
    "MixtureDenoiser",
    "PointTransformer",
    "PosedMemory",
    "RigidCloudTask",
    "Transformer",
]
