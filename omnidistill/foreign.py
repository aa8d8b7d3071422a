"""A network of a class that the user names, described: by these values a run makes and reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from torch import nn

from omnidistill.data.tensors import single
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.interop import folder as libraries
from omnidistill.interop.checkpoints import read_checkpoint
from omnidistill.paths import Path, rectified_flow
from omnidistill.training.safetensors_file import load_strictly


@dataclass(frozen=True)
class Foreign:
    """A network of a class that the user names, and how to read it.

    Attributes:
        network: makes a fresh one.
        shape: of one sample.
        path: that it was trained on; the rectified flow if not given.
        reading: keywords of `NetworkDenoiser`; by default it answers the flow, or logits of tokens.
        time_module: where it embeds the time, for recipes that tell the student more.
        shift: of the grid that it is sampled on as the teacher.
        scheduler: plain values of the scheduler of diffusers that came with it, for who hands a student back.
    """

    network: Callable[[], nn.Module] | None
    shape: Sequence[int]
    path: Path = field(default_factory=rectified_flow)
    reading: Mapping[str, Any] = field(default_factory=dict)
    time_module: str | None = None
    shift: float = 1.0
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> dict[str, Any]:
        """Keywords of `NetworkDenoiser`."""
        tokens = "categorical" in self.path.offers
        usual = {"parameterisation": "logits"} if tokens else {"parameterisation": "flow", "time_input": "t"}
        return {**usual, **self.reading}

    def made(self) -> nn.Module:
        """A fresh network, in float32."""
        if self.network is None:
            raise UserError(
                "the network is a class of your own, which no file holds; give load(..., network=)"
            )
        try:
            made = self.network()
        except (UserError, MemoryError):
            raise
        except Exception as error:  # of the user's class, or of a library that is given damaged options
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"the network cannot be built as it is described ({said})") from error
        if not isinstance(made, nn.Module):
            raise UserError(f"network= makes a {type(made).__name__}; it must be a torch.nn.Module")
        return single(made, say=False)

    def opened(self, source: FilePath) -> NetworkDenoiser:
        """The network with the weights of a file, or of a folder of its library."""
        network = self.made()
        if source.is_dir():
            libraries.load(network, source)
        else:
            load_strictly(network, read_checkpoint(source, network.state_dict().keys()), source)
        return NetworkDenoiser(network, self.path, time_module=self.time_module, **self.read()).eval()
