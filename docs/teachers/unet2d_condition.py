"""Stable Diffusion's kind of network as a teacher: diffusers' UNet2DConditionModel, which predicts the noise of latents
and is told a text by cross-attention, on the schedule of betas it was trained with.

    python docs/teachers/unet2d_condition.py

distils one of random weights, as a check that everything fits. For a real one give `from_pretrained` its folder, and
`distill` its latents (times the autoencoder's scaling factor) and the texts' embeddings.
"""

import tempfile

import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import GaussianPath


class Conditioned(nn.Module):
    """`unet(x, timestep, encoder_hidden_states).sample` as a network of `(x, time, condition)`."""

    feature_module, feature_axis = "unet.mid_block", 1  # what a discriminator reads

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet, self.feature_channels = unet, unet.config.block_out_channels[-1]

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        # The state after k + 1 steps of noise, t = (k + 1)/1000, is timestep k there.
        return self.unet(x, time - 1.0, encoder_hidden_states=text).sample


def path_of(scheduler) -> GaussianPath:
    """The path through the scheduler's own noise levels; between two of them log(alpha^2) is linear."""
    logs = torch.cat((torch.zeros(1), scheduler.alphas_cumprod.log())).double()
    last = len(logs) - 2

    def log_signal(t: Tensor) -> Tensor:
        known = logs.to(t.device)
        below = (t * (last + 1)).floor().long().clamp(max=last)
        return torch.lerp(known[below], known[below + 1], t * (last + 1) - below)

    alpha, sigma = (lambda t: (log_signal(t) / 2).exp()), (lambda t: (-torch.expm1(log_signal(t))).sqrt())
    return GaussianPath("scaled_linear", alpha, sigma, span=(1 / (last + 1), 1.0))


def wrap(unet: nn.Module, scheduler) -> NetworkDenoiser:
    return NetworkDenoiser(Conditioned(unet), path_of(scheduler), "eps", time_input="1000t")


def small(seed: int = 0) -> nn.Module:
    """A UNet2DConditionModel of random weights: latents Float[b 4 8 8], texts Float[b n 16]."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def schedule():
    """Stable Diffusion's."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


if __name__ == "__main__":
    from diffusers import UNet2DConditionModel

    with tempfile.TemporaryDirectory() as folder:
        small().save_pretrained(folder)
        teacher = wrap(UNet2DConditionModel.from_pretrained(folder), schedule())
    g = torch.Generator().manual_seed(0)
    latents, texts = torch.randn(64, 4, 8, 8, generator=g), torch.randn(64, 5, 16, generator=g)
    student = omnidistill.distill(
        teacher,
        "consistency-models",
        data=latents,
        condition=texts,
        null=torch.zeros_like,  # what an empty text becomes; for real ones its embedding
        updates=2,
        batch=8,
        options=["families.consistency.guidance=2.0"],
    )
    print(student.sample(4, steps=2, condition=texts[:4]).shape)
