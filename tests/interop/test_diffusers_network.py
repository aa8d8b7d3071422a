"""Each class of diffusers that is read, called as its own pipeline calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

import omnidistill
from omnidistill.context import Context
from omnidistill.denoisers.second import with_second
from omnidistill.errors import UserError
from omnidistill.interop.diffusers_network import CALLS
from omnidistill.random import generator
from tests.interop import tiny

NOTHING = {"resolution": None, "aspect_ratio": None}


def _flux(n: Any, x: Tensor, t: Tensor, c: Any) -> Tensor:
    from diffusers import FluxPipeline

    b, k, h, w = x.shape
    ids = FluxPipeline._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", torch.float32)
    words = torch.zeros(c["encoder_hidden_states"].shape[1], 3)
    packed = FluxPipeline._pack_latents(x, b, k, h, w)
    out = n(packed, timestep=t / 1000, img_ids=ids, txt_ids=words, **c, return_dict=False)[0]
    return FluxPipeline._unpack_latents(out, 8 * h, 8 * w, 8)


def _ltx(n: Any, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    from diffusers import LTXPipeline

    _, _, f, h, w = x.shape
    more = {"num_frames": f, "height": h, "width": w, "rope_interpolation_scale": (8 / 25, 32, 32)}
    mask = torch.ones(c.shape[:2])
    packed = LTXPipeline._pack_latents(x)
    out = n(packed, c, t, encoder_attention_mask=mask, **more, return_dict=False)[0]
    return LTXPipeline._unpack_latents(out, f, h, w)


def _cogvideo(n: Any, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    from types import SimpleNamespace

    from diffusers import CogVideoXPipeline

    own = SimpleNamespace(vae_scale_factor_spatial=8, transformer=n)
    f, h, w = x.shape[1], x.shape[3], x.shape[4]
    turned = CogVideoXPipeline._prepare_rotary_positional_embeddings(own, 8 * h, 8 * w, f, "cpu")
    return n(x, c, t, image_rotary_emb=turned).sample


def _sdxl(n: Any, x: Tensor, t: Tensor, c: Any) -> Tensor:
    added = {key: c[key] for key in ("text_embeds", "time_ids")}
    return n(x, t, c["encoder_hidden_states"], added_cond_kwargs=added).sample


def _hunyuan(n: Any, x: Tensor, t: Tensor, c: Any) -> Tensor:
    told = {**c, "encoder_attention_mask": torch.ones(c["encoder_hidden_states"].shape[:2])}
    told |= {"guidance": 1000 * c["guidance"]} if "guidance" in c else {}
    return n(x, t, **told, return_dict=False)[0]


def _mochi(n: Any, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """Its own scheduler inverts time; beside another one the class answers as all others do."""
    mask = torch.ones(c.shape[:2], dtype=torch.bool)
    return n(x, c, t, encoder_attention_mask=mask, return_dict=False)[0]


def _qwen(n: Any, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    from diffusers import QwenImagePipeline

    b, k, h, w = x.shape
    packed = QwenImagePipeline._pack_latents(x, b, k, h, w)
    sides = [[(1, h // 2, w // 2)]] * b
    out = n(packed, timestep=t / 1000, encoder_hidden_states=c, img_shapes=sides, return_dict=False)[0]
    return QwenImagePipeline._unpack_latents(out, 8 * h, 8 * w, 8)[:, :, 0]


def _stable_audio(n: Any, x: Tensor, t: Tensor, c: Any) -> Tensor:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    turned = get_1d_rotary_pos_embed(4, x.shape[-1] + 1, use_real=True, repeat_interleave_real=False)
    states, whole = c["encoder_hidden_states"], c["global_hidden_states"][:, None]
    return n(x, t, states, whole, rotary_embedding=turned, return_dict=False)[0]


ASKED: dict[str, Callable[[Any, Tensor, Tensor, Any], Tensor]] = {
    "UNet2DModel": lambda n, x, t, c: n(x, t).sample,
    "UNet2DModel with classes": lambda n, x, t, c: n(x, t, class_labels=c).sample,
    "UNet2DConditionModel": lambda n, x, t, c: n(x, t, encoder_hidden_states=c).sample,
    "UNet2DConditionModel of SDXL": _sdxl,
    "UNet3DConditionModel": lambda n, x, t, c: n(x, t, encoder_hidden_states=c).sample,
    "DiTTransformer2DModel": lambda n, x, t, c: n(x, timestep=t, class_labels=c).sample.chunk(2, 1)[0],
    "PixArtTransformer2DModel": lambda n, x, t, c: n(
        x, encoder_hidden_states=c, timestep=t, added_cond_kwargs=NOTHING
    ).sample.chunk(2, 1)[0],
    "SD3Transformer2DModel": lambda n, x, t, c: n(x, timestep=t, **c).sample,
    "FluxTransformer2DModel": _flux,
    "FluxTransformer2DModel told its guidance": _flux,
    "AuraFlowTransformer2DModel": lambda n, x, t, c: n(x, c, timestep=t / 1000).sample,
    "SanaTransformer2DModel": lambda n, x, t, c: n(x, c, timestep=t).sample,
    "WanTransformer3DModel": lambda n, x, t, c: n(x, t, c).sample,
    "LTXVideoTransformer3DModel": _ltx,
    "CogVideoXTransformer3DModel": lambda n, x, t, c: n(x, c, t).sample,
    "CogVideoXTransformer3DModel with rotary places": _cogvideo,
    "CogVideoXTransformer3DModel 1.5": _cogvideo,
    "HunyuanVideoTransformer3DModel": _hunyuan,
    "HunyuanVideoTransformer3DModel told its guidance": _hunyuan,
    "MochiTransformer3DModel": _mochi,
    "QwenImageTransformer2DModel": _qwen,
    "StableAudioDiTModel": _stable_audio,
}


def test_every_line_of_the_table_is_here() -> None:
    assert {name.partition(" ")[0] for name in ASKED} == {*CALLS}


@pytest.mark.parametrize("name", ASKED)
def test_a_teacher_is_asked_as_its_pipeline_asks(name: str, tmp_path: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = tiny.saved(tmp_path, name, FlowMatchEulerDiscreteScheduler(), "transformer")
    teacher = omnidistill.teacher(tmp_path, shape=tiny.shape(name))
    assert teacher.named is not None
    g = generator("networks")
    x = torch.randn(2, *teacher.named["shape"], generator=g)
    condition = teacher.network.example(2, g)  # type: ignore[operator]
    t = torch.tensor([0.25, 0.75], dtype=torch.float64)
    with torch.no_grad():
        found = teacher(x, t, Context(condition)).mean
        if "class" in name or name == "DiTTransformer2DModel":
            assert condition is not None
        velocity = ASKED[name](theirs, x, 1000 * t.float(), condition)
    shaped = t.reshape(-1, *(1,) * (x.ndim - 1)).float()
    torch.testing.assert_close(found, x - shaped * velocity, rtol=1e-5, atol=1e-5)
    assert float((found - x).abs().max()) > 1e-3  # it says something


@pytest.mark.parametrize("name", ASKED)
def test_it_has_a_layer_for_a_discriminator_and_takes_a_second_time(name: str, tmp_path: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    tiny.saved(tmp_path, name, FlowMatchEulerDiscreteScheduler(), "transformer")
    teacher = omnidistill.teacher(tmp_path, shape=tiny.shape(name))
    assert teacher.named is not None
    x = torch.randn(2, *teacher.named["shape"], generator=generator("x"))
    context = Context(teacher.network.example(2, generator("c")))  # type: ignore[operator]
    if name != "UNet3DConditionModel":
        assert teacher.features(x, 0.5, context).shape == (2, teacher.feature_channels())
    told = with_second(teacher.network, target_time=True, guidance=True)
    torch.nn.init.normal_(told.target_time.outer.weight)  # type: ignore[union-attr, arg-type]
    answers = [
        told(x, torch.full((2,), 500.0), *context_of(context), target_time=torch.full((2,), r))
        for r in (0.0, 0.5)
    ]
    assert float((answers[0] - answers[1]).detach().abs().max()) > 1e-4


def context_of(context: Context) -> tuple[Any, ...]:
    return () if context.condition is None else (context.condition,)


def test_words_that_are_masked_are_not_heard() -> None:
    """The classes of which a mask is a condition of the user's."""
    from omnidistill.interop.diffusers_network import DiffusersNetwork

    for name in ("HunyuanVideoTransformer3DModel", "MochiTransformer3DModel", "StableAudioDiTModel"):
        network = DiffusersNetwork.around(tiny.model(name), name)
        g = generator("masked")
        x = torch.randn(2, *(tiny.shape(name) or [4, 16]), generator=g)
        told = network.example(2, g)
        told = dict(told) if not isinstance(told, Tensor) else {"encoder_hidden_states": told}
        told["encoder_attention_mask"] = torch.arange(7).expand(2, 7) < 4
        other = dict(told)
        hidden = torch.arange(7)[:, None] >= 4
        other["encoder_hidden_states"] = torch.where(hidden, 9.0, told["encoder_hidden_states"])
        heard = {**told, "encoder_attention_mask": torch.ones(2, 7)}
        with torch.no_grad():
            answers = [network(x, torch.full((2,), 500.0), c) for c in (told, other, heard)]
        torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-5, msg=name)
        assert float((answers[0] - answers[2]).abs().max()) > 1e-5, name


def test_mistakes_are_said_in_a_line(tmp_path: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    tiny.saved(tmp_path / "wan", "WanTransformer3DModel", FlowMatchEulerDiscreteScheduler(), "transformer")
    with pytest.raises(UserError, match=r"set task.shape=\[...\]"):
        omnidistill.teacher(tmp_path / "wan")
    wan = omnidistill.teacher(tmp_path / "wan", shape=[4, 3, 8, 8])
    with pytest.raises(UserError, match="unknown condition of WanTransformer3DModel 'pooled'"):
        wan(torch.zeros(1, 4, 3, 8, 8), 0.5, Context({"pooled": torch.zeros(1, 2)}))
    tiny.saved(
        tmp_path / "cog", "CogVideoXTransformer3DModel", FlowMatchEulerDiscreteScheduler(), "transformer"
    )
    with pytest.raises(UserError, match="is no folder and no file"):
        omnidistill.teacher(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nor a model of diffusers"):
        omnidistill.teacher(tmp_path / "empty")


class Small(torch.nn.Module):
    """A network of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(torch.cat((x, t[:, None]), 1))


@pytest.mark.parametrize("kind", ["ckpt of lightning", "ckpt of weights", "safetensors"])
def test_weights_of_a_class_of_ones_own(kind: str, tmp_path: Any) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = Small()
    if kind == "safetensors":
        file = tmp_path / "w.safetensors"
        save_file(network.state_dict(), file)
    else:
        file = tmp_path / "w.ckpt"
        state = network.state_dict()
        trained = {f"model.{name}": value for name, value in state.items()}
        more = {"loss.weight": torch.ones(2)}
        content = {"state_dict": {**trained, **more}, "epoch": 3} if "lightning" in kind else state
        torch.save(content, file)
    teacher = omnidistill.teacher(file, network=Small, shape=[2])
    x = torch.randn(4, 2)
    assert torch.equal(teacher(x, 0.5).mean, x - 0.5 * network(x, torch.full((4,), 0.5)))


def test_a_checkpoint_runs_nothing(tmp_path: Any) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("ran",))

    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="is not unpickled"):
        omnidistill.teacher(tmp_path / "evil.ckpt", network=Small)
    twice = {
        f"{start}.{name}": value for start in ("net", "ema") for name, value in Small().state_dict().items()
    }
    torch.save({"state_dict": twice}, tmp_path / "twice.ckpt")
    with pytest.raises(UserError, match="holds the network 2 times"):
        omnidistill.teacher(tmp_path / "twice.ckpt", network=Small)


def test_shards_are_put_together(tmp_path: Any) -> None:
    from diffusers import DDPMScheduler

    theirs: Any = tiny.model("UNet2DModel")
    theirs.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    teacher = omnidistill.teacher(tmp_path)
    for name, value in theirs.state_dict().items():
        assert torch.equal(teacher.network.state_dict()[f"network.{name}"], value)
