"""A modality in one file: waves of random phase and pitch, as 1-D signals."""

import math

import numpy as np
import torch

from omnidistill import paths
from omnidistill.context import Batch
from omnidistill.evaluation.energy import energy_distance
from omnidistill.exact import MLP
from omnidistill.random import generator
from omnidistill.tasks import Metric, Task

CONFIGS = "omnidistill_waves.configs"


class Waves(Task):
    name, title, primary, teacher_steps = "series/waves", "Noisy sine waves", Metric("energy"), 32

    def __init__(self, length=32, width=128):
        self.path, self.shape, self.width = paths.rectified_flow(), (length,), width

    def batch(self, count, g, split="train"):
        phase, pitch = torch.rand(2, count, 1, generator=g)
        angle = 2 * math.pi * (phase + (1 + (pitch > 0.5).float()) * torch.linspace(0, 1, self.shape[0]))
        return Batch(torch.sin(angle) + 0.05 * torch.randn(angle.shape, generator=g))

    def network(self, *, target_time=False, guidance=False):
        return MLP(self.shape[0], width=self.width, target_time=target_time, guidance=guidance)

    def reading(self):
        return {"parameterisation": "flow", "sigma_data": 0.7}

    def measure(self, x0, context, g):
        return {"energy": energy_distance(x0, self.batch(2048, generator("held out waves"), "held_out").x0)}

    def render(self, x0, context, target):
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots()
        axes.plot(x0.T.numpy())
        figure.savefig(target.with_suffix(".png"))
        plt.close(figure)
        np.savetxt(target.with_suffix(".csv"), x0.numpy(), delimiter=",")
        return [target.with_suffix(".png"), target.with_suffix(".csv")]

    def file_suffix(self):
        return ".csv"
