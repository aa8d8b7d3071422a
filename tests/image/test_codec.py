"""Latents: what diffusers saved is read to the same numbers, latents have unit variance, decoding finds the picture."""

import json
import shutil

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.image import data
from omnidistill.modalities.image.codec import SHIPPED, Encoded, Latents, Pixels

PICTURE = (1, 28, 28)


@pytest.fixture(scope="module")
def shipped() -> Latents:
    return Latents(SHIPPED, PICTURE)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return data.heldout().images[:400]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_pixels_are_the_identity(pictures):
    codec = Pixels(PICTURE)
    assert codec.shape == PICTURE
    assert codec.encode(pictures) is pictures and codec.decode(pictures) is pictures


def test_shipped_latents_have_unit_variance_and_decode_to_the_picture(shipped, pictures):
    assert shipped.shape == (8, 7, 7)
    latents = shipped.encode(pictures)
    assert 0.9 < float(latents.std()) < 1.1 and abs(float(latents.mean())) < 0.1
    error = (shipped.decode(latents).clamp(-1, 1) - pictures).square().mean()
    swapped = (shipped.decode(latents).clamp(-1, 1) - pictures.flip(0)).square().mean()
    assert error < 0.03 < 0.1 * swapped


def test_shipped_one_is_what_diffusers_reads(shipped, pictures):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderTiny.from_pretrained(SHIPPED).eval()
    with torch.no_grad():
        raw = theirs.encode(pictures[:32]).latents
        ours = shipped.encode(pictures[:32])
        expected = (raw - theirs.config.shift_factor) * theirs.config.scaling_factor
        assert torch.allclose(ours, expected, atol=1e-4)
        assert torch.allclose(shipped.decode(ours), theirs.decode(raw).sample, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_an_autoencoder_tiny_of_ones_own(tmp_path, pictures, activation):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderTiny(
        in_channels=1,
        out_channels=1,
        latent_channels=3,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 2),
        num_decoder_blocks=(2, 1),
        act_fn=activation,
        scaling_factor=1.7,
        shift_factor=0.2,
    ).eval()
    theirs.save_pretrained(tmp_path)
    codec = Latents(tmp_path, PICTURE)
    assert codec.shape == (3, 14, 14)
    with torch.no_grad():
        raw = theirs.encode(pictures[:5]).latents
        assert torch.allclose(codec.encode(pictures[:5]), (raw - 0.2) * 1.7, atol=1e-5)
        assert torch.allclose(codec.decode((raw - 0.2) * 1.7), theirs.decode(raw).sample, atol=1e-5)


def test_an_autoencoder_kl_of_ones_own(tmp_path, pictures):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        scaling_factor=0.5,
    ).eval()
    theirs.save_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    codec = Latents(tmp_path, PICTURE)
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        mode = theirs.encode(pictures[:3]).latent_dist.mode()
        assert torch.allclose(codec.encode(pictures[:3]), mode * 0.5, atol=1e-5)
        assert torch.allclose(codec.decode(mode * 0.5), theirs.decode(mode).sample, atol=1e-5)


def test_figures_do_not_depend_on_autocast_or_on_the_batch(shipped, pictures):
    latents = shipped.encode(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(shipped.encode(pictures), latents)
        assert shipped.decode(latents[:3]).dtype == torch.float32
    assert torch.allclose(shipped.decode(latents)[5:9], shipped.decode(latents[5:9]), atol=1e-5)


def test_a_latent_is_the_same_number_whatever_was_asked_before(shipped, pictures):
    first, second = Encoded(shipped, pictures), Encoded(shipped, pictures)
    rows = torch.tensor([7, 3, 399, 3])
    second[torch.arange(100)]
    assert torch.equal(first[rows], second[rows])
    assert torch.allclose(first[rows], shipped.encode(pictures[rows]), atol=1e-5)
    assert int(first.known.sum()) == 3, "nothing is encoded that nobody asked for"
    kept = first.kept.clone()
    first.pictures = torch.zeros_like(pictures)
    assert torch.equal(first[rows], kept[rows]), "and nothing twice"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "VQModel"}, "is a VQModel; possible: AutoencoderTiny, AutoencoderKL"),
        ({"in_channels": 3, "out_channels": 3}, "reads 3 channels, pictures here have 1"),
        ({"out_channels": 2}, "an autoencoder of 1 channels answers 2"),
        ({"decoder_block_out_channels": [64, 64, 64]}, "has one width"),
        ({"act_fn": "tanh"}, "relu, silu or gelu"),
        ({"latent_channels": 4}, "weights of another architecture"),
        ({"latent_channels": None}, None),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, says):
    folder = tmp_path / "autoencoder"
    shutil.copytree(SHIPPED, folder)
    config = json.loads((folder / "config.json").read_text()) | change
    if says is None:
        del config["latent_channels"]
        says = "has no 'latent_channels'"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=says) as error:
        Latents(folder, PICTURE)
    one_line(error)


def test_missing_damaged_and_ill_sized(tmp_path, shipped):
    with pytest.raises(UserError, match="no autoencoder in") as error:
        Latents(tmp_path, PICTURE)
    one_line(error)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not a configuration") as error:
        Latents(tmp_path, PICTURE)
    one_line(error)
    with pytest.raises(UserError, match="their sides do not divide") as error:
        Latents(SHIPPED, (1, 30, 30))
    one_line(error)
