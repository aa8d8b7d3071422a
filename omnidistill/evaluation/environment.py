"""What the figures were measured on: versions and machine, without anything that names the machine or its user."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

import omnidistill


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, processor, cores the process may use, threads torch does use, and the name of `device`."""
    device = torch.device(device)
    return {
        "omnidistill": omnidistill.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def cpu_model(source: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name from /proc/cpuinfo where there is one, else what the platform knows."""
    try:
        lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "hardware", "cpu model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    # A container or taskset may allow fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
