"""The text task as the framework uses it: conformance, learning, infilling, ragged sampling, pictures."""

import pytest
import torch

import omnidistill
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.modalities.text.metrics import texts_of
from omnidistill.modalities.text.task import Text
from omnidistill.random import generator
from omnidistill.samplers import FewStep
from omnidistill.testing import check_task


def untrained(task, seed=0):
    torch.manual_seed(seed)
    return NetworkDenoiser(task.network(), task.path, **task.reading()).eval()


@pytest.fixture(scope="module")
def task(small):
    return Text(**small)


@pytest.fixture(scope="module")
def taught(task):
    """A network trained for some seconds by masked cross-entropy."""
    denoiser = untrained(task).train()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=4e-3)
    for update in range(220):
        g = generator("teach", update)
        batch = task.batch(48, g)
        t = torch.rand(batch.count, generator=g, dtype=torch.float64).clamp_min(1e-3)
        x_t = task.path.corrupt(batch.x0, t, batch.context, g=g)
        cost = denoiser(x_t, t, batch.context).divergence(task.path.certain(batch.x0), "nll")
        loss = (cost * batch.context.mask).sum() / batch.context.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoiser.eval()


def sample(task, denoiser, steps, count=128, context=None):
    context = task.contexts(count, generator("contexts")) if context is None else context
    like = task.like(count, context=context)
    with torch.no_grad():
        made = task.sampler().sample(denoiser, like, steps, context, g=generator("sample"))
    return made.x0, context


def test_the_task_conforms(task, taught):
    check_task(task, count=96, teacher=taught)


def test_many_steps_beat_four_and_four_beat_one_at_kept_entropy(task, taught):
    found = {steps: task.measure(*sample(task, taught, steps), generator("measure")) for steps in (1, 4, 40)}
    bits = {steps: metrics["bits_per_char"] for steps, metrics in found.items()}
    assert bits[40] < 0.85 * bits[4] < 0.75 * bits[1], bits
    assert all(abs(metrics["entropy_ratio"] - 1.0) < 0.1 for metrics in found.values()), found
    fresh = task.measure(*sample(task, untrained(task), 40), generator("measure"))
    assert fresh["bits_per_char"] > bits[1] + 1.0


def test_a_sample_does_not_depend_on_the_padding_beside_it(task, taught):
    short = Context(mask=torch.arange(20)[None].expand(3, -1) < 20)
    long = Context(mask=torch.arange(33)[None].expand(3, -1) < 20)
    alone, padded = (sample(task, taught, 8, 3, context)[0] for context in (short, long))
    assert padded.shape == (3, 33)
    assert torch.equal(alone, padded[:, :20])


def test_given_tokens_stay_and_gaps_are_filled_with_what_fits(task, taught, tmp_path):
    (tmp_path / "lines.txt").write_text("the ___ man saw a small boat.\n\n" + "x" * 41 + "\n")
    (tmp_path / "more.jsonl").write_text('{"text": "a smal_ boat"}\n')
    items = dict(task.inputs(tmp_path))
    assert list(items) == ["lines_0001", "lines_0002", "more_0001"]
    assert isinstance(items["lines_0002"], UserError) and "41" in str(items["lines_0002"])
    for steps in (1, 12):
        context = items["lines_0001"]
        x0, _ = sample(task, taught, steps, 1, context)
        (text,) = texts_of(x0, None, task.tokens)
        assert text[:4] == "the " and text[7:] == " man saw a small boat." and len(text) == 29
    x0, _ = sample(task, taught, 4, 1, items["more_0001"])
    assert texts_of(x0, None, task.tokens) == ["a small boat"]
    written = task.write(x0, items["more_0001"], tmp_path / "out" / "more_0001")
    assert written.read_text() == "a small boat\n"


def test_what_is_given_comes_back_to_the_letter(task, taught, tmp_path):
    line = "  The O\u0301ld _ \u201cMAN\u201d\u2028saw\u00a0a_smal_\tboat!"
    (tmp_path / "a.txt").write_text(line + "\n", encoding="utf-8")
    ((name, context),) = task.inputs(tmp_path)
    x0, _ = sample(task, taught, 4, 1, context)
    written = task.write(x0, context, tmp_path / "out" / name).read_bytes().decode()
    missing = x0[0][context.anchor[0] == task.path.mask_id]
    filled = iter(task.tokens.decode(missing))
    assert written == "".join(next(filled) if c == "_" else c for c in line) + "\n" and len(missing) == 3


def test_a_bad_line_or_file_stops_no_other(task, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one _"}\n{"text": null}\n{"text": "two _"}\nnonsense\n')
    (tmp_path / "b.txt").write_text("three _\n")
    items = dict(task.inputs(tmp_path))
    assert list(items) == ["a_0001", "a_0002", "a_0003", "a_0004", "b_0001"]
    wrong = {name: str(item) for name, item in items.items() if isinstance(item, UserError)}
    assert list(wrong) == ["a_0002", "a_0004"] and "null" in wrong["a_0002"] and "line 4" in wrong["a_0004"]


def test_a_few_step_sampler_with_random_tokens_keeps_given_tokens_too(task, taught):
    context = Context(anchor=task.gapped("the old ___ saw a ____."))
    path = task.path.with_prior(0.4)
    student = NetworkDenoiser(taught.network, path, **task.reading())
    x0 = FewStep("ancestral").sample(student, task.like(1, context=context), 3, context, g=generator(0)).x0
    (text,) = texts_of(x0, None, task.tokens)
    assert text[:8] == "the old " and text[11:18] == " saw a " and text[-1] == "."


def test_a_line_without_known_tokens_or_too_long_is_refused(task, tmp_path):
    with pytest.raises(UserError, match="1 to 40 tokens"):
        task.gapped("")
    with pytest.raises(UserError, match="no text at"):
        list(task.inputs(tmp_path / "absent"))
    assert bool((task.gapped("____") == task.path.mask_id).all())


def test_a_page_of_samples_is_a_picture_and_a_text_file(task, tmp_path):
    batch = task.batch(60, generator(0), "held_out")
    files = task.render(batch.x0, batch.context, tmp_path / "folder" / "real")
    assert [file.suffix for file in files] == [".png", ".txt"]
    lines = files[1].read_text().splitlines()
    assert lines == texts_of(batch.x0, batch.context.mask, task.tokens)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"length": 3}, "task.length=3"),
        ({"judge": "gpt"}, "ngram, smollm2"),
        ({"alphabet": "abc"}, "with a space"),
    ],
)
def test_impossible_options_are_refused(small, options, says):
    with pytest.raises(UserError, match=says):
        Text(**{**small, **options})


@pytest.mark.slow
def test_a_four_step_student_closes_a_quarter_of_the_gap_at_kept_entropy(task, taught):
    """Di[M]O on four steps, untrained equal to the teacher: what it gains is learned, and not by repetition."""

    def judged(denoiser, steps, path):
        asked = NetworkDenoiser(denoiser.network, path, **task.reading())
        return task.measure(*sample(task, asked, steps, count=192), generator("measure"))

    student = omnidistill.distill(
        taught,
        "di-m-o",
        data=task.batch,
        shape=task.shape,
        updates=120,
        batch=32,
        device="cpu",
        options=[
            "student.steps=4",
            "optim={lr: 2.0e-3, warmup: 10}",
            "ema=0.9",
            "families.matching.critic_updates=3",
            "families.matching.critic_lr=2.0",
        ],
    )
    assert student.steps == 4
    start = task.path.with_prior(0.4)
    few, full = judged(taught, 4, task.path), judged(taught, 40, task.path)
    untrained_, trained = judged(taught, 4, start), judged(student.denoiser, 4, start)
    gap = few["bits_per_char"] - full["bits_per_char"]

    def closed(found):
        return (few["bits_per_char"] - found["bits_per_char"]) / gap

    assert closed(untrained_) < 0.1, untrained_
    assert closed(trained) > 0.25, (trained, few, full)
    assert abs(trained["entropy_ratio"] - 1.0) < 0.05, trained
