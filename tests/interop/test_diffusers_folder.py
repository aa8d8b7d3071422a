"""Folders of diffusers as teachers: the belief is the scheduler's, and one command distils it."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import omnidistill
from omnidistill.configuration.compose import compose
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.runs import distil, setup


def saved(folder, scheduler, **options):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16)}
    unet = UNet2DModel(**sizes, **blocks, layers_per_block=1, norm_num_groups=4, **options)
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    return unet.eval()


def schedulers():
    from diffusers import DDIMScheduler, DDPMScheduler

    zero = {
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
    }
    return {
        "eps": DDPMScheduler(num_train_timesteps=100, clip_sample=False),
        "v, zero terminal SNR": DDIMScheduler(num_train_timesteps=100, clip_sample=False, **zero),
        "x0": DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False),
    }


@pytest.mark.parametrize("name", ["eps", "v, zero terminal SNR", "x0"])
def test_the_belief_is_what_the_scheduler_predicts(name, tmp_path):
    scheduler = schedulers()[name]
    unet = saved(tmp_path, scheduler)
    cfg = compose("config", ["task=image/own", f"teacher={tmp_path}", "recipe=diff-instruct", "out=out"])
    task = setup.task_of(cfg)
    teacher = setup.teacher_of(cfg, task, "cpu")
    n, x = len(scheduler.alphas_cumprod), torch.randn(2, 3, 8, 8)
    scheduler.set_timesteps(n)
    for place in (n - 1, n // 2, 3):
        if name == "eps" and place == n - 1:
            continue  # where hardly any signal is left, its error is magnified without bound
        with torch.no_grad():
            wanted = scheduler.step(unet(x, place).sample, torch.tensor(place), x).pred_original_sample
            t = torch.full((2,), (place + 1) / n, dtype=torch.float64)
            found = teacher(x, t, Context()).mean
        assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4), (name, place)


def test_a_folder_of_diffusers_is_distilled_by_one_command(tmp_path):
    from PIL import Image

    saved(tmp_path / "teacher", schedulers()["v, zero terminal SNR"])
    (tmp_path / "photos").mkdir()
    draws = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(draws.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / f"{number}.png"
        )
    overrides = ["task=image/own", f"teacher={tmp_path / 'teacher'}", f"task.folder={tmp_path / 'photos'}"]
    quick = ["updates=1", "batch=4", "steps=[1]", "device=cpu", "precision=fp32", "task.teacher_steps=2"]
    judged = [
        "evaluation.samples=8",
        "evaluation.batch=8",
        "recipe=consistency-models",
        f"out={tmp_path / 'out'}",
    ]
    distil.distill(compose("config", [*overrides, *quick, *judged]))
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "energy" in document["student"][0]["metrics"]
    assert omnidistill.load(tmp_path / "out").sample(2).shape == (2, 3, 8, 8)


def test_what_is_not_known_is_said_in_a_line(tmp_path):
    words = ["task=image/own", f"teacher={tmp_path}", "recipe=dmd2", "out=out"]
    saved(tmp_path, schedulers()["eps"])
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(UserError, match="save the scheduler there"):
        compose("config", words)
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet3D", "sample_size": 8}')
    with pytest.raises(UserError, match="unknown class of diffusers"):
        compose("config", words)
