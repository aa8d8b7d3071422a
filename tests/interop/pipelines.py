"""Tiny pipelines of diffusers with their text encoders, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.interop import tiny

WORDS = 6
TEXT = ("<pad>", "<unk>", "a", "rain", "dog", "barks", "loud", "red")


def loud(model: nn.Module, seed: int = 0) -> Any:
    """Weights large enough for answers to differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tokenizer(kind: str = "PreTrainedTokenizerFast") -> Any:
    """Of whole words."""
    import tokenizers
    import transformers

    vocab = {word: number for number, word in enumerate(TEXT)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": WORDS}
    return getattr(transformers, kind)(tokenizer_object=made, **special)


def clip(width: int, projected: bool) -> Any:
    import transformers

    sizes = {"hidden_size": width, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = transformers.CLIPTextConfig(
        vocab_size=len(TEXT), max_position_embeddings=WORDS, projection_dim=width + 2, eos_token_id=0, **sizes
    )
    return loud(
        transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config),
        width,
    )


def t5(width: int) -> Any:
    import transformers

    config = transformers.T5Config(
        vocab_size=len(TEXT), d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    return loud(transformers.T5EncoderModel(config))


def vae() -> Any:
    import diffusers

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**blocks, block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4)


def sdxl(folder: Path) -> Any:
    import diffusers

    unet = tiny.model("UNet2DConditionModel of SDXL", cross_attention_dim=12)
    made = diffusers.StableDiffusionXLPipeline(
        **{"vae": vae(), "text_encoder": clip(4, False), "text_encoder_2": clip(8, True), "unet": unet},
        **{"tokenizer": tokenizer(), "tokenizer_2": tokenizer(), "scheduler": diffusers.DDIMScheduler()},
    )
    made.save_pretrained(folder)
    return made


def sd3(folder: Path) -> Any:
    import diffusers

    network = tiny.model("SD3Transformer2DModel", joint_attention_dim=16, pooled_projection_dim=6 + 10)
    made = diffusers.StableDiffusion3Pipeline(
        **{"vae": vae(), "text_encoder": clip(4, True), "text_encoder_2": clip(8, True)},
        **{"text_encoder_3": t5(16), "transformer": network},
        **{name: tokenizer() for name in ("tokenizer", "tokenizer_2", "tokenizer_3")},
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    made.save_pretrained(folder)
    return made


def flux(folder: Path) -> Any:
    import diffusers

    network = tiny.model("FluxTransformer2DModel", joint_attention_dim=16, pooled_projection_dim=4)
    made = diffusers.FluxPipeline(
        **{"vae": vae(), "text_encoder": clip(4, False), "text_encoder_2": t5(16), "transformer": network},
        **{"tokenizer": tokenizer(), "tokenizer_2": tokenizer()},
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    made.save_pretrained(folder)
    return made


def stable_audio(folder: Path) -> Any:
    """16 latents of 4 channels are 256 samples of a stereo wave at 1600 Hz."""
    import diffusers

    network = tiny.model("StableAudioDiTModel")
    projection = diffusers.StableAudioProjectionModel(
        text_encoder_dim=8, conditioning_dim=10, min_value=0, max_value=512
    )
    wave = diffusers.AutoencoderOobleck(
        **{"encoder_hidden_size": 8, "decoder_channels": 4, "decoder_input_channels": 4, "audio_channels": 2},
        **{"downsampling_ratios": [4, 4], "channel_multiples": [1, 2], "sampling_rate": 1600},
    )
    made = diffusers.StableAudioPipeline(
        **{"vae": wave.eval(), "text_encoder": t5(8), "projection_model": loud(projection)},
        **{"tokenizer": tokenizer(), "transformer": network},
        scheduler=diffusers.CosineDPMSolverMultistepScheduler(),
    )
    made.save_pretrained(folder)
    return made
