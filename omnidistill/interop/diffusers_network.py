"""Models of diffusers called the one way that a denoiser calls a network: `network(x, time, condition)`.

Each class has its own names for state, time and condition, some want tokens for pictures, some answer a variance beside
the mean. `CALLS` has a line for each that is read; what a line leaves out is the usual.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnidistill.context import Condition
from omnidistill.errors import UserError, unknown
from omnidistill.interop import preparing
from omnidistill.interop.preparing import Config, Given

ADDED = ("text_embeds", "time_ids")
"""Conditions that a UNet2DConditionModel takes in `added_cond_kwargs` (Podell et al. 2023, SDXL)."""


@dataclass(frozen=True)
class Call:
    """How one class is called.

    Attributes:
        state: the name of the noisy sample.
        condition: the name of what a bare tensor as condition is.
        widths: of further conditions, by name, the option that says how wide they are; conditions are then a mapping.
        width: the option that says how wide the states of `encoder_hidden_states` are.
        axes: of one sample, by name: `c` for the option in_channels, `s` for sample_size (a number or two).
        blocks: the list of blocks whose middle one a discriminator may look at; or the one module; empty: none.
        inner: the width of its output.
        unit_time: the time is t and not 1000 t.
        prepare: the arguments again, before the call.
        finish: the answer again, after it, with the state.
    """

    state: str = "hidden_states"
    condition: str = "encoder_hidden_states"
    width: str = "cross_attention_dim"
    widths: tuple[tuple[str, str], ...] = ()
    axes: str = "css"
    blocks: str = "transformer_blocks"
    inner: Callable[[Config], int] = lambda config: (
        config["num_attention_heads"] * config["attention_head_dim"]
    )
    unit_time: bool = False
    prepare: Callable[[Config, Given], Given] | None = None
    finish: Callable[[Config, Tensor, Tensor], Tensor] | None = None


UNET: dict[str, Any] = {
    "state": "sample",
    "blocks": "mid_block",
    "inner": lambda config: config["block_out_channels"][-1],
}
JOINT: dict[str, Any] = {
    "width": "joint_attention_dim",
    "blocks": "norm_out",
}
CALLS: Mapping[str, Call] = {
    "UNet2DModel": Call(**UNET, condition="class_labels"),
    "UNet2DConditionModel": Call(**UNET),
    "UNet3DConditionModel": Call(**{**UNET, "blocks": ""}, axes="c?ss"),  # it folds frames into the batch
    "DiTTransformer2DModel": Call(condition="class_labels"),
    "PixArtTransformer2DModel": Call(width="caption_channels", prepare=preparing.sizes),
    "SD3Transformer2DModel": Call(**JOINT, widths=(("pooled_projections", "pooled_projection_dim"),)),
    "FluxTransformer2DModel": Call(
        **JOINT,
        widths=(("pooled_projections", "pooled_projection_dim"),),
        axes="???",
        unit_time=True,
        prepare=preparing.flux,
        finish=preparing.unflux,
    ),
    "AuraFlowTransformer2DModel": Call(**JOINT, unit_time=True),
    "SanaTransformer2DModel": Call(width="caption_channels", prepare=preparing.scaled),
    "WanTransformer3DModel": Call(width="text_dim", axes="c???", blocks="blocks"),
    "LTXVideoTransformer3DModel": Call(
        width="caption_channels", axes="c???", prepare=preparing.ltx, finish=preparing.unltx
    ),
    "CogVideoXTransformer3DModel": Call(
        width="text_embed_dim", axes="?c??", blocks="norm_out", prepare=preparing.cogvideo
    ),
    "HunyuanVideoTransformer3DModel": Call(
        width="text_embed_dim",
        widths=(("pooled_projections", "pooled_projection_dim"),),
        axes="c???",
        blocks="norm_out",
        prepare=preparing.hunyuan,
    ),
    "MochiTransformer3DModel": Call(
        width="text_embed_dim", axes="c???", blocks="norm_out", prepare=preparing.worded
    ),
    "QwenImageTransformer2DModel": Call(
        **JOINT, axes="???", unit_time=True, prepare=preparing.qwen, finish=preparing.unflux
    ),
    "StableAudioDiTModel": Call(
        width="cross_attention_input_dim",
        widths=(("global_hidden_states", "global_states_input_dim"),),
        axes="cs",
        prepare=preparing.prepended,
    ),
}


def call_of(kind: str, where: str = "network") -> Call:
    """The line of a class.

    Raises:
        UserError: there is none.
    """
    if kind not in CALLS:
        raise UserError(
            f"{unknown(f'class of diffusers in {where}', kind, CALLS)}; or wrap it in a module of yours and name that: "
            "network=package.module:Class"
        )
    return CALLS[kind]


def shape_of(kind: str, config: Config, given: list[int] | None, where: str) -> list[int]:
    """The shape of one sample: as the user says, else as the configuration does.

    Raises:
        UserError: neither says it.
    """
    axes = call_of(kind, where).axes
    if given is not None:
        return [int(size) for size in given]
    size: Any = config.get("sample_size")
    sides = list(size) if isinstance(size, list | tuple) else [size] * axes.count("s")
    if "?" in axes or not all(isinstance(side, int) for side in (*sides, config.get("in_channels"))):
        names = {4: "frames, height, width beside its channels", 3: "[channels, height, width]"}
        raise UserError(
            f"{where} does not say what shape a sample of {kind} has; set task.shape=[...] "
            f"(teacher(..., shape=)): {names.get(len(axes), 'its axes')}"
        )
    return [config["in_channels"] if axis == "c" else sides.pop(0) for axis in axes]


def tokens_of(config: Config, shape: list[int]) -> int:
    """How many patches a sample has, which a dynamic shift of times depends on."""
    patch: Any = config.get("patch_size") or 1
    sides = patch if isinstance(patch, list | tuple) else [patch] * 2
    area = math.prod(sides) if math.prod(sides) > 1 else 4  # Flux packs two by two before its patches of one
    return math.prod(shape[1:]) // area


class DiffusersNetwork(nn.Module):
    """A model of diffusers.

    Args:
        kind: its class, one of `CALLS`.
        options: its configuration.

    Conditions are a tensor where the class takes one alone (labels or text states), else a mapping by the names that
    its `forward` has. Its parameters are those of the model behind `network.`.
    """

    wants_guidance = False
    wants_target_time = False

    def __init__(self, kind: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.call = call_of(kind)
        import diffusers

        self.kind, made = kind, getattr(diffusers, kind)
        self._around(made.from_config(dict(options)), made)

    @classmethod
    def around(cls, model: nn.Module, kind: str) -> DiffusersNetwork:
        """The same around a model that is there, or around one of `peft` with such a model in it."""
        import diffusers

        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.call, made.kind = call_of(kind), kind
        made._around(model, getattr(diffusers, kind))
        return made

    def _around(self, model: nn.Module, made: type) -> None:
        self.network = model
        self.config: Config = dict(model.config)  # type: ignore[arg-type]
        forward: Any = made.forward  # type: ignore[attr-defined]
        signature = inspect.signature(forward).parameters
        self._takes = {*signature, *(ADDED if "added_cond_kwargs" in signature else ())}
        blocks = getattr(self.network, self.call.blocks, None) if self.call.blocks else None
        if isinstance(blocks, nn.Module):
            middle = f".{len(blocks) // 2}" if isinstance(blocks, nn.ModuleList) else ""
            self.feature_module = f"network.{self.call.blocks}{middle}"
            self.feature_axis = 1 if self.call.state == "sample" else -1
            self.feature_channels = int(self.call.inner(self.config))

    def forward(self, x: Tensor, time: Tensor, condition: Condition = None) -> Tensor:
        given: Given = {self.call.state: x, "timestep": time, **self._named(condition)}
        if added := {key: given.pop(key) for key in ADDED if key in given}:
            given["added_cond_kwargs"] = added
        if self.call.prepare is not None:
            given = self.call.prepare(self.config, given)
        answer = self.network(**given, return_dict=False)[0]
        if self.call.finish is not None:
            answer = self.call.finish(self.config, answer, x)
        axis = 1 + self.call.axes.index("c") if "c" in self.call.axes else 1
        if (
            answer.shape[axis] == 2 * x.shape[axis]
        ):  # the mean; a learned variance beside it (Nichol & Dhariwal 2021)
            answer = answer.chunk(2, axis)[0]
        return answer

    def _named(self, condition: Condition) -> Given:
        if condition is None:
            return {}
        if isinstance(condition, Tensor):
            return {self.call.condition: condition}
        if strange := sorted(condition.keys() - self._takes):
            raise unknown(f"condition of {self.kind}", strange[0], self._takes - {"self", "return_dict"})
        return dict(condition)

    def told(self, condition: Condition, count: int) -> Condition:
        """What the library's model itself is told for a condition of this network."""
        return condition

    def example(self, count: int, g: torch.Generator) -> Condition:
        """A condition that the network takes, drawn: for checks of what has no data beside it."""
        call, config = self.call, self.config
        if call.condition == "class_labels":
            classes = config.get("num_class_embeds") or (
                config.get("num_embeds_ada_norm") if self.kind.startswith("DiT") else None
            )
            return None if classes is None else torch.randint(int(classes), (count,), generator=g)
        width = config.get(call.width) or config["cross_attention_dim"]
        states = torch.randn(count, 7, int(width), generator=g)
        more = {name: torch.randn(count, int(config[key]), generator=g) for name, key in call.widths}
        if config.get("addition_embed_type") == "text_time":
            numbers = torch.full((count, 6), 8.0)
            width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            more |= {"text_embeds": torch.randn(count, width, generator=g), "time_ids": numbers}
        if config.get("guidance_embeds") and "guidance" in self._takes:
            more["guidance"] = torch.full((count,), 3.5)
        return {call.condition: states, **more} if more else states


def inner(network: nn.Module) -> nn.Module:
    """The library's own model in a network that wraps it, else the network itself."""
    return network.network if isinstance(network, DiffusersNetwork) else network
