"""What each metric sees: blur, noise, stillness, frames out of order, and the wrong recording."""

import pytest
import torch
import torch.nn.functional as F

from omnidistill.errors import UserError
from omnidistill.modalities.video.metrics import Judge, appearance, motion
from omnidistill.random import generator

COUNT = 300


@pytest.fixture(scope="module")
def judged(task):
    """The judge of the made-up recordings, and clips of the training split with their figures."""
    clips, labels = task._splits["train"].draw(COUNT, generator(1))
    judge = Judge(clips, labels, task._splits["held_out"].draw(COUNT, generator(2))[0], 2)
    fresh, labels = task._splits["train"].draw(COUNT, generator(3))
    return judge, fresh, labels, judge(fresh, labels)


def blurred(clips):
    return F.avg_pool3d(clips, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)


def test_real_clips_have_the_motion_of_real_clips(judged):
    _, _, _, real = judged
    assert real["label_accuracy"] > 0.8
    assert 0.7 < real["motion"] < 1.4 and 0.7 < real["flicker"] < 1.4


def test_each_fault_costs_where_it_should(judged):
    judge, clips, labels, real = judged
    g = generator(4)
    noisy = judge(clips + 0.1 * torch.randn(clips.shape, generator=g), labels)
    still = judge(clips[:, :, :1].expand_as(clips), labels)
    disordered = judge(clips[:, :, [2, 0, 3, 1]], labels)
    soft = judge(blurred(clips), labels)
    for made in (noisy, still, disordered, soft):
        assert made["frechet"] > 1.2 * real["frechet"]
    assert soft["frechet_frames"] > 1.5 * real["frechet_frames"]
    # Frames as they are, motion gone: only the one notices.
    assert still["motion"] == still["flicker"] == 0.0
    assert still["frechet_motion"] > 3 * real["frechet_motion"]
    assert still["frechet_frames"] < 1.2 * real["frechet_frames"] + 0.5
    assert disordered["frechet_frames"] < 1.2 * real["frechet_frames"] + 0.5
    assert noisy["flicker"] > 1.5 * real["flicker"] and disordered["flicker"] > 1.2 * real["flicker"]


def test_the_mean_of_all_clips_is_far_from_any(judged):
    """What a one-step answer of an untrained or blurring model looks like."""
    judge, clips, labels, real = judged
    noise = 0.05 * torch.randn(clips.shape, generator=generator(5))
    assert judge(clips.mean(0) + noise, labels)["frechet"] > 3 * real["frechet"]


def test_labels_exchanged_are_noticed(judged):
    judge, clips, labels, real = judged
    wrong = judge(clips, 1 - labels)
    assert wrong["label_accuracy"] < 0.2 and wrong["frechet"] == real["frechet"]


def test_order_of_clips_does_not_matter(judged):
    judge, clips, labels, real = judged
    back = judge(clips.flip(0), labels.flip(0))
    assert all(back[name] == pytest.approx(real[name], rel=1e-6, abs=1e-9) for name in real)


def test_pixels_that_are_no_numbers_are_an_error(judged):
    judge, clips, labels, _ = judged
    broken = clips.clone()
    broken[3, 0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=f"1 of {COUNT} clips") as error:
        judge(broken, labels)
    assert "\n" not in str(error.value)


def test_descriptors_know_direction():
    """A ramp has slopes of one sign; moved to the right it darkens, and against the slope is not along it."""
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    across = appearance(ramp)[0, 48:].unflatten(0, (8, 16))[[0, 1, 4, 5]].mean(1)
    assert across[0] > 0.05 and across[1:].abs().max() < 1e-3
    right, left = (motion(ramp, ramp - d)[0] for d in (0.2, -0.2))
    assert not torch.allclose(right, left, atol=0.1)
    assert motion(ramp, ramp).abs().max() == 0


def test_resamples_are_the_distance_of_the_drawn_clips(judged):
    judge, clips, _, _ = judged
    few = clips[:20]
    counts = torch.stack((torch.ones(20), torch.tensor([3, 0, 1] * 6 + [1, 1]))).long()
    drawn = few[torch.repeat_interleave(torch.arange(20), counts[1])]
    found = judge.bootstrap(few, counts)
    for value, made in zip(found.tolist(), (few, drawn), strict=True):
        assert value == pytest.approx(judge(made, None)["frechet"], rel=1e-6)
