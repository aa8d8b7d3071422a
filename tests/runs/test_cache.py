"""Data through an encoder, once: what is kept is what the encoder says; what is not as it was written is refused."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import omnidistill
from omnidistill.cli import main
from omnidistill.errors import UserError
from omnidistill.random import generator
from omnidistill.runs import cache as encoded
from omnidistill.training import cache, cache_format

SIDE, COUNT = 16, 40


def autoencoder(folder: Path, seed: int = 0) -> Path:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (4, 8), "latent_channels": 4, "norm_num_groups": 2, "sample_size": SIDE}
    diffusers.AutoencoderKL(**blocks, **sizes, scaling_factor=0.4).save_pretrained(folder)
    return folder


def unet(folder: Path) -> Path:
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16)}
    UNet2DModel(**sizes, **blocks, layers_per_block=1, norm_num_groups=4).save_pretrained(folder / "unet")
    DDPMScheduler(num_train_timesteps=100, clip_sample=False).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Pictures in two class folders, an autoencoder of diffusers, and the cache that a command makes of them."""
    from PIL import Image

    home, draws = tmp_path_factory.mktemp("cache"), np.random.default_rng(0)
    for number in range(COUNT):
        place = home / "photos" / ("cats" if number % 2 else "dogs") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(place)
    autoencoder(home / "vae")
    encoded.SHARD, before = 8, encoded.SHARD
    try:
        assert main(["cache", *words(home), f"out={home / 'latents'}"]) == 0
    finally:
        encoded.SHARD = before
    return home


def words(home: Path) -> list[str]:
    data = ["task=image/own", f"task.folder={home / 'photos'}", f"task.picture=[3,{SIDE},{SIDE}]"]
    return [*data, "task.classes=2", f"encoder={home / 'vae'}", "device=cpu"]


def test_rows_are_the_encoders_latents_of_every_picture(home):
    from diffusers import AutoencoderKL

    from omnidistill.modalities.image.own import own_images

    theirs = AutoencoderKL.from_pretrained(home / "vae").eval()
    found = cache.Cache(home / "latents")
    assert found.labels == ("cats", "dogs") and found.shape == (4, 8, 8)
    for split in cache_format.SPLITS:
        pictures, labels = own_images(home / "photos", split, (SIDE, SIDE), 2, channels=3)
        rows = found.rows(torch.arange(len(pictures)).flip(0), split)
        with torch.no_grad():
            wanted = theirs.encode(pictures.flip(0)).latent_dist.mode() * 0.4
        assert torch.allclose(rows.x0, wanted, atol=1e-5)
        assert torch.equal(rows.context.condition, labels.flip(0))
    assert sum(found.header.sizes.values()) == COUNT and found.header.count("train") > 2
    drawn = found.batch(64, generator(0))
    assert torch.equal(drawn.x0, found(64, generator(0)).x0) and len(drawn.x0.flatten(1).unique(dim=0)) > 8


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_shards_are_mapped(home):
    found = cache.Cache(home / "latents")
    assert "latents" not in Path("/proc/self/maps").read_text(), "nothing is read before it is asked for"
    assert found.held_out(2).count == 2
    mapped = Path("/proc/self/maps").read_text()
    assert str((home / "latents" / "train" / "00001.safetensors").resolve()) in mapped


def test_writing_goes_on_where_it_was_stopped(home, tmp_path, monkeypatch, capsys):
    """Ctrl-C waits for the shard in hand; the finished cache is the one that was never stopped, byte for byte."""
    monkeypatch.setattr(encoded, "SHARD", 8)
    write, out = cache_format.write_shard, tmp_path / "latents"

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGINT)
        write(*given)

    monkeypatch.setattr(cache_format, "write_shard", interrupted)
    assert main(["cache", *words(home), f"out={out}"]) == 130
    assert f"8 of {COUNT} rows kept" in capsys.readouterr().err
    monkeypatch.setattr(cache_format, "write_shard", write)
    with pytest.raises(UserError, match=r"1 of \d shards of train.*resume=true makes the others"):
        cache.Cache(out)
    kept = (out / "train" / "00000.safetensors").stat().st_mtime_ns
    assert main(["cache", *words(home), f"out={out}", "resume=true"]) == 0
    assert (out / "train" / "00000.safetensors").stat().st_mtime_ns == kept
    for file in (home / "latents").rglob("*.safetensors"):
        assert (out / file.relative_to(home / "latents")).read_bytes() == file.read_bytes()


def test_what_is_not_as_it_was_written_is_refused(home, tmp_path, capsys):
    out = Path(shutil.copytree(home / "latents", tmp_path / "latents"))
    file = out / "train" / "00001.safetensors"
    good = file.read_bytes()
    flipped = bytearray(good)
    flipped[-9] ^= 1
    for bad in (good[:-5], bytes(flipped), b"", (out / "train" / "00000.safetensors").read_bytes()):
        file.write_bytes(bad)
        with pytest.raises(UserError, match=r"delete it, and `omnidistill cache` .*resume=true") as error:
            cache.Cache(out).batch(2, generator(0))
        assert "\n" not in str(error.value) and "00001" in str(error.value)
    file.unlink()
    assert main(["cache", *words(home), f"out={out}", "resume=true"]) == 0 and file.read_bytes() == good
    autoencoder(tmp_path / "other", seed=1)
    shutil.rmtree(tmp_path / "vae", ignore_errors=True)
    changed = [*words(home)[:-2], f"encoder={tmp_path / 'other'}", "device=cpu", f"out={out}", "resume=true"]
    assert main(["cache", *changed]) == 2 and "encoder was" in capsys.readouterr().err
    header = json.loads((out / "cache.json").read_text())
    (out / "cache.json").write_text(json.dumps(header | {"shape": [4, 8]}))
    with pytest.raises(UserError, match="shard of another store"):
        cache.Cache(out).batch(2, generator(0))
    with pytest.raises(UserError, match="is no cache"):
        cache.Cache(home / "photos")


def test_an_encoder_whose_weights_changed_is_refused(home, tmp_path, capsys):
    """The folder's name is the same, its digest is not."""
    vae = Path(shutil.copytree(home / "vae", tmp_path / "vae"))
    given = [f"encoder={vae}" if word.startswith("encoder=") else word for word in words(home)]
    assert main(["cache", *given, "rows=4", f"out={tmp_path / 'a'}"]) == 0
    autoencoder(vae, seed=2)
    assert main(["cache", *given, "rows=4", f"out={tmp_path / 'a'}", "resume=true"]) == 2
    said = capsys.readouterr().err
    assert "an encoder of digest" in said and said.strip().count("\n") == 0


def test_a_run_streams_it_and_refuses_another_encoder(home, tmp_path, capsys):
    teacher = unet(tmp_path / "teacher")
    data = ["task=image/own", f"teacher={teacher}", f"task.folder={home / 'latents'}"]
    decoded = [f"task.autoencoder={home / 'vae'}", f"task.picture=[3,{SIDE},{SIDE}]"]
    quick = ["updates=1", "batch=4", "steps=[1]", "device=cpu", "precision=fp32", "task.teacher_steps=2"]
    judged = ["evaluation.samples=8", "evaluation.batch=8", "recipe=consistency-models"]
    before = [file.stat().st_mtime_ns for file in sorted((home / "latents").rglob("*"))]
    assert main(["distill", *data, *decoded, *quick, *judged, f"out={tmp_path / 'out'}"]) == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["student"][0]["metrics"]
    assert figures["energy"] > 0 and any((tmp_path / "out" / "samples").rglob("*.png"))
    assert before == [file.stat().st_mtime_ns for file in sorted((home / "latents").rglob("*"))]
    student = omnidistill.load(tmp_path / "out")
    assert student.task.pictures(student.sample(2)).shape == (2, 3, SIDE, SIDE)
    capsys.readouterr()
    other = [f"task.autoencoder={autoencoder(tmp_path / 'other', seed=1)}", decoded[1]]
    assert main(["distill", *data, *other, *quick, *judged, f"out={tmp_path / 'b'}"]) == 2
    assert "task.autoencoder=DIR names the one that it was made by" in capsys.readouterr().err


def pipeline(folder: Path, kind: str) -> Path:
    """Of Stable Diffusion's or PixArt's make: text encoder, tokenizer, autoencoder, network, scheduler."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    from diffusers import DDPMScheduler, PixArtTransformer2DModel, UNet2DConditionModel

    words = ["<pad>", "<unk>", "a", "cat", "dog", "red", "blue"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 6}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)
    fast.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    if kind == "clip":
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        clip = transformers.CLIPTextConfig(vocab_size=7, max_position_embeddings=6, **sizes)
        transformers.CLIPTextModel(clip).save_pretrained(folder / "text_encoder")
        blocks = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        sizes = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
        UNet2DConditionModel(**sizes, **blocks, cross_attention_dim=16, attention_head_dim=4).save_pretrained(
            folder / "unet"
        )
    else:
        t5 = transformers.T5Config(vocab_size=7, d_model=10, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        transformers.T5EncoderModel(t5).save_pretrained(folder / "text_encoder")
        sizes = {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_attention_heads": 2,
            "norm_num_groups": 2,
        }
        more = {"attention_head_dim": 4, "num_layers": 1, "cross_attention_dim": 8, "caption_channels": 10}
        PixArtTransformer2DModel(**sizes, **more).save_pretrained(folder / "transformer")
    DDPMScheduler(num_train_timesteps=100, clip_sample=False).save_pretrained(folder / "scheduler")
    autoencoder(folder / "vae")
    return folder


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_captions_are_encoded_with_the_pictures_and_condition_the_student(home, tmp_path, kind, capsys):
    """States as the pipeline's own encoder gives them, the empty caption's for guidance, and a run on both."""
    whole = pipeline(tmp_path / "pipeline", kind)
    photos = Path(shutil.copytree(home / "photos", tmp_path / "photos"))
    files = sorted(photos.rglob("*.png"))
    for number, file in enumerate(files):
        file.with_suffix(".txt").write_text(f"a {('red', 'blue')[number % 2]} {file.parent.name[:-1]}\n")
    data = ["task=image/own", f"task.folder={photos}", f"task.picture=[3,{SIDE},{SIDE}]", "device=cpu"]
    assert main(["cache", *data, f"encoder={whole}", f"out={tmp_path / 'rows'}"]) == 0
    assert "left aside" not in capsys.readouterr().err, "captions are no strays"
    import transformers

    from omnidistill.modalities.image.own import own_rows

    model = getattr(transformers, "CLIPTextModel" if kind == "clip" else "T5EncoderModel")
    theirs = model.from_pretrained(whole / "text_encoder").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole / "tokenizer")
    found = omnidistill.Cache(tmp_path / "rows")
    _, held = own_rows(photos, "held_out", (SIDE, SIDE), 0, channels=3)
    words = [file.with_suffix(".txt").read_text().strip() for file in held]
    made = tokenizer(words, return_tensors="pt", padding="max_length", max_length=6, truncation=True)
    with torch.no_grad():
        wanted = theirs(made.input_ids, attention_mask=made.attention_mask if kind == "t5" else None)[0]
        nothing = tokenizer([""], return_tensors="pt", padding="max_length", max_length=6)
        empty = theirs(nothing.input_ids, attention_mask=nothing.attention_mask if kind == "t5" else None)[0]
    condition = found.held_out(len(held)).context.condition
    states = condition if kind == "clip" else condition["encoder_hidden_states"]
    assert torch.allclose(states, wanted, atol=1e-5) and len(states.flatten(1).unique(dim=0)) > 1
    emptied = cache_format.null_of(tmp_path / "rows", found.header)(condition)
    emptied = emptied if kind == "clip" else emptied["encoder_hidden_states"]
    assert torch.allclose(emptied, empty.expand_as(emptied), atol=1e-5)
    run = [
        f"teacher={whole}",
        f"task.folder={tmp_path / 'rows'}",
        f"task.autoencoder={whole / 'vae'}",
        *data[2:],
    ]
    quick = ["updates=1", "batch=4", "steps=[1]", "precision=fp32", "task.teacher_steps=2", "guidance=2"]
    judged = [
        "evaluation.samples=8",
        "evaluation.batch=8",
        "recipe=consistency-models",
        "teacher_check=false",
    ]
    assert main(["distill", data[0], *run, *quick, *judged, f"out={tmp_path / 'out'}"]) == 0
    student = omnidistill.load(tmp_path / "out")
    assert student.task.null is not None and student.sample(3).shape == (3, 4, 8, 8)
    files[0].with_suffix(".txt").unlink()
    capsys.readouterr()
    assert main(["cache", *data, f"encoder={whole}", f"out={tmp_path / 'b'}"]) == 2
    assert "is missing, and other files have a caption" in capsys.readouterr().err


def test_several_text_encoders_from_the_command_line(home, tmp_path):
    """SDXL's: states, pooled states and sizes of each row are conditions; zeros and sizes are what guidance needs."""
    pytest.importorskip("transformers")
    from omnidistill.interop.states import States
    from tests.interop import pipelines

    whole, photos = tmp_path / "sdxl", Path(shutil.copytree(home / "photos", tmp_path / "photos"))
    pipelines.sdxl(whole)
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        file.with_suffix(".txt").write_text(("a dog barks", "rain")[number % 2])
    data = ["task=image/own", f"task.folder={photos}", f"task.picture=[3,{SIDE},{SIDE}]", "device=cpu"]
    assert main(["cache", *data, f"encoder={whole}", f"out={tmp_path / 'rows'}"]) == 0
    found = omnidistill.Cache(tmp_path / "rows")
    told = found.held_out(9).context.condition
    wanted = States(whole)(["a dog barks", "rain"])
    assert told.keys() == wanted.keys() == {"encoder_hidden_states", "text_embeds", "time_ids"}
    for one in told["text_embeds"]:
        assert float((wanted["text_embeds"] - one).abs().amax(1).min()) < 1e-5
    emptied = cache_format.null_of(tmp_path / "rows", found.header)(told)
    assert not emptied["text_embeds"].any() and torch.equal(emptied["time_ids"], told["time_ids"])
    run = [
        f"teacher={whole}",
        f"task.folder={tmp_path / 'rows'}",
        f"task.autoencoder={whole / 'vae'}",
        *data[2:],
    ]
    quick = ["updates=1", "batch=4", "steps=[1]", "precision=fp32", "task.teacher_steps=2", "guidance=2"]
    judged = [
        "evaluation.samples=8",
        "evaluation.batch=8",
        "recipe=consistency-models",
        "teacher_check=false",
    ]
    assert main(["distill", data[0], *run, *quick, *judged, f"out={tmp_path / 'out'}"]) == 0
    assert omnidistill.load(tmp_path / "out").sample(2).shape == (2, 4, 8, 8)


def test_a_function_of_ones_own_may_change_samples_and_conditions(tmp_path, monkeypatch, capsys):
    """On a task that draws its data, whose rows have to be counted; and Python trains on it."""
    (tmp_path / "my_codec.py").write_text(
        "from omnidistill import Batch, Context\n\n\n"
        "def encode(x0, context):\n"
        "    return Batch(2 * x0, Context(condition={'own': x0[:, :1]}))\n\n\n"
        "def wrong(x0, context):\n    return x0[:1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = ["task=exact/gaussian_mixture", "encoder=my_codec:encode", "device=cpu"]
    assert main(["cache", *made, f"out={tmp_path / 'a'}"]) == 2
    assert "rows=N says how many" in capsys.readouterr().err
    assert main(["cache", *made, "rows=600", f"out={tmp_path / 'a'}"]) == 0
    found = omnidistill.Cache(tmp_path / "a")
    rows = found.rows(torch.tensor([599, 0, 256]), "train")
    assert torch.equal(rows.context.condition["own"], rows.x0[:, :1] / 2) and len(found) == 600
    assert found.header.sizes == {"train": 600, "held_out": 75} and found.held_out(1000).count == 75
    digest = found.header.digest
    with (tmp_path / "my_codec.py").open("a") as file:
        file.write("# changed\n")
    assert main(["cache", *made, "rows=600", f"out={tmp_path / 'a'}", "resume=true"]) == 2
    assert f"{digest[:12]}..." in capsys.readouterr().err
    for encoder, why in (("my_codec:wrong", "answers as many samples"), ("nowhere", "neither a folder nor")):
        given = [made[0], f"encoder={encoder}", "rows=64", f"out={tmp_path / 'b'}"]
        assert main(["cache", *given]) == 2 and why in capsys.readouterr().err
    plain = ["cache", made[0], "rows=64", f"out={tmp_path / 'c'}"]
    assert main(plain) == 0
    network = torch.nn.Linear(2, 2)
    teacher = omnidistill.NetworkDenoiser(Flow(network), omnidistill_path(), "flow")
    data = omnidistill.Cache(tmp_path / "c")
    student = omnidistill.distill(
        teacher, "consistency-models", data=data, shape=data.shape, updates=1, batch=4, device="cpu",
        options=["teacher_check=false"],
    )  # fmt: skip
    assert student.sample(2).shape == (2, 2)


class Flow(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t):
        return self.inner(x)


def omnidistill_path():
    from omnidistill.paths import rectified_flow

    return rectified_flow()
