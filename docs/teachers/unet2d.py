"""LCM on a diffusers UNet2DModel with classes. Such a network takes no guidance scale: an embedding of the scale, zero
at the start, is added beside that of the time, whose place is known by name in diffusers' classes (`time_module=` says
it for others).

    python docs/teachers/unet2d.py

distils one of random weights, saved by `save_pretrained` and loaded back, as a check that everything fits.
"""

import tempfile

import torch

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import vp_linear

CLASSES = 10  # label 10 means: no class


def small(folder: str) -> None:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    unet = UNet2DModel(**sizes, **blocks, layers_per_block=1, norm_num_groups=4, num_class_embeds=CLASSES + 1)
    unet.save_pretrained(folder)


if __name__ == "__main__":
    from diffusers import UNet2DModel

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
        small(folder)
        teacher = NetworkDenoiser(UNet2DModel.from_pretrained(folder), vp_linear(), "eps", time_input="1000t")
        pictures, labels = torch.randn(64, 1, 8, 8), torch.randint(CLASSES, (64,))
        omnidistill.distill(
            teacher, "lcm", data=pictures, condition=labels, null=CLASSES, updates=2, batch=8, out=out
        )
        # A fresh instance and its path are what the folder does not hold.
        student = omnidistill.load(out, network=UNet2DModel.from_pretrained(folder), path=vp_linear())
        print("student's pictures:", tuple(student.sample(4, steps=2, condition=3).shape))
