"""omnidistill: slow generative teachers in, one-to-eight-step students out, for every modality with one core."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": "omnidistill.student",
    "distill": "omnidistill.own",
    "teacher": "omnidistill.interop.teachers",
    "Cache": "omnidistill.training.cache",
    "export": "omnidistill.exporting.run",
    "Batch": "omnidistill.context",
    "Context": "omnidistill.context",
    "Denoiser": "omnidistill.denoisers",
    "NetworkDenoiser": "omnidistill.denoisers",
    "Metric": "omnidistill.tasks",
    "Task": "omnidistill.tasks",
    "RunError": "omnidistill.errors",
    "UserError": "omnidistill.errors",
}
"""Where the names live: they are imported when first asked for, since torch alone takes seconds."""

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'omnidistill' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
