"""Students of text, distilled, handed over and sampled by pipelines of diffusers as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import omnidistill
from omnidistill.context import Context
from omnidistill.random import generator
from omnidistill.student import load
from tests.interop import tiny

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

WIDTH, WORDS = 12, 7


def empty(states: Any) -> Any:
    return torch.zeros_like(states)


def stable_diffusion(folder: Path) -> None:
    """A pipeline as a team has it: text encoder, tokenizer left out, autoencoder, unet, scheduler."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=40, **sizes)).eval()
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae = diffusers.AutoencoderKL(**blocks, block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    scheduler = diffusers.PNDMScheduler(
        **{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "skip_prk_steps": True}
    )
    pipeline = diffusers.StableDiffusionPipeline(
        **{"vae": vae, "text_encoder": text, "tokenizer": None, "unet": tiny.model("UNet2DConditionModel")},
        **{"scheduler": scheduler, "safety_checker": None, "feature_extractor": None},
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def wan(folder: Path) -> None:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    text = transformers.UMT5EncoderModel(
        transformers.UMT5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).eval()
    pipeline = diffusers.WanPipeline(
        **{"vae": vae, "text_encoder": text, "tokenizer": None},
        transformer=tiny.model("WanTransformer3DModel"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.save_pretrained(folder)


def distilled(tmp: Path, recipe: str, shape: list[int], width: int, **more: Any) -> Path:
    teacher = omnidistill.teacher(tmp / "teacher", shape=shape)
    g = generator("pipelines", recipe)
    data, states = torch.randn(16, *shape, generator=g), torch.randn(16, WORDS, width, generator=g)
    options = ["teacher_check=false", "optim.lr=0.01", *more.pop("options", [])]
    omnidistill.distill(
        **{"teacher": teacher, "recipe": recipe, "data": data, "condition": states, "null": empty},
        **{"out": tmp / "run", "updates": 2, "batch": 4, "judged": (), "options": options, "device": "cpu"},
        **{"precision": "fp32", **more},
    )
    return tmp / "run"


def ours(run: Path, start: Tensor, states: Tensor, g: Any, steps: int) -> Tensor:
    student = load(run)
    times = json.loads((run.parent / "out" / "sampling.json").read_text())["times"]
    assert student.sampler.times(student.denoiser, steps)[:-1].tolist() == pytest.approx(times)
    return student.sampler.sample(student.denoiser, start, steps, Context(states), g=g, x_1=start).x0


RECIPES: dict[str, dict[str, Any]] = {
    "dmd2": {"steps": 4, "options": ["student.adapter={rank: 2}", "families.matching.critic_updates=1"]},
    "lcm": {},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_stable_diffusion(recipe: str, tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "teacher")
    run = distilled(tmp_path, recipe, [4, 8, 8], WIDTH, **RECIPES[recipe])
    out = omnidistill.export(run, "diffusers", tmp_path / "out", pipeline=tmp_path / "teacher")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(out, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, diffusers.LCMScheduler)
    states = torch.randn(2, WORDS, WIDTH, generator=generator("states"))
    start = torch.randn(2, 4, 8, 8, generator=generator("start"))
    made = pipeline(
        **{"prompt_embeds": states, "latents": start, "num_inference_steps": 4, "guidance_scale": 1.0},
        generator=generator("noise"),
        output_type="latent",
    ).images
    found = ours(run, start, states, generator("noise"), 4)
    assert float((made - found).abs().max() / found.abs().max()) < 1e-4
    # What was trained shows: the teacher's own weights walk elsewhere.
    before = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "teacher" / "unet")
    after = pipeline.unet.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.state_dict().items())
    with torch.no_grad():
        pixels = pipeline(
            **{
                "prompt_embeds": states[:1],
                "num_inference_steps": 4,
                "guidance_scale": 1.0,
                "output_type": "pt",
            }
        ).images
    assert bool(pixels.isfinite().all())


def test_stable_diffusion_with_tcd(tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "teacher")
    run = distilled(tmp_path, "lcm", [4, 8, 8], WIDTH)
    recipe = json.loads((run / "student.json").read_text())
    states = torch.randn(2, WORDS, WIDTH, generator=generator("states"))
    start = torch.randn(2, 4, 8, 8, generator=generator("start"))
    asked = {"prompt_embeds": states, "latents": start, "num_inference_steps": 4, "guidance_scale": 1.0}
    for transition, eta in (("renoise", 1.0), ("ode", 0.0)):
        (run / "student.json").write_text(json.dumps({**recipe, "transition": transition}))
        out = omnidistill.export(
            run, "diffusers", tmp_path / "out", pipeline=tmp_path / "teacher", scheduler="TCDScheduler"
        )
        assert f"num_inference_steps=4, eta={eta:g}, " in (out / "README.md").read_text()
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(out, tokenizer=None)
        pipeline.set_progress_bar_config(disable=True)
        assert isinstance(pipeline.scheduler, diffusers.TCDScheduler)
        found = ours(run, start, states, generator("noise"), 4)
        for given, same in ((eta, True), (1.0 - eta, False)):
            made = pipeline(**asked, eta=given, generator=generator("noise"), output_type="latent").images
            assert (float((made - found).abs().max() / found.abs().max()) < 1e-4) == same
        shutil.rmtree(out)


def test_adapters_are_loaded_by_peft_and_by_the_pipeline(tmp_path: Path) -> None:
    from peft import PeftModel

    stable_diffusion(tmp_path / "teacher")
    run = distilled(tmp_path, "dmd2", [4, 8, 8], WIDTH, **RECIPES["dmd2"])
    out = omnidistill.export(run, "peft", tmp_path / "out", pipeline=tmp_path / "teacher")
    states = torch.randn(2, WORDS, WIDTH, generator=generator("states"))
    start = torch.randn(2, 4, 8, 8, generator=generator("start"))
    found = ours(run, start, states, generator("noise"), 4)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "teacher", tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.LCMScheduler.from_pretrained(out / "scheduler")
    asked = {"prompt_embeds": states, "latents": start, "num_inference_steps": 4, "guidance_scale": 1.0}

    def sampled() -> Tensor:
        return pipeline(**asked, generator=generator("noise"), output_type="latent").images

    plain = sampled()
    assert float((plain - found).abs().max() / found.abs().max()) > 1e-4
    pipeline.load_lora_weights(out)
    assert float((sampled() - found).abs().max() / found.abs().max()) < 1e-4
    pipeline.unload_lora_weights()
    pipeline.unet = PeftModel.from_pretrained(pipeline.unet, out)
    assert float((sampled() - found).abs().max() / found.abs().max()) < 1e-4


def test_wan(tmp_path: Path) -> None:
    wan(tmp_path / "teacher")
    run = distilled(
        tmp_path, "dmd2", [4, 2, 4, 4], 8, steps=2, options=["families.matching.critic_updates=1"]
    )
    out = omnidistill.export(run, "diffusers", tmp_path / "out")
    pipeline = diffusers.WanPipeline.from_pretrained(out, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    states = torch.randn(1, WORDS, 8, generator=generator("states"))
    start = torch.randn(1, 4, 2, 4, 4, generator=generator("start"))
    torch.manual_seed(5)  # this pipeline hands no generator on to the scheduler
    made = pipeline(
        **{"prompt_embeds": states, "latents": start, "num_inference_steps": 2, "guidance_scale": 1.0},
        **{
            "num_frames": 5,
            "height": 32,
            "width": 32,
            "output_type": "latent",
            "generator": generator("noise"),
        },
    ).frames
    found = ours(run, start, states, torch.Generator().manual_seed(5), 2)
    assert float((made - found).abs().max() / found.abs().max()) < 1e-4
