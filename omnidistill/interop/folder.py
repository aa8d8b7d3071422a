"""Folders that other libraries wrote, as teachers: which library's a folder is, and what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from omnidistill.interop import diffusers_folder, transformers_folder
from omnidistill.interop.diffusers_network import inner
from omnidistill.interop.prompts import Prompted
from omnidistill.networks.masked_lm import MaskedLM
from omnidistill.training.safetensors_file import load_strictly

TYPED = transformers_folder.TYPED
"""Options of a task that say how its folder is to be read."""


WHERE_KNOWN = ("autoencoder", "picture")
"""What a folder says beside its model, for tasks that have such options."""


def describe(folder: Path, task: Mapping[str, Any]) -> dict[str, Any] | None:
    """Options of an `own` task, `foreign` among them; None where no library's model is there.

    Args:
        task: the section as the user typed it.

    Raises:
        UserError: a model that is not read, with what would mend it.
    """
    return diffusers_folder.describe(folder, task) or transformers_folder.describe(folder, task)


def load(network: nn.Module, folder: Path) -> None:
    """The weights of a folder that was described, into a network of that description."""
    if isinstance(network, MaskedLM):
        transformers_folder.load(network, folder)
    else:
        tensors, file = diffusers_folder.read_weights(folder)
        load_strictly(inner(network), tensors, file)
        if isinstance(network, Prompted):
            network.learn(folder)
