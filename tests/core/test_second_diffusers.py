"""Where diffusers' classes embed their time is known by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omnidistill.denoisers.second import Second

LABELS, SIZES = torch.tensor([1, 2]), {"resolution": None, "aspect_ratio": None}
PLACES = (torch.zeros(4, 3), torch.zeros(3, 3))
UNET = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "layers_per_block": 1}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1}
PATCHES = {"in_channels": 2, "out_channels": 2, "sample_size": 8, **HEADS}
JOINT = {"joint_attention_dim": 8, "pooled_projection_dim": 8}
TINY: dict[str, dict[str, Any]] = {
    "UNet2DModel": {
        **{"sample_size": 8, "in_channels": 2, "out_channels": 2, "block_out_channels": (8, 8)},
        **{"norm_num_groups": 4, **UNET},
    },
    "DiTTransformer2DModel": {**PATCHES, "num_layers": 2, "num_embeds_ada_norm": 1000, "norm_num_groups": 2},
    "PixArtTransformer2DModel": {
        **{**PATCHES, "cross_attention_dim": 8, "caption_channels": 8, "norm_num_groups": 2},
    },
    "SD3Transformer2DModel": {**PATCHES, **JOINT, "caption_projection_dim": 8, "pos_embed_max_size": 8},
    "FluxTransformer2DModel": {
        **{**HEADS, **JOINT, "in_channels": 4, "num_single_layers": 1, "axes_dims_rope": (0, 2, 2)},
    },
    "WanTransformer3DModel": {
        **{"in_channels": 2, "out_channels": 2, "text_dim": 8, "freq_dim": 8, "ffn_dim": 16},
        **{**HEADS, "attention_head_dim": 12},
    },
}


@pytest.mark.parametrize("name", TINY)
def test_classes_of_diffusers_are_known_by_name(name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    bare = getattr(diffusers, name)(**TINY[name]).eval()
    for parameter in bare.parameters():  # some start with gates shut
        nn.init.normal_(parameter, std=0.2)
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    t = torch.tensor([100.0, 900.0])
    asked = {
        "UNet2DModel": lambda n, **k: n(draw(2, 2, 8, 8), t, **k),
        "DiTTransformer2DModel": lambda n, **k: n(draw(2, 2, 8, 8), t.long(), LABELS, **k),
        "PixArtTransformer2DModel": lambda n, **k: n(draw(2, 2, 8, 8), draw(2, 3, 8), t, SIZES, **k),
        "SD3Transformer2DModel": lambda n, **k: n(draw(2, 2, 8, 8), draw(2, 3, 8), draw(2, 8), t, **k),
        "FluxTransformer2DModel": lambda n, **k: n(
            draw(2, 4, 4), draw(2, 3, 8), draw(2, 8), t / 1000, *PLACES, **k
        ),
        "WanTransformer3DModel": lambda n, **k: n(draw(2, 2, 1, 4, 4), t, draw(2, 3, 8), **k),
    }[name]

    def answer(network: nn.Module, **keywords: Tensor) -> Tensor:
        g.manual_seed(2)
        with torch.no_grad():
            return asked(network, return_dict=False, **keywords)[0]

    network = Second(bare, target_time=True, guidance=True)
    told = {"target_time": torch.tensor([0.1, 0.5]), "guidance": torch.tensor([2.0, 4.0])}
    expected = answer(bare)
    assert torch.equal(answer(network, **told), expected)
    for keyword in told:
        nn.init.normal_(getattr(network, keyword).outer.weight, generator=torch.Generator().manual_seed(5))
    changed = (answer(network, **told) - expected).abs().flatten(1).amax(1)
    assert changed.min() > 1e-4
