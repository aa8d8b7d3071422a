"""What would not fit is said in one line before memory is taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from omnidistill.errors import UserError


def installed() -> int:
    """Bytes of memory that the machine has; without bound where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 62


def check_bytes(size: int, what: str, mend: str) -> None:
    """
    Raises:
        UserError: `size` bytes are more than the machine's memory.
    """
    if size > (there := installed()):
        raise UserError(
            f"{what} would take {size >> 30} GiB, and there are {there >> 30} GiB of memory; {mend}"
        )


def check_network(make: Callable[[], nn.Module], weights: Mapping[str, Tensor] | None = None) -> None:
    """Builds a network without its memory, and refuses one that would not fit, or for which the weights at hand are far
    too few. A network that cannot be built so is left to the real attempt."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            sizes = [value.numel() * value.element_size() for value in make().state_dict().values()]
    except RuntimeError as error:
        if "overflow" in str(error):
            raise UserError("the network is larger than any memory; make it smaller") from error
        return
    except Exception:
        return
    check_bytes(sum(sizes), "the network", "make it smaller")
    held = (
        None if weights is None else sum(value.numel() * value.element_size() for value in weights.values())
    )
    if held is not None and sum(sizes) > max(8 * held, 1 << 28):
        raise UserError(
            f"the network that is described would take {sum(sizes) >> 20} MiB, and its weights are {held >> 20} MiB: "
            "the description is of another one"
        )
