"""A light guide plugged into a frozen network, so that its one conditional call answers as guidance does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.guidance import Null
from omnidistill.denoisers.second import Second
from omnidistill.errors import NotOffered, UserError
from omnidistill.networks.embeddings import TimeEmbedding
from omnidistill.posteriors import Posterior
from omnidistill.samplers.reuse import reusable
from omnidistill.samplers.walker import Memory, Walker, innermost


class Guide(Walker):
    """The network with features of a guide added to what its blocks answer (Hsiao et al. 2024, Plug-and-Play Diffusion
    Distillation, sec. 4):

        h + (s - 1) W silu(R h + E(s)),   W = 0 at the start

    s being the guidance scale to imitate: of `context.guidance` in training, else `scale`. R and W of every block and
    the embedding E are all there is to train and to save; the network stays as it is, and at s = 1 is itself. A guide
    trained over one network may be plugged into another with the same blocks.

    Args:
        scale: that it is told when it is sampled.
        width: of the guide, in each block.
        blocks: names of modules, with `*` for any name; None: those that the network names (`reusable["blocks"]`).
    """

    learns = True

    def __init__(self, scale: float = 2.0, width: int = 8, blocks: Sequence[str] | None = None) -> None:
        super().__init__()
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise UserError(f"a guide's width is a whole number of at least 1, got {width!r}")
        self.scale = self.told = float(scale)
        self.width, self.names = width, None if blocks is None else list(blocks)
        self.read, self.write, self.tell = nn.ModuleList(), nn.ModuleList(), TimeEmbedding(width)

    def around(self, denoiser: Denoiser, teacher: Denoiser | None = None, null: Null | None = None) -> Walker:
        network = getattr(innermost(denoiser), "network", None)
        if not isinstance(network, nn.Module):
            raise NotOffered("a guide is plugged into a network, and the student is a closed form")
        inside = network.network if isinstance(network, Second) else network
        names = self.names or (getattr(inside, "reusable", None) or {}).get("blocks")
        if not names:
            raise NotOffered(
                f"{type(inside).__name__} names no blocks for a guide; give student.inference.guide.blocks=[...]"
            )
        found = reusable(network, "", names)
        self._blocks = [list(found.values())]  # in a list: they belong to the network
        self._last = getattr(inside, "feature_axis", 1) != 1
        if not self.read:
            example = next(network.parameters())
            for block in self._blocks[0]:
                channels = _channels(block)
                self.read.append(nn.Linear(channels, self.width))
                self.write.append(nn.Linear(self.width, channels, bias=False))
                nn.init.zeros_(self.write[-1].weight)  # type: ignore[arg-type]
            self.to(example.device)
        made = super().around(denoiser, teacher, null)
        made.wants_guidance = True
        return made

    def answer(
        self, memory: Memory, x_t: Tensor, t: Tensor, context: Context, target_time: Tensor | None
    ) -> Posterior:
        with self._plugged(context, x_t.shape[0]):
            return memory.denoiser(x_t, t, context, target_time=target_time)

    def belief(
        self, x_t: Tensor, t: Tensor | float, context: Context, target_time: Tensor | None
    ) -> Posterior:
        with self._plugged(context, x_t.shape[0]):
            return self.denoiser(x_t, t, context, target_time=target_time)

    @contextmanager
    def _plugged(self, context: Context, count: int) -> Iterator[None]:
        device = self.tell.state_dict()[next(iter(self.tell.state_dict()))].device
        scale = (
            torch.full((count,), self.scale, device=device) if context.guidance is None else context.guidance
        )
        told = self.tell(scale)
        handles = [
            block.register_forward_hook(self._hook(index, scale, told))
            for index, block in enumerate(self._blocks[0])
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, index: int, scale: Tensor, told: Tensor) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not isinstance(output, Tensor):
                raise UserError(
                    f"a guide adds to what a block answers, and {type(module).__name__} answers a "
                    f"{type(output).__name__}; name other blocks"
                )
            h = output if self._last else output.movedim(1, -1)
            row = (-1, *(1,) * (h.ndim - 2), told.shape[-1])
            seen = F.silu(self.read[index](h.to(told.dtype)) + told.reshape(row))
            more = (scale.to(told.dtype) - 1.0).reshape((*row[:-1], 1)) * self.write[index](seen)
            more = more.to(output.dtype)
            return output + (more if self._last else more.movedim(-1, 1))

        return hook


def _channels(block: nn.Module) -> int:
    """The width of what a block answers: of its last linear layer or convolution."""
    for inner in reversed(list(block.modules())):
        width = getattr(inner, "out_features", None) or getattr(inner, "out_channels", None)
        if isinstance(width, int):
            return width
    raise UserError(f"how wide {type(block).__name__} answers is not known; name other blocks for the guide")
