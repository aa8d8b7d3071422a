"""Captions as what a pipeline of diffusers tells its network, by the text encoders in its folder.

| network | text encoders | it is told |
|---|---|---|
| any with one encoder | CLIP | the last states of all places |
| | T5 | the same, and the mask of real tokens |
| UNet2DConditionModel of SDXL | CLIP, CLIP with projection | last states but one, joined; `text_embeds`, `time_ids` |
| SD3Transformer2DModel | two CLIPs with projection, T5 | those, T5's behind them; `pooled_projections` |
| FluxTransformer2DModel | CLIP, T5 | T5's states; `pooled_projections` |
| StableAudioDiTModel | T5, a projection | states, two times behind them; `global_hidden_states` |

Each as the pipeline's own `encode_prompt` does it, at its own default lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.context import Condition
from omnidistill.errors import UserError
from omnidistill.interop.encoders import Encoder, config_of, length_of, name_of
from omnidistill.interop.parts import part_of, section
from omnidistill.training.safetensors_file import digest

STATES, MASK = "encoder_hidden_states", "encoder_attention_mask"
SD3_WORDS, FLUX_WORDS = 256, 512
"""Tokens of T5, by default, in `StableDiffusion3Pipeline` and `FluxPipeline`."""
Told = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Join:
    """How the encoders of one kind of pipeline are joined.

    Attributes:
        encoders: the class of each, in order.
        told: captions -> what the network is told.
        shapes: of what it is told about one caption, read off the folder.
        emptied: of what "no caption" is 0 in place of what the empty one is.
    """

    encoders: tuple[str, ...]
    told: Callable[[States, Sequence[str]], Told]
    shapes: Callable[[Path], Shapes]
    emptied: tuple[str, ...] = ()


def has_states(folder: Path) -> bool:
    """Whether a pipeline's folder has a text encoder."""
    return bool(config_of(folder))


def join_of(folder: Path) -> Join:
    """The line of the table above that a pipeline is of.

    Raises:
        UserError: encoders that none of them has.
    """
    model = part_of(folder)
    config = {} if model is None else section(model / "config.json")
    kind = str(config.get("_class_name"))
    if config.get("addition_embed_type") == "text_time":
        kind += " of SDXL"
    found = tuple(
        name_of(folder, place)
        for place in ("", "_2", "_3")
        if place == "" or (folder / f"text_encoder{place}").is_dir()
    )
    made = JOINS.get(kind) or ALONE.get(found[0])
    if made is None or made.encoders != found:
        known = " or ".join({" and ".join(one.encoders) for one in [JOINS[kind]]} if kind in JOINS else ALONE)
        raise UserError(
            f"{folder} has {' and '.join(found)} as text encoders, and of a {kind} {known} is read; give "
            "encoder=package.module:function, or states of yours: omnidistill.distill(..., condition=states)"
        )
    return made


class States:
    """The text encoders and tokenizers in a pipeline's folder.

    Args:
        folder: of the pipeline.
        shape: of a sample, which sizes and seconds are told of where a network is told any; the model's own if None.

    Raises:
        UserError: encoders that are not read, or joined in an unknown way.
    """

    def __init__(self, folder: Path, shape: Sequence[int] | None = None) -> None:
        self.folder, self.join = folder, join_of(folder)
        places = ["", "_2", "_3"][: len(self.join.encoders)]
        self.encoders = [Encoder(folder, place) for place in places]
        model = part_of(folder)
        self.config = {} if model is None else section(model / "config.json")
        self.shape = tuple(shape) if shape is not None else None
        self.projection: nn.Module | None = None
        if (folder / "projection_model").is_dir():
            from diffusers import StableAudioProjectionModel

            with torch.random.fork_rng(devices=[]):
                self.projection = StableAudioProjectionModel.from_pretrained(
                    str(folder / "projection_model"), use_safetensors=True, local_files_only=True
                ).eval()
        weights: Told = {}
        lengths: list[str] = []
        for place, encoder in zip(places, self.encoders, strict=True):
            weights |= {f"{place}{key}": value for key, value in encoder.weights().items()}
            lengths.append(str(encoder.length))
        if self.projection is not None:
            weights |= {f"projection.{key}": value for key, value in self.projection.state_dict().items()}
        self.digest = digest(weights, {"length": " ".join(lengths)})

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Condition:
        """Float[b n width], or a mapping by the names that the network has."""
        told = self.join.told(self, captions)
        return told[STATES] if [*told] == [STATES] else told

    def null(self) -> Condition:
        """What one sample without a caption is told, for guidance."""
        told = self([""])
        if not isinstance(told, Mapping):
            return told
        index = self.folder / "model_index.json"
        said = section(index) if index.is_file() else {}
        emptied = self.join.emptied if said.get("force_zeros_for_empty_prompt", True) else ()
        return {key: torch.zeros_like(value) if key in emptied else value for key, value in told.items()}


def _clip(states: States, captions: Sequence[str]) -> Told:
    (encoder,) = states.encoders
    ids, real = encoder.tokens(captions)
    mask = real if getattr(encoder.model.config, "use_attention_mask", False) else None
    return {STATES: encoder.model(ids, attention_mask=mask)[0]}


def _t5(states: States, captions: Sequence[str]) -> Told:
    (encoder,) = states.encoders
    ids, real = encoder.tokens(captions)
    return {STATES: encoder.model(ids, attention_mask=real)[0], MASK: real}


def _sdxl(states: States, captions: Sequence[str]) -> Told:
    first, second = (encoder.before(captions) for encoder in states.encoders)
    sides = states.shape[1:] if states.shape is not None else (states.config.get("sample_size") or 128,) * 2
    vae = states.folder / "vae" / "config.json"
    blocks = section(vae).get("block_out_channels") if vae.is_file() else None
    scale = 2 ** (len(blocks) - 1) if blocks else 8
    h, w = (float(side * scale) for side in sides)
    sizes = torch.tensor([[h, w, 0.0, 0.0, h, w]], device=states.encoders[0].device)
    told = torch.cat((first[0], second[0]), -1)
    return {STATES: told, "text_embeds": second[1], "time_ids": sizes.repeat(len(captions), 1)}


def _sd3(states: States, captions: Sequence[str]) -> Told:
    *clips, t5 = states.encoders
    found = [clip.before(captions) for clip in clips]
    words = t5.last(captions, SD3_WORDS)
    side = torch.cat([hidden for hidden, _ in found], -1)
    told = torch.cat((F.pad(side, (0, words.shape[-1] - side.shape[-1])), words), 1)
    return {STATES: told, "pooled_projections": torch.cat([pooled for _, pooled in found], -1)}


def _flux(states: States, captions: Sequence[str]) -> Told:
    clip, t5 = states.encoders
    pooled = clip.model(clip.tokens(captions)[0]).pooler_output
    return {STATES: t5.last(captions, FLUX_WORDS), "pooled_projections": pooled}


def _timed(states: States, captions: Sequence[str]) -> Told:
    """Padded words are 0 behind the projection; a sample begins at 0 seconds and ends where it does."""
    (encoder,), project = states.encoders, states.projection
    if project is None:
        raise UserError(f"{states.folder} has no projection_model, which tells its network seconds")
    ids, real = encoder.tokens(captions)
    words = encoder.model(ids, attention_mask=real)[0]
    vae = section(states.folder / "vae" / "config.json")
    frames = states.config["sample_size"] if states.shape is None else states.shape[-1]
    seconds = frames * math.prod(vae["downsampling_ratios"]) / vae["sampling_rate"]
    ends = torch.tensor([0.0, seconds], device=encoder.device).repeat(len(captions), 1)
    found = project.to(encoder.device)(words, start_seconds=ends[:, 0], end_seconds=ends[:, 1])
    start, end = found.seconds_start_hidden_states, found.seconds_end_hidden_states
    heard = found.text_hidden_states * real.unsqueeze(-1)
    return {STATES: torch.cat((heard, start, end), 1), "global_hidden_states": torch.cat((start, end), 2)}


def _sdxl_shapes(folder: Path) -> Shapes:
    widths = [config_of(folder, place)["hidden_size"] for place in ("", "_2")]
    states = (length_of(folder), sum(widths))
    return {STATES: states, "text_embeds": (config_of(folder, "_2")["projection_dim"],), "time_ids": (6,)}


def _sd3_shapes(folder: Path) -> Shapes:
    pooled = sum(config_of(folder, place)["projection_dim"] for place in ("", "_2"))
    words = length_of(folder) + SD3_WORDS
    return {STATES: (words, config_of(folder, "_3")["d_model"]), "pooled_projections": (pooled,)}


def _flux_shapes(folder: Path) -> Shapes:
    states = (FLUX_WORDS, config_of(folder, "_2")["d_model"])
    return {STATES: states, "pooled_projections": (config_of(folder)["hidden_size"],)}


def _timed_shapes(folder: Path) -> Shapes:
    width = int(section(folder / "projection_model" / "config.json")["conditioning_dim"])
    return {STATES: (length_of(folder) + 2, width), "global_hidden_states": (1, 2 * width)}


PROJECTED = "CLIPTextModelWithProjection"
ALONE: Mapping[str, Join] = {
    "CLIPTextModel": Join(
        ("CLIPTextModel",),
        _clip,
        lambda folder: {STATES: (length_of(folder), config_of(folder)["hidden_size"])},
    ),
    "T5EncoderModel": Join(
        ("T5EncoderModel",),
        _t5,
        lambda folder: {
            STATES: (length_of(folder), config_of(folder)["d_model"]),
            MASK: (length_of(folder),),
        },
    ),
}
JOINS: Mapping[str, Join] = {
    "UNet2DConditionModel of SDXL": Join(
        ("CLIPTextModel", PROJECTED), _sdxl, _sdxl_shapes, (STATES, "text_embeds")
    ),
    "SD3Transformer2DModel": Join((PROJECTED, PROJECTED, "T5EncoderModel"), _sd3, _sd3_shapes),
    "FluxTransformer2DModel": Join(("CLIPTextModel", "T5EncoderModel"), _flux, _flux_shapes),
    "StableAudioDiTModel": Join(("T5EncoderModel",), _timed, _timed_shapes, (STATES,)),
}
