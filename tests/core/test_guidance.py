"""Classifier-free guidance in one batched call equals two calls, and counts two."""

import pytest
import torch

from omnidistill import paths
from omnidistill.context import Context
from omnidistill.denoisers import Guided, NetworkDenoiser
from omnidistill.denoisers.second import takes
from omnidistill.errors import UserError
from omnidistill.networks.mlp import MLP

NULL = 3


class Conditional(torch.nn.Module):
    """Depends on every input, so that a mix-up between samples or branches shows."""

    def __init__(self, vocab=0):
        super().__init__()
        self.vocab, self.batches = vocab, []

    def forward(self, x, t, condition, **keywords):
        self.batches.append((x.shape[0], set(keywords)))
        if isinstance(condition, dict):
            condition = condition["label"]
        bias = (condition.double() + 1) * (1 + t.double())
        for value in keywords.values():
            bias = bias + value.double().flatten(1).sum(1) if value.ndim > 1 else bias + value.double()
        out = torch.sin(x.double() * bias[:, None])
        return torch.stack([out * k for k in range(self.vocab)], -1) if self.vocab else out


@pytest.fixture(params=["points", "tokens"])
def case(request, g):
    if request.param == "points":
        path, x = paths.grad_tts(), torch.randn(4, 5, dtype=torch.float64, generator=g)
        context = Context(condition=torch.tensor([0, 1, 2, 0]), anchor=x.flip(0), mask=torch.ones_like(x) > 0)
        return NetworkDenoiser(Conditional(), path, "x0", target_time=True), x, context
    path = paths.MaskedPath(6)
    x = path.corrupt(torch.randint(6, (4, 5), generator=g), 0.7, g=g)
    return (
        NetworkDenoiser(Conditional(6), path, "logits", target_time=True),
        x,
        Context(torch.tensor([0, 1, 2, 0])),
    )


@pytest.mark.parametrize("t", [0.5, torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)])
@pytest.mark.parametrize("scale", [1.0, 3.0, torch.tensor([0.0, 1.0, 2.0, 7.0], dtype=torch.float64)])
def test_one_batch_equals_two_calls(case, t, scale):
    denoiser, x, context = case
    per_sample = isinstance(scale, torch.Tensor)
    guided = Guided(denoiser, None if per_sample else scale, NULL)
    s = torch.as_tensor(0.1, dtype=torch.float64)
    asked = Context(context.condition, context.anchor, context.mask, scale if per_sample else None)
    found = guided(x, t, asked, target_time=s)
    assert denoiser.network.batches[-1][0] == 8 and len(denoiser.network.batches) == 1
    assert (
        "guidance" not in denoiser.network.batches[-1][1]
    )  # the teacher was not trained with the scale as an input

    conditional = denoiser(x, t, context, target_time=s)
    bare = context.with_condition(torch.full_like(context.condition, NULL))
    unconditional = denoiser(x, t, bare, target_time=s)
    expected = conditional.guide(unconditional, torch.as_tensor(scale))
    torch.testing.assert_close(found.parameters, expected.parameters, rtol=1e-6, atol=1e-6)


def test_counts_two_calls_a_question(case):
    denoiser, x, context = case
    guided = Guided(denoiser, 2.0, NULL)
    for _ in range(3):
        guided(x, 0.5, context)
    assert guided.calls == 6
    assert guided.wants_target


def test_a_mapping_of_conditions_is_emptied_by_the_callers_function(g):
    denoiser = NetworkDenoiser(Conditional(), paths.rectified_flow(), "x0")
    x, label = torch.randn(2, 5, dtype=torch.float64, generator=g), torch.tensor([0, 2])

    def empty(condition):
        return {"label": torch.full_like(condition["label"], NULL)}

    found = Guided(denoiser, 2.0, empty)(x, 0.5, Context({"label": label})).mean
    torch.testing.assert_close(found, Guided(denoiser, 2.0, NULL)(x, 0.5, Context(label)).mean)


def test_a_scale_that_is_given_counts_and_none_takes_the_drawn_one(g):
    """A teacher under guidance 2 stays under guidance 2, whatever scales were drawn for a student to be told."""
    denoiser = NetworkDenoiser(Conditional(), paths.rectified_flow(), "x0")
    x, label = torch.randn(4, 5, dtype=torch.float64, generator=g), torch.tensor([0, 1, 2, 0])
    drawn = torch.tensor([0.5, 1.0, 2.0, 7.0], dtype=torch.float64)
    plain, told = Context(label), Context(label, guidance=drawn)
    torch.testing.assert_close(
        Guided(denoiser, 2.0, NULL)(x, 0.5, told).mean, Guided(denoiser, 2.0, NULL)(x, 0.5, plain).mean
    )
    conditional, unconditional = denoiser(x, 0.5, plain), denoiser(x, 0.5, Context(label * 0 + NULL))
    torch.testing.assert_close(
        Guided(denoiser, None, NULL)(x, 0.5, told).mean, conditional.guide(unconditional, drawn).mean
    )
    with pytest.raises(UserError, match=r"context\.guidance"):
        Guided(denoiser, None, NULL)(x, 0.5, plain)


class Told(torch.nn.Module):
    """Says what it was told."""

    def forward(self, x, t, condition=None, guidance=None):
        return x * 0 if guidance is None else guidance.expand_as(x.T).T.clone()


class Deaf(torch.nn.Module):
    def forward(self, x, t, condition=None):
        return x * 0


def test_only_a_network_that_wants_to_be_told_hears_the_scale():
    x, context = torch.zeros(2, 3), Context(torch.tensor([0, 1]), guidance=torch.tensor([2.0, 5.0]))

    def answer(network, **options):
        return (
            NetworkDenoiser(network, paths.rectified_flow(), "x0", **options)(x, 0.5, context)
            .mean[:, 0]
            .tolist()
        )

    assert answer(Told()) == [2.0, 5.0], "a keyword called guidance"
    assert answer(Told(), guidance=False) == answer(Deaf()) == [0.0, 0.0]
    declared = Told()
    declared.wants_guidance = False
    assert answer(declared) == [0.0, 0.0]
    with_embedding, without = MLP(3, 8, 1, 2, guidance=True), MLP(3, 8, 1, 2)
    assert [takes(n, "guidance") for n in (with_embedding, without)] == [True, False]
    assert answer(without) == [0.0, 0.0], "a network of ours without the embedding is not told"
    assert [takes(torch.nn.Sequential(n), "guidance") for n in (with_embedding, without)] == [True, False]


def test_guidance_without_a_condition_is_refused(g):
    denoiser = NetworkDenoiser(Conditional(), paths.rectified_flow(), "x0")
    with pytest.raises(UserError, match="needs a condition of labels"):
        Guided(denoiser, 2.0, NULL)(torch.zeros(2, 5), 0.5)
