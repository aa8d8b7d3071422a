"""Every Gaussian path of the literature, as one parametrised fixture, and a seeded generator."""

import pytest
import torch

from omnidistill import paths

GAUSSIAN = {
    "rectified_flow": paths.rectified_flow,
    "vp_cosine": paths.vp_cosine,
    "vp_linear": paths.vp_linear,
    "trigflow": lambda: paths.trigflow(sigma_data=0.5),
    "edm": paths.edm,
    "grad_tts": paths.grad_tts,
    "ouve": paths.ouve,
    "brownian_bridge": lambda: paths.brownian_bridge(scale=0.8),
    "residual_shift": paths.residual_shift,
}


@pytest.fixture(params=GAUSSIAN)
def gaussian(request):
    return GAUSSIAN[request.param]()


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)
