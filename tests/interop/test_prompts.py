"""A Stable Diffusion from the command line: class folders are prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import omnidistill
from omnidistill.cli import main
from omnidistill.configuration.compose import compose
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.runs import setup
from tests.interop import pipelines, tiny

WIDTH, WORDS = 12, 9
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def pipeline(folder: Path) -> None:
    """Everything that a Stable Diffusion has, in small: also a tokenizer, of letters."""
    import diffusers
    import transformers

    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=WORDS
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens), max_position_embeddings=WORDS, eos_token_id=len(tokens) - 1, **sizes
    )
    text = transformers.CLIPTextModel(config).eval()
    for parameter in text.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = diffusers.AutoencoderKL(**blocks, block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4)
    made = diffusers.StableDiffusionPipeline(
        **{"vae": vae, "text_encoder": text, "tokenizer": tokenizer},
        **{"unet": tiny.model("UNet2DConditionModel"), "safety_checker": None, "feature_extractor": None},
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        requires_safety_checker=False,
    )
    made.save_pretrained(folder)


def photos(folder: Path, *names: str) -> None:
    from PIL import Image

    draws = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(14):
            Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
                folder / name / f"{number}.png"
            )


def test_labels_are_prompts(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline(tmp_path / "sd")
    words = ["task=image/own", f"teacher={tmp_path / 'sd'}", "recipe=diff-instruct", "out=out"]
    cfg = compose("config", [*words, "task.labels=[a hat,a red shoe]"])
    task = setup.task_of(cfg)
    assert task.shape == (4, 8, 8) and task.picture == (3, 16, 16) and task.null == 2
    teacher: Any = setup.teacher_of(cfg, task, "cpu")
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "sd", safety_checker=None)
    for number, prompt in enumerate(["a hat", "a red shoe", ""]):
        states, _ = theirs.encode_prompt(prompt, "cpu", 1, False)
        assert torch.allclose(teacher.network.states[number], states[0], atol=1e-6)
    assert float((teacher.network.states[0] - teacher.network.states[1]).abs().max()) > 1e-3
    for said, why in (
        ('{"architectures": ["T5EncoderModel"]}', "lacks 'd_model'"),
        ('{"architectures": ["T5EncoderModel"], "d_model": 99}', "its text encoder makes 99"),
        ('{"architectures": ["GemmaModel"]}', "has GemmaModel as text encoders"),
    ):
        (tmp_path / "sd" / "text_encoder" / "config.json").write_text(said)
        with pytest.raises(UserError, match=why) as error:
            compose("config", [*words, "task.labels=[a,b]"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_prompts_of_several_encoders(kind: str, tmp_path: Path) -> None:
    from omnidistill.interop.states import States

    getattr(pipelines, kind)(tmp_path)
    words = ["task=image/own", f"teacher={tmp_path}", "recipe=diff-instruct", "out=out"]
    cfg = compose("config", [*words, "task.labels=[a dog,rain]"])
    teacher: Any = setup.teacher_of(cfg, setup.task_of(cfg), "cpu")
    states = States(tmp_path, (4, 8, 8))
    for label, wanted in ((torch.tensor([1, 0]), states(["rain", "a dog"])), (None, states.null())):
        told = teacher.network.told(label, 1)
        assert isinstance(wanted, dict) and told.keys() == wanted.keys()
        for name, value in wanted.items():
            assert torch.allclose(told[name], value, atol=1e-6), name


@pytest.mark.slow
def test_three_commands_with_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline(tmp_path / "sd")
    photos(tmp_path / "photos", "a hat", "a red shoe")
    monkeypatch.chdir(tmp_path)
    words = ["task=image/own", "teacher=sd", "task.folder=photos", "task.labels=[a hat,a red shoe]"]
    quick = ["updates=2", "batch=4", "steps=[4]", "device=cpu", "evaluation.samples=8", "guidance=2"]
    more = ["recipe=lcm", "task.teacher_steps=4", "evaluation.teacher_steps=[4]", "teacher_check=false"]
    assert main(["distill", *words, *quick, *more, "out=run"]) == 0
    assert main(["sample", "run", "condition=a red shoe", "count=2", "out=made"]) == 0
    assert main(["export", "run", "format=diffusers", "out=handed"]) == 0
    theirs = StableDiffusionPipeline.from_pretrained("handed", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, 8, 8, generator=generator("start"))
    made = theirs(
        **{"prompt": "a red shoe", "num_inference_steps": 4, "guidance_scale": 1.0, "latents": start},
        generator=generator("noise"),
        output_type="latent",
    ).images
    student = omnidistill.load("run")
    context = student.context(1, condition="a red shoe")
    found = student.sampler.sample(student.denoiser, start, 4, context, g=generator("noise"), x_1=start).x0
    assert float((made - found).abs().max() / found.abs().max()) < 1e-4
    scope: dict[str, Any] = {}
    exec(Path("handed/README.md").read_text().split("```python\n")[1].split("```")[0], scope)
    assert [picture.size for picture in scope["samples"]] == [(16, 16)] * 4
