"""`hub:ORGANISATION/NAME` as a teacher. The service itself is not asked: its snapshot is a folder on the disk."""

import contextlib

import pytest
import torch

pytest.importorskip("diffusers")

import huggingface_hub

import omnidistill
from omnidistill.configuration.compose import compose, load_config
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.interop import hub


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A repository `me/tiny`, and what was asked of it."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(8, 3, 3, **blocks, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    unet.save_pretrained(tmp_path / "unet")
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    asked = []

    def snapshot(name, *, revision, allow_patterns):
        asked.append((name, revision, tuple(allow_patterns)))
        if name != "me/tiny":
            raise OSError("404: no such repository\nand more lines")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return tmp_path, asked


def test_a_repository_is_a_teacher_like_its_folder(service):
    folder, asked = service
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.6], dtype=torch.float64)
    found, wanted = (
        omnidistill.teacher(place)(x, t, Context()).mean for place in ("hub:me/tiny@main", str(folder))
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    (one,) = asked
    assert one[:2] == ("me/tiny", "main")
    assert not any(
        pattern.endswith(("py", "bin", "ckpt", "*")) for pattern in one[2]
    )  # nothing that could run


def test_a_run_remembers_the_folder(service):
    folder, _ = service
    cfg = compose("config", ["task=image/own", "teacher=hub:me/tiny", "recipe=diff-instruct", "out=out"])
    assert cfg.teacher == str(folder) and cfg.task.foreign


@pytest.mark.parametrize("text, says", [
    ("hub:tiny", "not of the form hub:ORGANISATION/NAME"),
    ("hub:me/../tiny", "not of the form"),
    ("hub:me/other", "could not be fetched (404: no such repository); download it and give its folder"),
])  # fmt: skip
def test_what_cannot_be_had_is_one_line(service, text, says):
    with pytest.raises(UserError) as error:
        hub.fetched(text)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert hub.fetched("runs/teacher") == "runs/teacher"


def test_a_received_configuration_fetches_nothing(service, tmp_path):
    _, asked = service
    run = tmp_path / "received"
    run.mkdir()
    (run / "config.yaml").write_text("teacher: hub:me/tiny\n")
    with contextlib.suppress(UserError):
        load_config(run)
    assert asked == []
