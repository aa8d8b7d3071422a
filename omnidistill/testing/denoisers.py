"""Conformance of denoisers."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.denoisers.plausible import doubt
from omnidistill.posteriors import Posterior
from omnidistill.testing.base import Report, close, gap, rewritten, seeded
from omnidistill.testing.beliefs import check_belief, check_features


def check_denoiser(
    denoiser: Denoiser, x0: Tensor, context: Context = Context(), *, seed: int = 0, tolerance: float = 1e-4
) -> list[str]:
    """Checks a denoiser on corrupted copies of clean samples, in evaluation mode. Properties, in order:

    1. The belief is finite over the whole span, also in float64 times [b]; its samples have shape and dtype of x0.
    2. The same question has the same answer; each costs the same count of calls, whatever the batch.
    3. At t = 0 the belief is the state itself (Gaussian and masked paths).
    4. Samples do not see one another: order and company in the batch change nothing.
    5. What padding holds changes nothing (where the context has a mask).
    6. The belief passes `check_belief`; a network that names a feature layer gives both in one counted call.
    7. On `differentiable` paths the gradient with respect to x_t is finite.
    8. No other reading of a network's answers, e.g. with its time reversed, denoises x0 far better (Gaussian paths, 128
       numbers in x0 or more; see `denoisers.plausible`). Where one does better but not by far, a warning says so.

    Args:
        x0: [b ...], at least two clean samples on the denoiser's device.
        context: what is known about them.
        tolerance: of comparisons, relative to the largest value.

    Raises:
        ConformanceError: the first property that fails.
    """
    report = Report(f"denoiser {type(denoiser).__name__}")
    training = denoiser.training
    denoiser.eval()
    try:
        with torch.no_grad():
            _check_answers(report, denoiser, x0, context, seed, tolerance)
        if "differentiable" in denoiser.path.offers:
            with report.section("the gradient with respect to x_t is finite"):
                for t in _times(denoiser):
                    x_t = _noisy(denoiser, x0, t, context, seed).requires_grad_()
                    total = denoiser(x_t, t, context).parameters.sum()
                    report.require(
                        total.requires_grad, "the belief depends on x_t through the graph", f"t={t:g}"
                    )
                    gradient = torch.autograd.grad(total, x_t)[0]
                    report.require(torch.isfinite(gradient).all(), "the gradient is finite", f"t={t:g}")
        with report.section("no other reading of its answers denoises far better"):
            found = doubt(denoiser, x0, context, seed)
            report.require(found is None or not found.hopeless, "the teacher denoises these data", found)
        if found is not None:
            warnings.warn(str(found), stacklevel=2)
    finally:
        denoiser.train(training)
    return report.lines


def _check_answers(
    report: Report, denoiser: Denoiser, x0: Tensor, context: Context, seed: int, tolerance: float
) -> None:
    path, middle = denoiser.path, _times(denoiser)[1]
    x_t = _noisy(denoiser, x0, middle, context, seed)

    def same(a: Posterior, b: Posterior) -> bool:
        return close(_view(a), _view(b), tolerance)

    def far(a: Posterior, b: Posterior) -> str:
        return f"difference {gap(_view(a), _view(b)):.3g}"

    with report.section("beliefs are finite over the span and sample what the data are made of"):
        for t in _times(denoiser):
            x = _noisy(denoiser, x0, t, context, seed)
            belief = denoiser(x, t, context)
            report.require(torch.isfinite(belief.parameters).all(), "the belief is finite", f"t={t:g}")
            drawn = belief.sample(seeded(seed), context.mask)
            kept = (drawn.shape, drawn.dtype) == (x0.shape, x0.dtype)
            report.require(kept, "a sample has shape and dtype of x0", f"{tuple(drawn.shape)} {drawn.dtype}")
    with report.section("the same question has the same answer"):
        first, again = denoiser(x_t, middle, context), denoiser(x_t, middle, context)
        report.require(torch.equal(first.parameters, again.parameters), "answers repeat", far(first, again))
        times = torch.full((len(x0),), middle, dtype=torch.float64, device=x0.device)
        each = denoiser(x_t, times, context)
        report.require(same(each, first), "times of shape [b] mean the same as one time", far(each, first))
    with report.section("every call is counted"):
        costs = []
        for part in (slice(0, 1), slice(0, len(x0)), slice(0, 1)):
            before = denoiser.calls
            denoiser(x_t[part], middle, context[part])
            costs.append(denoiser.calls - before)
        counted = costs[0] > 0 and len(set(costs)) == 1
        report.require(counted, "a call adds the same count whatever the batch", costs)
    if path.offers & {"gaussian", "masked"}:
        with report.section("at t = 0 the belief is the state"):
            drawn = denoiser(x0, 0.0, context).sample(seeded(seed), context.mask)
            report.require(close(drawn, x0, 10 * tolerance), "a clean sample is believed", gap(drawn, x0))
    with report.section("samples do not see one another"):
        whole = denoiser(x_t, middle, context)
        back = torch.arange(len(x0) - 1, -1, -1, device=x0.device)
        turned = denoiser(x_t[back], middle, context[back])
        # Numbers and not beliefs: one that knows its state would be about another one.
        there, reverse = _view(turned), _view(whole)[back]
        report.require(
            close(there, reverse, tolerance), "the order of a batch does not matter", gap(there, reverse)
        )
        alone, one = denoiser(x_t[:1], middle, context[:1]), whole[0:1]
        report.require(same(alone, one), "a sample alone is answered as in company", far(alone, one))
    check_features(report, denoiser, x_t, middle, context, tolerance)
    with torch.enable_grad():
        report.lines += check_belief(denoiser(x_t, middle, context), x0, path, tolerance=tolerance)
    if context.mask is not None:
        with report.section("what padding holds changes nothing"):
            g, mask = seeded(seed), context.mask
            anchor = None if context.anchor is None else rewritten(context.anchor, mask, g)
            other = denoiser(rewritten(x_t, mask, g), middle, replace(context, anchor=anchor))
            real = mask.expand(x_t.shape)
            a, b = (_state(belief, x_t)[real] for belief in (whole, other))
            report.require(close(a, b, tolerance), "real elements do not read padding", gap(a, b))


def _view(belief: Posterior) -> Tensor:
    """Parameters as numbers that compare: logits mean the same up to a constant."""
    return getattr(belief, "probs", belief.parameters)


def _state(belief: Posterior, like: Tensor) -> Tensor:
    """Numbers of a belief by the elements of its state: its parameters, or its mean where these lie otherwise."""
    found = _view(belief)
    return found if found.shape[: like.ndim] == like.shape else belief.mean  # type: ignore[attr-defined]


def _times(denoiser: Denoiser) -> tuple[float, float, float]:
    low, high = max(denoiser.path.span[0], denoiser.path.floor), denoiser.path.span[1]
    return low, 0.5 * (low + high), high


def _noisy(denoiser: Denoiser, x0: Tensor, t: float, context: Context, seed: int) -> Tensor:
    return denoiser.path.corrupt(x0, t, context, g=seeded(seed))
