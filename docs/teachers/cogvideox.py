"""A CogVideoX-type video transformer as a teacher: v-prediction, frames before channels, text as the condition.

Real weights come the same way: `CogVideoXTransformer3DModel.from_pretrained(folder, subfolder="transformer")`, and with
them a `GaussianPath` of their own schedule, a discrete one rescaled to no signal at the end. Here a tiny random
configuration is saved and loaded back, for which the cosine path is as good, so that the script needs no download:

    python docs/teachers/cogvideox.py
"""

import tempfile

import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import vp_cosine

LATENT = (4, 3, 8, 8)  # c f h w of one clip's latents
TEXT = (6, 16)  # tokens and width of a caption's embedding


class CogVideoX(nn.Module):
    """Latents Float[b c f h w], timestep Float[b] in 0 ... 1000, text Float[b n d] -> v = alpha eps - sigma x0."""

    feature_module = "transformer.norm_final"  # Float[b text+tokens width], for a discriminator head
    feature_axis = 2

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        config = transformer.config
        self.feature_channels = config.num_attention_heads * config.attention_head_dim

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        frames_first = x.transpose(1, 2)  # it takes and gives [b f c h w]
        return self.transformer(frames_first, text, timestep, return_dict=False)[0].transpose(1, 2)


def tiny(folder: str) -> nn.Module:
    """A CogVideoXTransformer3DModel of random weights, saved into `folder` and loaded from there."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    channels, frames, height, width = LATENT
    CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=channels,
        time_embed_dim=32,
        text_embed_dim=TEXT[1],
        num_layers=2,
        sample_width=width,
        sample_height=height,
        sample_frames=frames,
        temporal_compression_ratio=1,
        max_text_seq_length=TEXT[0],
    ).save_pretrained(folder)
    return CogVideoXTransformer3DModel.from_pretrained(folder)


def teacher(transformer: nn.Module) -> NetworkDenoiser:
    return NetworkDenoiser(CogVideoX(transformer), vp_cosine(), "v", time_input="1000t")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        cogvideox = teacher(tiny(folder))
    g = torch.Generator().manual_seed(0)
    latents, texts = (torch.randn(16, *shape, generator=g) for shape in (LATENT, TEXT))
    student = omnidistill.distill(
        cogvideox, "consistency-models", data=latents, condition=texts, updates=2, batch=4, device="cpu"
    )
    print("student's clips:", tuple(student.sample(2, condition=texts[:2]).shape))
