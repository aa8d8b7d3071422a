"""Texture statistics tell music from its blurred, noisy or wrongly labelled copies, and do not look at padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omnidistill.errors import UserError
from omnidistill.modalities.audio import metrics
from omnidistill.modalities.audio.task import Music


@pytest.fixture(scope="module")
def judged(tracks):
    """A texture fitted to training clips, features of some clips, and other clips of the same stretches to judge."""
    task = Music(folder=str(tracks))
    texture = task._texture[0]
    real = texture.features(task.batch(400, torch.Generator().manual_seed(4)).x0)
    batch = task.batch(400, torch.Generator().manual_seed(5))
    return texture, real, batch.x0, batch.context.condition


def test_real_music_is_nearer_than_any_damaged_copy(judged):
    texture, real, clips, labels = judged
    g = torch.Generator().manual_seed(0)
    copies = {
        "real": clips,
        "blurred": F.avg_pool2d(clips, 3, 1, 1),
        "noisy": clips + 0.3 * torch.randn(clips.shape, generator=g),
        "quiet": clips - 1.0,
        "backwards": clips.flip(-1),  # decays become swells: the same spectrum, another texture
        "one label": clips[labels == 0][torch.arange(400) % int((labels == 0).sum())],
        "means": torch.stack([clips[labels == label].mean(0) for label in range(3)])[labels],
        "noise": torch.randn(clips.shape, generator=g),
    }
    found = {name: metrics.evaluate(made, None, labels, texture, real) for name, made in copies.items()}
    for name, figures in found.items():
        if name != "real":
            assert figures["frechet"] > 1.3 * found["real"]["frechet"], name
    assert found["real"]["label_accuracy"] > 0.98 and found["one label"]["label_accuracy"] < 0.5
    assert found["noise"]["label_accuracy"] < 0.6
    assert found["real"]["recall"] > 0.5 > found["one label"]["recall"]
    assert found["means"]["recall"] < 0.1


def test_features_treat_each_clip_alone_and_ignore_padding(judged):
    texture, _, clips, _ = judged
    few = clips[:6]
    together = texture.features(few)
    torch.testing.assert_close(torch.cat([texture.features(clip[None]) for clip in few]), together)
    mask = torch.ones(6, 1, 1, 96, dtype=torch.bool)
    mask[..., 64:] = False
    padded = torch.cat((few, torch.full((6, 1, 64, 32), 9.0)), dim=-1)
    torch.testing.assert_close(texture.features(padded, mask), together, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(texture.features(padded), together, atol=0.1)


def test_bad_clips_are_refused_in_one_line(judged):
    texture, real, clips, labels = judged
    broken = clips.clone()
    broken[3, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="1 of 400 clips hold NaN") as error:
        metrics.evaluate(broken, None, labels, texture, real)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="divide by 4 and at least 16 frames"):
        metrics.Texture(clips[..., :12], None, labels)


def test_two_clips_are_judged_without_neighbours(judged):
    texture, real, clips, labels = judged
    assert set(metrics.evaluate(clips[:2], None, labels[:2], texture, real)) == {"frechet", "label_accuracy"}
