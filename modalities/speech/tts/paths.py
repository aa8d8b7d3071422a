"""The corruptions of log-mels that the task offers, by name. The anchor is mu, the mean that the text predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from omnidistill.errors import unknown
from omnidistill.paths import GaussianPath, rectified_flow
from omnidistill.paths.named import grad_tts


def comospeech(
    sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, temperature: float = 1.0
) -> GaussianPath:
    """`x_t = x0 + sigma (z + mu)`, `sigma = sigma_max t^rho` (Ye et al. 2023, arXiv:2305.06908, sec. 3.1).

    Uniform times are Karras's grid, as on the path `edm`; mu grows with the noise, so the prior is N(mu, I) scaled.
    """
    low = (sigma_min / sigma_max) ** (1.0 / rho)
    return GaussianPath(
        "comospeech",
        alpha=lambda t: t.new_ones(t.shape),
        sigma=lambda t: sigma_max * t**rho,
        beta=lambda t: sigma_max * t**rho,
        span=(low, 1.0),
        floor=low,
        inverse=lambda level: (level / sigma_max) ** (1.0 / rho),
        temperature=temperature,
    )


PATHS: Mapping[str, Callable[..., GaussianPath]] = {
    "grad_tts": grad_tts,  # variance preserving, towards N(mu, I)
    "flow": rectified_flow,  # towards N(0, I); mu is read by the network alone (Mehta et al. 2024, Matcha-TTS)
    "comospeech": comospeech,
}
READINGS: Mapping[str, Mapping[str, object]] = {
    "grad_tts": {"parameterisation": "v", "time_input": "t"},
    "flow": {"parameterisation": "flow", "time_input": "t"},
    "comospeech": {
        "parameterisation": "edm",
        "time_input": "log_sigma/4",
        "unit_input": True,
    },
}


def named(name: str, temperature: float = 1.0) -> GaussianPath:
    """The path of `PATHS` with this name, whose prior and added noise are scaled by `temperature` when it samples."""
    if name not in PATHS:
        raise unknown("path of speech/tts", name, PATHS)
    return PATHS[name](temperature=temperature)
