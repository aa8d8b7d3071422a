"""What some classes of diffusers want before they are called, as their own pipelines prepare it, and undo after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from omnidistill.errors import UserError

Config = Mapping[str, Any]
Given = dict[str, Any]


def sizes(config: Config, given: Given) -> Given:
    """PixArt's resolution and aspect ratio, which its larger models want."""
    if config.get("use_additional_conditions"):
        added = {key: given.pop(key) for key in ("resolution", "aspect_ratio") if key in given}
        if len(added) < 2:
            raise UserError(
                "this PixArt wants a condition with resolution and aspect_ratio, Float[b 2], Float[b 1]"
            )
    else:
        added = {"resolution": None, "aspect_ratio": None}
    return {**given, "added_cond_kwargs": added}


def flux(config: Config, given: Given) -> Given:
    """Two by two numbers of a latent are one token, whose place is told beside it."""
    x, states = given["hidden_states"], given["encoder_hidden_states"]
    h, w = x.shape[2:]
    places = torch.zeros(h // 2, w // 2, 3, device=x.device, dtype=x.dtype)
    places[..., 1] += torch.arange(h // 2, device=x.device)[:, None]
    places[..., 2] += torch.arange(w // 2, device=x.device)[None]
    words = torch.zeros(states.shape[1], 3, device=x.device, dtype=x.dtype)
    if config.get("guidance_embeds") and "guidance" not in given:
        raise UserError(
            "this Flux was distilled to be told its guidance; give a condition with guidance, Float[b]"
        )
    return {**given, "hidden_states": _packed(x), "img_ids": places.reshape(-1, 3), "txt_ids": words}


def _packed(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), 4 * c)


def unflux(config: Config, answer: Tensor, x: Tensor) -> Tensor:
    """The latent again."""
    b, c, h, w = x.shape
    return answer.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def ltx(config: Config, given: Given) -> Given:
    """Every number of a latent video is a token; rotations at 25 frames a second, as its pipeline has them."""
    x, states = given["hidden_states"], given["encoder_hidden_states"]
    frames, height, width = x.shape[2:]
    more = {"num_frames": frames, "height": height, "width": width}
    more["rope_interpolation_scale"] = (8 / 25, 32, 32)
    more["encoder_attention_mask"] = torch.ones(states.shape[:2], dtype=torch.long, device=x.device)
    return {**more, **given, "hidden_states": x.flatten(2).transpose(1, 2)}


def unltx(config: Config, answer: Tensor, x: Tensor) -> Tensor:
    """The latent again."""
    return answer.transpose(1, 2).reshape(x.shape)


def cogvideo(config: Config, given: Given) -> Given:
    """Rotations of the places where a model has them, as its pipeline computes them: of 1.0 the grid is that of the
    training resolution, cropped; of 1.5 (`patch_size_t`) its first rows and columns."""
    if not config.get("use_rotary_positional_embeddings"):
        return given
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    x = given["hidden_states"]
    frames, height, width = x.shape[1], x.shape[3], x.shape[4]
    patch, deep = config["patch_size"], config.get("patch_size_t")
    grid = (height // patch, width // patch)
    base = (config["sample_height"] // patch, config["sample_width"] // patch)
    more: Given = {"crops_coords": _region(grid, base), "temporal_size": frames}
    if deep is not None:
        if frames % deep:
            raise UserError(f"this CogVideoX takes frames {deep} by {deep}, a sample has {frames}")
        more = {"crops_coords": None, "temporal_size": frames // deep, "grid_type": "slice", "max_size": base}
    turned = get_3d_rotary_pos_embed(config["attention_head_dim"], grid_size=grid, device=x.device, **more)
    return {**given, "image_rotary_emb": turned}


def _region(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The part of the base grid, corner to corner, that a grid covers when it is scaled into it."""
    (h, w), (high, wide) = grid, base
    tall = h / w > high / wide
    rows = high if tall else round(wide / w * h)
    columns = round(high / h * w) if tall else wide
    top, left = round((high - rows) / 2.0), round((wide - columns) / 2.0)
    return (top, left), (top + rows, left + columns)


def scaled(config: Config, given: Given) -> Given:
    """Sana's own unit of time."""
    return {**given, "timestep": given["timestep"] * config.get("timestep_scale", 1.0)}


def qwen(config: Config, given: Given) -> Given:
    """Packed as Flux's; how many tokens there are in each direction is told beside it."""
    x = given["hidden_states"]
    sides = [(1, x.shape[2] // 2, x.shape[3] // 2)]
    return {**given, "hidden_states": _packed(x), "img_shapes": [sides] * len(x)}


def worded(config: Config, given: Given) -> Given:
    """A mask of the text's tokens, all of them where none is given."""
    states = given["encoder_hidden_states"]
    mask = given.get("encoder_attention_mask")
    real = (
        torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask.bool()
    )
    return {**given, "encoder_attention_mask": real}


def hunyuan(config: Config, given: Given) -> Given:
    """HunyuanVideo's guidance in thousandths, as its pipeline tells it to a model that was distilled to be told."""
    if config.get("image_condition_type"):
        raise UserError(
            "this HunyuanVideo goes on from a picture, which is not read; network= takes a class of yours"
        )
    given = worded(config, given)
    if not config.get("guidance_embeds"):
        return given
    if "guidance" not in given:
        raise UserError(
            "this HunyuanVideo was distilled to be told its guidance; give a condition with guidance, Float[b]"
        )
    return {**given, "guidance": 1000.0 * given["guidance"]}


def prepended(config: Config, given: Given) -> Given:
    """Stable Audio: rotations of the places in time, behind that of the global states, in half of each head.

    Its pipeline hides padded words by states of 0 and not by a mask; one that is given does the same (the model itself
    would add it to the attention's logits).
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    x = given["hidden_states"]
    places = x.shape[-1] + 1
    turned = get_1d_rotary_pos_embed(
        config["attention_head_dim"] // 2, places, use_real=True, repeat_interleave_real=False
    )
    mask = given.pop("encoder_attention_mask", None)
    if mask is not None:
        given["encoder_hidden_states"] = given["encoder_hidden_states"] * mask.to(x.dtype).unsqueeze(-1)
    rotary = tuple(part.to(x.device) for part in turned)
    return {
        **given,
        "global_hidden_states": given["global_hidden_states"].view(len(x), 1, -1),
        "rotary_embedding": rotary,
    }
