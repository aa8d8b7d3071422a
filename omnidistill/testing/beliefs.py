"""Conformance of beliefs and of the features that come with them."""

from __future__ import annotations

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior, detach, split
from omnidistill.testing.base import Report, close, gap


def check_belief(belief: Posterior, x0: Tensor, path: Path, *, tolerance: float = 1e-4) -> list[str]:
    """Checks what objectives rely on, of any kind of belief. Properties:

    1. It can be taken apart by samples and put together by `replace`.
    2. `log_prob(x0)` is minus the `nll` of certainty in x0, one number an element of x0.
    3. `gap` to itself is 0; `pull(gap, weight)` has the gradient of a pull by the weighted gap, and a weight of 0 none.
    4. Mixed with itself and guided by itself it stays what it is.

    Args:
        x0: clean samples, as many as the belief is about.

    Raises:
        ConformanceError: the first property that fails.
    """
    report = Report(f"belief {type(belief).__name__}")
    belief = detach(belief)
    with report.section("it can be taken apart by samples"):
        parts = split(belief, 1)
        whole = torch.cat([part.parameters for part in parts])
        report.require(torch.equal(whole, belief.parameters), "parts are those of the whole", len(parts))
    with report.section("log_prob is minus the nll of certainty"):
        found, nll = belief.log_prob(x0), belief.divergence(path.certain(x0), "nll")
        report.require(found.shape == x0.shape, "one number an element", tuple(found.shape))
        report.require(close(found, -nll, tolerance), "log_prob(x0) = -nll", gap(found, -nll))
    with report.section("a pull has the gradient that it is given"):
        still = belief.gap(belief)
        report.require(
            float(still.abs().max()) <= tolerance, "the gap to itself is 0", float(still.abs().max())
        )
        other = belief.replace(belief.parameters.roll(1, 0))
        direction, weight = belief.gap(other), torch.arange(float(len(x0)))
        wide = weight.reshape(-1, *(1 for _ in direction.shape[1:])).to(direction)

        def pulled(by: Tensor, *scale: Tensor) -> Tensor:
            leaf = belief.parameters.clone().requires_grad_()
            return torch.autograd.grad(belief.replace(leaf).pull(by, *scale).sum(), leaf)[0]

        weighted, by_hand = pulled(direction, weight), pulled(wide * direction)
        same = close(weighted, by_hand, tolerance) and not bool(weighted[0].any())
        report.require(same, "pull(direction, weight) pulls by weight * direction", gap(weighted, by_hand))
    with report.section("mixed with itself and guided by itself it stays"):
        half = torch.full((len(x0),), 0.5)
        for what, made in (("blend", belief.blend(belief, half)), ("guide", belief.guide(belief, 3 * half))):
            change = made.distance(x0) - belief.distance(x0)
            report.require(
                float(change.abs().max()) <= 10 * tolerance, f"{what} with itself changes nothing", change
            )
    return report.lines


def check_features(
    report: Report, denoiser: Denoiser, x_t: Tensor, t: float, context: Context, tolerance: float
) -> None:
    """A network that names a feature layer gives belief and features in one counted call."""
    try:
        width = denoiser.feature_channels()
    except UserError:  # closed forms, and networks that no head is meant to look into
        return
    with report.section("belief and features come from one counted call"):
        expected, before = denoiser(x_t, t, context), denoiser.calls
        belief, found = denoiser.examine(x_t, t, context)
        report.require(denoiser.calls == before + 1, "examine counts one call", denoiser.calls - before)
        assert belief is not None
        report.require(
            close(belief.parameters, expected.parameters, tolerance),
            "its belief is that of a call",
            gap(belief.parameters, expected.parameters),
        )
        pooled = denoiser.pool(next(iter(found.values())), context)
        report.require(
            tuple(pooled.shape) == (len(x_t), width), "features are as wide as declared", tuple(pooled.shape)
        )
        alone = denoiser.features(x_t, t, context)
        report.require(close(alone, pooled, tolerance), "features alone are the same", gap(alone, pooled))
        some, _ = denoiser.examine(x_t, t, context, answered=1)
        assert some is not None
        one = expected[0:1].parameters
        report.require(
            close(some.parameters, one, tolerance),
            "the first sample can be answered alone",
            gap(some.parameters, one),
        )
