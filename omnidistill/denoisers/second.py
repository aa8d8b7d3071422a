"""A second time and a guidance scale for a network that has neither.

Flow maps are told the time they jump to, students of a range of guidance scales the scale. `Second` adds an embedding
of either to the output of the module in which a network embeds its time:

    time_module(...) + W2 silu(W1 waves(value)),   W2 = 0 at the start

so that it starts as the network exactly (the zero start of Zhang et al. 2023, ControlNet, sec. 3.1, for the embeddings
of Meng et al. 2022, sec. 3.1 and app. B).
"""

from __future__ import annotations

import fnmatch
import inspect
import threading
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.embeddings import TimeEmbedding
from omnidistill.networks.features import inside, parted

KEYWORDS = ("target_time", "guidance")

TIME_MODULES = (
    "time_embedding",  # UNet2DModel, UNet2DConditionModel, UNet3DConditionModel, CogVideoXTransformer3DModel
    "time_mlp",  # UNet1DModel
    "time_text_embed.timestep_embedder",  # SD3, Flux, HunyuanVideo, QwenImage
    "condition_embedder.time_embedder",  # Wan
    "adaln_single.emb.timestep_embedder",  # PixArt, Allegro, Latte
    "time_embed.emb.timestep_embedder",  # LTXVideo, Sana
    "time_embed.timestep_embedder",  # Mochi, Sana with guidance
    "time_caption_embed.timestep_embedder",  # Lumina2
    "time_extra_emb.timestep_embedder",  # HunyuanDiT
    "time_step_proj",  # AuraFlow
    "timestep_proj",  # StableAudio
    "transformer_blocks.*.norm1.emb.timestep_embedder",  # DiT: one in each block
)
"""Where diffusers' classes embed the time: all that match the first of these that matches any."""

_here = threading.local()  # what is being told, for each `Second` that is being called in this thread


class Second(nn.Module):
    """`network`, called as before, that also takes the keywords `target_time` and `guidance`.

    Args:
        network: any module that embeds the time somewhere.
        target_time, guidance: which of the two to add; a keyword that is not added goes on to the network.
        time_module: the name of the submodule that embeds the time, Float[b width] or Float[b ... width]; `*` stands
            for any name, several modules are told the same. None: looked up in `TIME_MODULES`.

    Its parameters are `network.*`, `target_time.*` and `guidance.*`. What is told lives in the thread of the call,
    so several threads may ask at once, and copies, LoRA adapters and compiled graphs see their own.
    """

    second_in_t = True
    """The second time is told as it is, in [0, 1], whatever the network's own view of time."""

    def __init__(
        self,
        network: nn.Module,
        *,
        target_time: bool = False,
        guidance: bool = False,
        time_module: str | None = None,
    ) -> None:
        super().__init__()
        places = time_modules(network, time_module)
        self.network = network
        example = next(network.parameters(), torch.zeros(0))
        dtype = torch.float64 if example.dtype == torch.float64 else torch.float32
        for name, wanted in zip(KEYWORDS, (target_time, guidance), strict=True):
            made = TimeEmbedding(width_of(places[0]), silent=True) if wanted else None
            setattr(self, name, None if made is None else made.to(example.device, dtype))
        self.wants_guidance = guidance or takes(network, "guidance")
        self.wants_target_time = target_time or takes(network, "target_time")
        for place in places:
            place.register_forward_hook(self._add)
        for name in ("feature_axis", "feature_channels", "returns_features"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))
        if isinstance(getattr(network, "feature_module", None), str):
            self.feature_module = f"network.{network.feature_module}"
        layers: Any = getattr(network, "feature_layers", None)
        if layers is not None:
            self.feature_layers = {f"network.{name}": width for name, width in layers.items()}

    def forward(self, *args: Any, **keywords: Any) -> Any:
        told: Tensor | None = None
        for name in KEYWORDS:
            module = getattr(self, name)
            if module is not None and keywords.get(name) is not None:
                more = module(keywords[name])
                told = more if told is None else told + more
            if module is not None:
                keywords.pop(name, None)
        before = _told(self)
        if layers := keywords.get("features"):
            keywords["features"] = inside(layers, "network")
        _tell(self, told)
        try:
            answer = self.network(*args, **keywords)
        finally:
            _tell(self, before)
        return parted(answer, "network") if layers else answer

    def _add(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """The hook of a time module. A bound method, so that a copy's hook belongs to the copy."""
        told = _told(self)
        if told is None:
            return output
        if not isinstance(output, Tensor) or output.shape[-1] != told.shape[-1]:
            seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"time_module answered {seen}, not Float[b {told.shape[-1]}] as its last layer says; "
                "name a module that answers with the embedding alone"
            )
        told = told[: output.shape[0]]  # samples that are asked for features alone may have stopped before
        if output.shape[0] != told.shape[0]:
            # One time for the whole batch; or times of many tokens, sample by sample, side by side.
            told = told.repeat_interleave(max(1, output.shape[0] // told.shape[0]), 0)
        told = told.reshape(told.shape[0], *(1,) * (output.ndim - 2), told.shape[-1])
        return output + told.to(output.dtype)


def _told(owner: Second) -> Tensor | None:
    return _here.told.get(id(owner)) if hasattr(_here, "told") else None


def _tell(owner: Second, value: Tensor | None) -> None:
    if not hasattr(_here, "told"):
        _here.told = {}
    if value is None:
        _here.told.pop(id(owner), None)
    else:
        _here.told[id(owner)] = value


def with_second(
    network: nn.Module, *, target_time: bool, guidance: bool, time_module: str | None = None
) -> nn.Module:
    """The network as it is where it takes the keywords that are wanted, else in a `Second` for those it lacks."""
    lacks = {
        name: wanted and not takes(network, name)
        for name, wanted in zip(KEYWORDS, (target_time, guidance), strict=True)
    }
    return Second(network, **lacks, time_module=time_module) if any(lacks.values()) else network


def takes(network: nn.Module, keyword: str) -> bool:
    """Whether a network wants to be told `guidance` or `target_time`: as its attribute `wants_guidance` says; without
    one, whether a module in it holds an embedding of that name; without such an attribute anywhere, whether `forward`
    names the keyword."""
    declared = getattr(network, f"wants_{keyword}", None)
    if declared is not None:
        return bool(declared)
    held = [getattr(module, keyword) is not None for module in network.modules() if hasattr(module, keyword)]
    return any(held) if held else keyword in inspect.signature(network.forward).parameters


def starting_weights(network: nn.Module, origin: nn.Module) -> dict[str, Tensor]:
    """The state of `network` with the origin's weights in it: of the origin itself, or of the one inside a `Second`."""
    weights = {f"{prefix(network, origin)}{k}": v for k, v in origin.state_dict().items()}
    return {**network.state_dict(), **weights}


def prefix(network: nn.Module, origin: nn.Module) -> str:
    """What stands before a parameter's name in `network` and not in `origin`."""
    return "network." if isinstance(network, Second) and not isinstance(origin, Second) else ""


def time_modules(network: nn.Module, name: str | None = None) -> list[nn.Module]:
    """The submodules that `name` says, or that are known by name; a `UserError` where there are none."""
    modules = dict(network.named_modules())
    if name is not None:
        found = [module for place, module in modules.items() if fnmatch.fnmatchcase(place, name)]
        if not found:
            raise UserError(
                f"{type(network).__name__} has no submodule time_module='{name}'; it has {_names(modules)}"
            )
        return found
    for known in TIME_MODULES:
        found = [
            module
            for place, module in modules.items()
            if fnmatch.fnmatchcase(place, known) or fnmatch.fnmatchcase(place, f"*.{known}")
        ]
        if found:
            return found
    raise UserError(
        f"{type(network).__name__} takes neither a second time nor a guidance scale, and where it embeds its time is "
        f"not known: name the module, NetworkDenoiser(..., time_module='...'); it has {_names(modules)}"
    )


def _names(modules: dict[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def width_of(module: nn.Module) -> int:
    """The width of what a module answers: of its last linear layer or embedding."""
    for inner in reversed(list(module.modules())):
        width = getattr(inner, "out_features", None) or getattr(inner, "embedding_dim", None)
        if isinstance(width, int):
            return width
    raise UserError(
        f"how wide {type(module).__name__} answers is not known, for it has no linear layer; "
        "name another time_module, or give it out_features"
    )
