"""A Wan-type video transformer as a teacher: diffusers' class, its velocity on a rectified flow, text as the condition.

Real weights come the same way: `WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")`. Here a tiny
random configuration is saved and loaded back, so that the script needs no download:

    python docs/teachers/wan.py
"""

import tempfile

import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import rectified_flow

LATENT = (4, 3, 8, 8)  # c f h w of one clip's latents
TEXT = (6, 16)  # tokens and width of a caption's embedding


class Wan(nn.Module):
    """Latents Float[b c f h w], timestep Float[b] in 0 ... 1000, text Float[b n d] -> velocity eps - x0, as latents."""

    feature_module = "transformer.norm_out"  # Float[b tokens width], for a discriminator head
    feature_axis = 2

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        config = transformer.config
        self.feature_channels = config.num_attention_heads * config.attention_head_dim

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return self.transformer(x, timestep, text, return_dict=False)[0]


def tiny(folder: str) -> nn.Module:
    """A WanTransformer3DModel of random weights, saved into `folder` and loaded from there."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        text_dim=TEXT[1],
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    ).save_pretrained(folder)
    return WanTransformer3DModel.from_pretrained(folder)


def teacher(transformer: nn.Module) -> NetworkDenoiser:
    return NetworkDenoiser(Wan(transformer), rectified_flow(), "flow", time_input="1000t")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        wan = teacher(tiny(folder))
    g = torch.Generator().manual_seed(0)
    latents, texts = (torch.randn(16, *shape, generator=g) for shape in (LATENT, TEXT))
    student = omnidistill.distill(
        wan, "consistency-models", data=latents, condition=texts, updates=2, batch=4, device="cpu"
    )
    print("student's clips:", tuple(student.sample(2, condition=texts[:2]).shape))
