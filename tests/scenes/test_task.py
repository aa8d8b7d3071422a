"""`scenes/toys`: its law, its teacher, its metrics, and a scene that learns."""

import math

import pytest
import torch

from omnidistill.cli import main
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.modalities.scenes import data, metrics
from omnidistill.modalities.scenes.task import ToysTask
from omnidistill.random import generator
from omnidistill.student import load
from omnidistill.testing import check_task

SMALL = {"size": 12, "gaussians": 40, "network": {"widths": [8, 16]}}


def condition(task, count, label, g=None):
    context = task.batch(count, g or generator("asked")).context
    return {**context.condition, "label": torch.full((count,), label)}


def test_it_fills_in_the_form():
    assert check_task(ToysTask(**SMALL, std=0.15), count=24, teacher_steps=8)
    assert check_task(ToysTask(**{**SMALL, "size": 16}, latent=True, particles=3), count=12, teacher_steps=6)


@pytest.mark.parametrize("label", [0, 2, 3, 4])
def test_the_teacher_is_the_posterior_of_the_law(label):
    """Against self-normalised importance sampling over draws of the law itself, at much noise."""
    task = ToysTask(**SMALL, std=0.3)
    asked = {
        key: value[:1].expand(1500, *value.shape[1:]) for key, value in condition(task, 1, label).items()
    }
    x0 = task.law.sample(asked, generator("draws")).double()
    t = torch.tensor(0.9, dtype=torch.float64)
    alpha, _, sigma = task.path.coefficients(t)
    one = {key: value[:1] for key, value in asked.items()}
    x_t = alpha * x0[:1] + sigma * torch.randn(
        x0[:1].shape, generator=generator("noise"), dtype=torch.float64
    )
    weight = (-0.5 * (x_t - alpha * x0).square().flatten(1).sum(1) / sigma**2).softmax(0)
    estimate = (weight[:, None, None, None] * x0).sum(0)
    exact = task.exact_teacher()(x_t, t, Context(one)).parameters[0]
    effective = 1 / float(weight.square().sum())
    assert effective > 30
    error = float((estimate - exact).square().mean().sqrt())
    spread = float((weight[:, None, None, None] * (x0 - estimate).square()).sum(0).mean().sqrt())
    assert error < 1.5 * spread / math.sqrt(effective)


def test_labels_allow_what_they_say():
    task = ToysTask(**SMALL)
    kinds = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3])
    for label in range(4):
        share = task.law.share(condition(task, 2, label))
        assert share.sum(1) == pytest.approx([1.0, 1.0]) and set(kinds[share[0] > 0].tolist()) == {label}
    everything = task.law.share(condition(task, 1, 4))[0]
    assert bool((everything > 0).all()) and float(everything[6:].sum()) == pytest.approx(0.25)
    with pytest.raises(UserError, match="labels of a view"):
        task.law.share(condition(task, 1, 5))


def test_colourings_have_shares():
    task = ToysTask(**SMALL, shares=[3, 1])
    torch.testing.assert_close(
        task.law.share(condition(task, 1, 0))[0, :2], torch.tensor([0.75, 0.25], dtype=torch.float64)
    )


@pytest.mark.parametrize("latent", [False, True])
def test_a_scene_begins_as_a_toy(latent):
    task = ToysTask(
        ["snowman", "bareheaded"],
        size=16,
        gaussians=40,
        begin="bareheaded",
        latent=latent,
        colourings=1,
        prompt=1,
    )
    context = task.contexts(6, generator(0))
    seen = task.student_network()(torch.zeros(6, *task.shape), None, context.condition)
    found = task.measure(seen, context, generator(0))
    assert found["psnr"] > 25.0  # not more: the others can be seen a little
    other = ToysTask(["snowman", "bareheaded"], size=16, gaussians=40, latent=latent, colourings=1)
    assert other.measure(seen, context, generator(0))["psnr"] < found["psnr"] - 5.0
    with pytest.raises(UserError, match="give it more"):
        ToysTask(["bareheaded"], size=16, gaussians=4, begin="bareheaded").student_network()


def test_metrics_tell_two_fronts_from_one():
    task = ToysTask(**SMALL)
    context = task.contexts(12, generator(0))
    means = task.law.means(context.condition["camera"])
    whole = task.measure(means[:, 0], context, generator(0))
    assert whole["psnr"] > 100 and whole["consistency"] == 1.0 and whole["recalled"] == 0.5
    assert whole["contrast"] == pytest.approx(1.0)
    mixed = torch.where((torch.arange(12) % 2 == 0).reshape(-1, 1, 1, 1), means[:, 0], means[:, 1])
    found = task.measure(mixed, context, generator(0))
    assert found["psnr"] > 100 and found["consistency"] == 0.5 and found["recalled"] == 0.5
    noisy = means[:, 1] + 0.1 * torch.randn(means[:, 1].shape, generator=generator("noise"))
    assert task.measure(noisy, context, generator(0))["psnr"] == pytest.approx(20 * math.log10(20), abs=0.3)
    weak = task.measure(0.5 * means[:, 0], context, generator(0))
    assert weak["contrast"] == pytest.approx(0.5, rel=1e-3)
    assert task.measure(1.5 * means[:, 0], context, generator(0))["contrast"] > 1.2
    particles = torch.arange(12) % 2
    seen = metrics.scenes(particles, particles, torch.arange(2))
    assert seen == {"consistency": 1.0, "recalled": 1.0}


def test_the_turntable_is_not_trained_on():
    task = ToysTask(**SMALL, particles=3)
    context = task.contexts(12, generator(0))
    held = context.condition["camera"]
    assert torch.equal(context.condition["particle"], torch.arange(12) % 3)
    for k in range(3):
        torch.testing.assert_close(held[k::3], data.turntable(4))
    apart = (held[:, None] - task.cameras).abs().sum(2)
    assert float(apart.min()) > 1e-3
    few = data.turntable(5)
    torch.testing.assert_close(data.turntable(40)[:5], few)


def test_latents_keep_what_they_hold():
    codec = data.Codec(True)
    picture = torch.randn(2, 3, 8, 8, generator=generator("codec"))
    again = codec.decode(codec.encode(picture))
    torch.testing.assert_close(again, torch.nn.functional.avg_pool2d(picture, 2))
    assert codec.background().shape == (4,)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": 3}, "task.prompt"),
        ({"shares": [1.0]}, "task.shares"),
        ({"shares": [1.0, 0.0]}, "task.shares"),
        ({"begin": "bareheaded"}, "task.begin"),
        ({"toys": ["snowmen"]}, "snowman"),
        ({"toys": "tree"}, "task.toys"),
        ({"colourings": 4}, "colourings"),
        ({"size": 18}, "task.size"),
        ({"cameras": 1}, "cameras"),
        ({"std": 0.0}, "std"),
        ({"path": "ouve"}, "path"),
        ({"network": {"depth": 3}}, "network"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        ToysTask(**options)
    assert "\n" not in str(caught.value)


ARGUMENTS = [
    "task=scenes/toys",
    "task.size=12",
    "task.gaussians=40",
    "task.network={widths: [8, 16]}",
    "task.teacher_steps=4",
    "evaluation.samples=12",
    "steps=1",
    "threads=1",
    "seed=1",
]


def test_a_scene_is_distilled_by_the_command(tmp_path):
    """A few updates improve held-out views; the folder holds a scene that is loaded, turned and continued."""
    out = tmp_path / "run"
    words = [*ARGUMENTS, "recipe=dreamfusion", "guidance=3"]
    assert main(["distill", *words, "updates=40", f"out={out}"]) == 0
    student = load(out)
    task = student.task
    context = task.contexts(12, generator(0))
    found = task.measure(student.sample(12), context, generator(0))
    torch.manual_seed(1)
    with torch.no_grad():
        untrained = task.student_network()(torch.zeros(12, *task.shape), None, context.condition)
    start = task.measure(untrained, context, generator(0))
    assert found["psnr"] > start["psnr"] + 3.0 and found["psnr"] > 16.0
    assert (out / "samples" / "student_1.gif").is_file() and (out / "report.html").is_file()
    torch.testing.assert_close(student.sample(12), student.sample(12, seed=5))  # a scene has no noise
    large = student.denoiser(torch.zeros(1, 3, 48, 48), 1.0, context[slice(0, 1)]).parameters
    torch.testing.assert_close(
        torch.nn.functional.avg_pool2d(large, 4), student.sample(12)[:1], atol=0.12, rtol=0.0
    )
    assert main(["sample", str(out), "count=4", f"out={tmp_path / 'turn'}"]) == 0


def test_what_a_scene_has_no_use_for_is_said(tmp_path, capsys):
    words = [*ARGUMENTS, "recipe=dreamfusion", "updates=2", f"out={tmp_path / 'x'}"]
    assert main(["distill", *words, "student.adapter={rank: 2}"]) == 2
    assert "network of its own" in capsys.readouterr().err


@pytest.mark.slow
def test_a_scene_is_learned_in_a_minute(tmp_path):
    """All of the prompt's views show one toy, better than the teacher's own draws do; strong guidance burns it out."""
    out = tmp_path / "run"
    words = ["task=scenes/toys", "recipe=dreamfusion", "threads=1", "steps=1", "evaluation.samples=32"]
    assert main(["distill", *words, "guidance=7.5", f"out={out}"]) == 0
    student = load(out)
    found = student.task.measure(student.sample(32), student.task.contexts(32, generator(0)), generator(0))
    assert found["psnr"] > 26.0 and found["consistency"] == 1.0 and found["contrast"] < 1.4
