"""Features of inner layers: asked for together with the answer, and averaged for discriminator heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnidistill.denoisers.answers import tensor_of
from omnidistill.errors import UserError, unknown


def asked(
    network: nn.Module, layers: Sequence[str], answered: int | None, *inputs: Any, **keywords: Any
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """(answer, {name: output of that layer}) of one forward call.

    A network with `returns_features = True` gives them as outputs (see `omnidistill.networks.features`) and answers
    the first `answered` samples alone; None for 0. From somebody else's module they are caught by hooks on the
    submodules of these names, which answers everybody, and does not work where the module is compiled. They leave the
    module as outputs, beside its answer: who shards it then knows that a gradient may come in there.
    """
    if not layers:
        return tensor_of(network(*inputs, **keywords), network), {}
    for name in layers:
        _check_reach(network, name)
    if getattr(network, "returns_features", False):
        answer, found = network(*inputs, **keywords, features=tuple(layers), answered=answered)
        return answer, found
    caught: dict[str, Tensor] = {}
    handles = [_module(network, name).register_forward_hook(_catch(caught, name)) for name in layers]
    both = network.register_forward_hook(lambda module, inputs, output: (output, caught), prepend=True)
    try:
        answer = tensor_of(network(*inputs, **keywords)[0], network)
    finally:
        both.remove()
        for handle in handles:
            handle.remove()
    if missing := [name for name in layers if name not in caught]:
        raise UserError(f"{type(network).__name__} never came to its layer {', '.join(missing)}")
    return (answer if answered is None else answer[:answered]), caught


def _catch(caught: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        caught[name] = output[0] if isinstance(output, tuple) else output

    return hook


def _check_reach(network: nn.Module, name: str) -> None:
    """
    Raises:
        UserError: the layer is inside a block whose parameters are gathered for the block as a whole.
    """
    above = name.split(".")[:-1]
    for end in range(1, len(above) + 1):
        block = _module(network, ".".join(above[:end]))
        if hasattr(block, "unshard"):
            raise UserError(
                f"strategy=fsdp gathers {'.'.join(above[:end])} as a whole, and layer {name} is inside of it; take the "
                f"features of {'.'.join(above[:end])}, or strategy=ddp"
            )


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise UserError(f"{type(network).__name__} has no layer called '{name}'") from error


def feature_layer(network: nn.Module) -> tuple[str, int]:
    """The layer that `network.feature_module` names, and the channel axis `network.feature_axis` of its output."""
    declared = getattr(network, "feature_module", None)
    if not isinstance(declared, str):
        raise UserError(
            f"{type(network).__name__} names no feature layer for a discriminator head; "
            "set network.feature_module = 'name.of.a.submodule' and network.feature_axis = its channel axis"
        )
    return declared, int(getattr(network, "feature_axis", 1))


def feature_channels(network: nn.Module) -> int:
    """How wide the feature layer is, as the network declares it."""
    declared = getattr(network, "feature_channels", None)
    if declared is None:
        raise UserError(
            f"{type(network).__name__} does not say how wide its feature layer is; "
            "set network.feature_channels = number of channels of the output of feature_module"
        )
    return int(declared)


def feature_widths(network: nn.Module) -> dict[str, int]:
    """The layers that a head may read and how wide they are: `network.feature_layers`, {name: channels}, all of them
    with their channels on `feature_axis`; or the one layer that the network declares."""
    declared = getattr(network, "feature_layers", None)
    if declared is None:
        return {feature_layer(network)[0]: feature_channels(network)}
    return {str(name): int(width) for name, width in declared.items()}


def tapped(network: nn.Module, layers: Sequence[str]) -> dict[str, int]:
    """How wide each of these layers is. `""` is the one layer that the network declares for heads, `all` every layer
    there is.

    Raises:
        UserError: a layer that the network does not declare, with the names nearest to it.
    """
    found: dict[str, int] = {}
    for name in layers:
        if name == "":
            found[feature_layer(network)[0]] = feature_channels(network)
            continue
        known = feature_widths(network)
        if name != ALL and name not in known:
            raise unknown(f"layer of {type(network).__name__}", name, [*known, ALL])
        found |= known if name == ALL else {name: known[name]}
    return found


DECLARED = ("",)
ALL = "all"


def positions(
    found: Float[Tensor, "b ..."], axis: int, mask: Bool[Tensor, "#b ..."] | None
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
    """Features one position after another, and 1 where a position is real; features without positions have one."""
    found = found.movedim(axis, -1)
    if found.ndim == 2:
        return found.unsqueeze(1), torch.ones_like(found[:, :1])
    real = torch.ones_like(found[..., 0])
    if mask is not None:
        channels_first = found.movedim(-1, 1)
        real = _mask_of_features(mask, channels_first).expand_as(channels_first)[:, 0]
    return found.flatten(1, -2), real.flatten(1)


def pooled(
    found: Float[Tensor, "b ..."], axis: int, mask: Bool[Tensor, "#b ..."] | None
) -> Float[Tensor, "b c"]:
    """Features averaged over all axes but batch and channel (`axis`), padding left out."""
    found = found.movedim(axis, 1)
    if found.ndim == 2:
        return found
    if mask is None:
        return found.flatten(2).mean(-1)
    real = _mask_of_features(mask, found)
    return (found * real).flatten(2).sum(-1) / real.expand_as(found).flatten(2).sum(-1).clamp_min(1.0)


def _mask_of_features(
    mask: Bool[Tensor, "#b ..."], features: Float[Tensor, "b c ..."]
) -> Float[Tensor, "#b ..."]:
    """The mask, which runs along one axis, at the resolution of the features, in their dtype."""
    axis = max(range(1, mask.ndim), key=lambda i: mask.shape[i])
    # The same axis counted from the end, or the only one where tokens or points lost their channel axis.
    place = 2 if features.ndim == 3 else features.ndim - (mask.ndim - axis)
    lengths = mask.movedim(axis, -1).flatten(1, -2)[:, :1] if mask.ndim > 2 else mask[:, None]
    real = F.interpolate(lengths.to(features.dtype), size=features.shape[place], mode="nearest")[:, 0]
    return real.reshape([n if i in (0, place) else 1 for i, n in enumerate(features.shape)])
