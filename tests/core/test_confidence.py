"""Tokens in the order of confidence, on a chain whose posterior is exact: laws that order must not change, and the
order itself."""

import pytest
import torch

from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact.markov_text import MarkovTextTask
from omnidistill.random import generator
from omnidistill.samplers import Ancestral, FewStep
from omnidistill.samplers.confidence import Confidence
from omnidistill.student import Student

LENGTH = 12


@pytest.fixture(scope="module")
def task() -> MarkovTextTask:
    return MarkovTextTask(vocab=6, length=LENGTH)


def sampled(task, sampler, steps, count=1500, context=Context(), keep=False):
    like = task.like(count, context=context)
    return sampler.sample(task.exact_teacher(), like, steps, context, g=generator("confidence"), keep=keep)


@pytest.mark.parametrize(
    "options",
    [{"measure": "entropy"}, {"measure": "margin"}, {"block": 1}, {"measure": "entropy", "block": 5}],
)
def test_one_token_a_step_by_the_belief_alone_keeps_the_law(task, options):
    """The chain rule holds in any order that looks at what is known and at nothing that was just drawn."""
    found = task.measure(sampled(task, Confidence(**options), LENGTH).x0, Context(), generator(0))
    real = task.measure(task.batch(1500, generator(1)).x0, Context(), generator(0))
    assert found["bigram_tv"] < 1.6 * real["bigram_tv"]
    assert found["nll"] == pytest.approx(real["nll"], abs=0.03)


def test_the_surest_draws_first_prefer_likely_texts(task):
    """By the probability of what was drawn the samples are likelier than the chain's own: a known bias."""
    sure = task.measure(sampled(task, Confidence(), LENGTH).x0, Context(), generator(0))
    real = task.measure(task.batch(1500, generator(1)).x0, Context(), generator(0))
    assert sure["nll"] < real["nll"] - 0.1 and sure["bigram_tv"] > 2.0 * real["bigram_tv"]


def test_the_likeliest_from_left_to_right_is_the_chains_own_walk(task):
    """At temperature 0 and one token a block: x_1 = argmax pi, x_{i+1} = argmax P[x_i]."""
    (x0,) = sampled(task, Confidence(temperature=0.0, block=1), LENGTH, 1).x0.tolist()
    expected = [int(task.chain.initial.argmax())]
    while len(expected) < LENGTH:
        expected.append(int(task.chain.transition[expected[-1]].argmax()))
    assert x0 == expected


def test_in_few_steps_the_surest_first_are_likelier_than_a_random_order(task):
    few = {
        name: task.measure(sampled(task, sampler, 4).x0, Context(), generator(0))["nll"]
        for name, sampler in (("random", Ancestral()), ("sure", Confidence()))
    }
    assert few["sure"] < few["random"] - 0.2


def test_blocks_are_filled_from_left_to_right_and_steps_share_the_tokens(task):
    sample = sampled(task, Confidence(block=4), 6, 50, keep=True)
    mask = task.path.mask_id
    for step, state in enumerate(sample.states):
        hidden = state == mask
        assert (hidden.sum(1) == LENGTH - 2 * step).all()
        filled = (~hidden).reshape(-1, 3, 4).sum(2)
        assert ((filled[:, 1:] == 0) | (filled[:, :-1] == 4)).all()
    assert sample.nfe == 6


def test_given_tokens_stay_and_padding_takes_no_part(task):
    anchor = torch.full((40, LENGTH), task.path.mask_id)
    anchor[:, 3] = 2
    real = torch.arange(LENGTH) < torch.tensor([[LENGTH], [7]]).repeat(20, 1)
    context = Context(anchor=anchor, mask=real)
    for steps in (1, 3, 11):
        x0 = sampled(task, Confidence(block=4), steps, 40, context).x0
        assert (x0[:, 3] == 2).all() and (x0[real] < task.vocab).all()
    short = Context(anchor=anchor[1::2, :7], mask=real[1::2, :7])
    wide = Context(anchor=anchor[1::2], mask=real[1::2])
    alone, padded = (sampled(task, Confidence(), 3, 20, c).x0 for c in (short, wide))
    assert torch.equal(alone, padded[:, :7])


def test_a_student_goes_on_by_confidence_too(task):
    """`student.transition=confidence` is this rule: the same numbers from the same generator."""
    ours = sampled(task, Confidence(), 4, 60).x0
    assert torch.equal(sampled(task, FewStep("confidence"), 4, 60).x0, ours)
    assert torch.equal(
        sampled(task, FewStep("confidence", block=3), 4, 60).x0, sampled(task, Confidence(block=3), 4, 60).x0
    )
    path = task.path.with_prior(0.5)
    started = MarkovTextTask(vocab=6, length=LENGTH, path=path)
    x0 = sampled(started, FewStep("confidence"), 3, 60).x0
    assert int(x0.max()) < task.vocab


def test_other_lengths_work_where_the_network_allows_and_are_one_line_where_not(task):
    teacher = task.exact_teacher()
    student = NetworkDenoiser(task.network(), task.path, **task.reading())
    for length in (5, 2 * LENGTH):
        context = Context(mask=torch.ones(3, length, dtype=torch.bool))
        for denoiser, sampler in ((teacher, Confidence()), (student, FewStep("ancestral"))):
            made = Student(denoiser, sampler, task=task)
            if denoiser is student and length > LENGTH:
                with pytest.raises(UserError, match=f"at most {LENGTH} tokens, got a sequence of {length}"):
                    made.sample(3, 2, context=context)
            elif denoiser is student:
                assert made.sample(3, 2, context=context).shape == (3, length)
            else:
                like = task.like(3, context=context)
                assert sampler.sample(denoiser, like, 2, context, g=generator(0)).x0.shape == (3, length)


def test_what_cannot_be_is_refused(task):
    for options, says in (
        ({"measure": "mood"}, "measure"),
        ({"block": 0}, "block"),
        ({"temperature": -1}, "temp"),
    ):
        with pytest.raises(UserError, match=says):
            Confidence(**options)
    with pytest.raises(UserError, match="masked path"):
        sampled(MarkovTextTask(vocab=6, length=8, path="uniform"), Confidence(), 2, 4)
    with pytest.raises(UserError, match=r"student\.block"):
        FewStep("renoise", block=4)
