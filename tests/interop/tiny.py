"""Tiny models of diffusers, made by configuration, with weights that are not at their silent start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

UNET = {"norm_num_groups": 4, "block_out_channels": (8, 16), "layers_per_block": 1}
PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}
SIZES = {"sample_size": 8, "in_channels": 4, "out_channels": 4}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2}
PATCHES = {**SIZES, **HEADS, "norm_num_groups": 2}
JOINT = {"joint_attention_dim": 8, "pooled_projection_dim": 6}

OPTIONS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {**SIZES, **UNET, **PLAIN},
    "UNet2DModel with classes": {**SIZES, **UNET, **PLAIN, "num_class_embeds": 5},
    "UNet2DConditionModel": {**SIZES, **UNET, **CROSS},
    "UNet2DConditionModel of SDXL": {
        **{**SIZES, **UNET, **CROSS, "addition_embed_type": "text_time", "addition_time_embed_dim": 2},
        **{"projection_class_embeddings_input_dim": 12 + 10},
    },
    "UNet3DConditionModel": {
        **{**SIZES, **UNET, "cross_attention_dim": 12, "attention_head_dim": 4},
        **{"down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D")},
        **{"up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")},
    },
    "DiTTransformer2DModel": {**PATCHES, "out_channels": 8, "num_embeds_ada_norm": 1000},
    "PixArtTransformer2DModel": {
        **{**PATCHES, "out_channels": 8, "cross_attention_dim": 8, "caption_channels": 10},
    },
    "SD3Transformer2DModel": {
        **SIZES,
        **HEADS,
        **JOINT,
        "caption_projection_dim": 8,
        "pos_embed_max_size": 8,
    },
    "FluxTransformer2DModel": {
        **{**HEADS, **JOINT, "in_channels": 16, "num_single_layers": 1, "axes_dims_rope": (0, 2, 2)},
    },
    "FluxTransformer2DModel told its guidance": {
        **{**HEADS, **JOINT, "in_channels": 16, "num_single_layers": 1, "axes_dims_rope": (0, 2, 2)},
        "guidance_embeds": True,
    },
    "AuraFlowTransformer2DModel": {
        **{**SIZES, "num_attention_heads": 2, "attention_head_dim": 4, "num_mmdit_layers": 1},
        **{"num_single_dit_layers": 1, "joint_attention_dim": 8, "caption_projection_dim": 8},
        "pos_embed_max_size": 16,
    },
    "SanaTransformer2DModel": {
        **{**SIZES, **HEADS, "num_cross_attention_heads": 2, "cross_attention_head_dim": 4},
        **{"cross_attention_dim": 8, "caption_channels": 10},
    },
    "WanTransformer3DModel": {
        **{"in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 8, "ffn_dim": 16},
        **{**HEADS, "attention_head_dim": 12},
    },
    "LTXVideoTransformer3DModel": {
        **{**HEADS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 12},
        **{"cross_attention_dim": 24, "caption_channels": 10},
    },
    "CogVideoXTransformer3DModel": {
        **{**HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 10},
        "attention_head_dim": 16,
        **{"sample_width": 8, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": 7},
    },
    "CogVideoXTransformer3DModel with rotary places": {
        **{**HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 10},
        "attention_head_dim": 16,
        "use_rotary_positional_embeddings": True,
        **{"sample_width": 8, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": 7},
    },
    "CogVideoXTransformer3DModel 1.5": {
        **{**HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 10},
        "attention_head_dim": 16,
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "patch_bias": False,
        "sample_width": 12,
        **{"sample_height": 8, "sample_frames": 5, "max_text_seq_length": 7},
    },
    "HunyuanVideoTransformer3DModel": {
        **{**HEADS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 12, "num_single_layers": 1},
        **{
            "num_refiner_layers": 1,
            "guidance_embeds": False,
            "text_embed_dim": 10,
            "pooled_projection_dim": 6,
        },
        "rope_axes_dim": (4, 4, 4),
    },
    "HunyuanVideoTransformer3DModel told its guidance": {
        **{**HEADS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 12, "num_single_layers": 1},
        **{
            "num_refiner_layers": 1,
            "guidance_embeds": True,
            "text_embed_dim": 10,
            "pooled_projection_dim": 6,
        },
        "rope_axes_dim": (4, 4, 4),
    },
    "MochiTransformer3DModel": {
        **{**HEADS, "in_channels": 4, "pooled_projection_dim": 8, "text_embed_dim": 16, "time_embed_dim": 8},
        "max_sequence_length": 7,
    },
    "QwenImageTransformer2DModel": {
        **{**HEADS, "in_channels": 16, "out_channels": 4, "attention_head_dim": 12, "joint_attention_dim": 8},
        "axes_dims_rope": (4, 4, 4),
    },
    "StableAudioDiTModel": {
        **{**HEADS, "sample_size": 16, "in_channels": 4, "out_channels": 4, "attention_head_dim": 8},
        **{"num_key_value_attention_heads": 1, "cross_attention_dim": 16, "time_proj_dim": 8},
        **{"cross_attention_input_dim": 10, "global_states_input_dim": 20},
    },
}
SHAPES = {
    "UNet3D": [4, 3, 8, 8],
    "Flux": [4, 8, 8],
    "Wan": [4, 3, 8, 8],
    "LTX": [4, 3, 4, 4],
    "Cog": [2, 4, 8, 12],
    "Hunyuan": [4, 3, 8, 4],
    "Mochi": [4, 3, 8, 4],
    "Qwen": [4, 8, 12],
}
"""Of those that do not say it, by how the class's name begins."""


def model(name: str, seed: int = 0, **more: Any) -> nn.Module:
    """A model by its line in `OPTIONS`."""
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: nn.Module = getattr(diffusers, name.partition(" ")[0])(**{**OPTIONS[name], **more})
        for parameter in made.parameters():  # some start with gates shut
            nn.init.normal_(parameter, std=0.1)
    return made.eval()


def shape(name: str) -> list[int] | None:
    """What has to be said of it."""
    return next((sizes for start, sizes in SHAPES.items() if name.startswith(start)), None)


def saved(folder: Path, name: str, scheduler: Any, part: str = "unet", **more: Any) -> nn.Module:
    """A model and its scheduler as diffusers saves them."""
    made: Any = model(name, **more)
    made.save_pretrained(folder / part)
    scheduler.save_pretrained(folder / "scheduler")
    return made
