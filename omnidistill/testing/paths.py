"""Conformance of paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.paths import Path
from omnidistill.testing.base import Report, close, gap, padded, repeated, seeded

Statistic = Callable[[Tensor], Tensor]

ELEMENTS = 2_000_000
"""How many numbers the statistical checks draw at most."""

SIGMAS = 6.0
"""A statistic this many standard errors off is a failure; by chance it happens once in 500 million checks."""


def check_path(
    path: Path, x0: Tensor, context: Context = Context(), *, seed: int = 0, ragged: bool = True
) -> list[str]:
    """Checks a path on clean samples. Properties, in order:

    1. `span` and `floor` are times in [0, 1]; `offers` is a set of words.
    2. prior, corrupt, renoise and bridge keep shape, dtype and finiteness, and depend on the generator alone.
    3. t = 0 is data: corrupt to 0 and bridge to 0 return x0.
    4. Marginal consistency: renoise to t and bridge to s has the law of renoise to s, for churn 0 and 1 (mean and
       variance, or frequencies of tokens, element by element and pooled), at the path's temperature; and the law that
       `bridge_law` tells is the one that `bridge` draws from.
    5. A time per sample means the same as one time for all.
    6. `deterministic` paths have a jump without fresh noise, from the prior too, and a `velocity` that its jumps
       follow; `composable` ones merge two jumps by `share`.
    7. What is resolved stays: the bridge touches only what `unresolved` names.
    8. Padding changes nothing, neither values nor the random stream (axis 1 of x0; off with `ragged=False`).

    Args:
        x0: [b ...], at least two clean samples without padding.
        context: their anchors, if the path has them.

    Raises:
        ConformanceError: the first property that fails.
    """
    report = Report(f"path {path!r}")
    context = replace(context, mask=None, guidance=None)
    t, s = _inner_times(path)
    with report.section("span, floor and offers are declared"):
        low, high = path.span
        report.require(0.0 <= low < high <= 1.0, "0 <= span[0] < span[1] <= 1", path.span)
        report.require(0.0 <= path.floor < high, "0 <= floor < span[1]", path.floor)
        words = isinstance(path.offers, frozenset) and all(isinstance(word, str) for word in path.offers)
        report.require(words, "offers is a frozenset of words", path.offers)
    with report.section("prior, corrupt, renoise and bridge keep shape and dtype, are finite and seeded"):
        first, second = ({**_walk(path, x0, t, s, context, seed)} for _ in range(2))
        for name, x in first.items():
            same = (x.shape, x.dtype) == (x0.shape, x0.dtype)
            report.require(same, f"{name} keeps shape and dtype of x0", f"{tuple(x.shape)} {x.dtype}")
            report.require(torch.isfinite(x).all(), f"{name} is finite", x)
            report.require(
                torch.equal(x, second[name]), f"{name} repeats under one seed", gap(x, second[name])
            )
    with report.section("t = 0 is data"):
        report.require(
            close(path.corrupt(x0, 0.0, context, g=seeded(seed)), x0), "corrupt to t = 0 returns x0"
        )
        x_t = path.corrupt(x0, t, context, g=seeded(seed))
        for churn in (0.0, 1.0):
            back = path.bridge(x_t, x0, t, 0.0, context, churn=churn, g=seeded(seed))
            report.require(close(back, x0), f"bridge to s = 0 returns x0 (churn {churn:g})", gap(back, x0))
        certain = path.certain(x0).sample(seeded(seed))
        report.require(torch.equal(certain, x0), "a sample of certain(x0) is x0", gap(certain, x0))
    with report.section("renoise then bridge has the law of renoise"):
        for churn in (0.0, 1.0):
            _check_marginal(report, path, x0, t, s, context, churn, seed)
    with report.section("a time per sample means the same as one time for all"):
        times = torch.full((len(x0),), t, dtype=torch.float64), torch.full((len(x0),), s, dtype=torch.float64)
        one, many = _walk(path, x0, t, s, context, seed), _walk(path, x0, *times, context, seed)
        for name, x in one.items():
            report.require(close(many[name], x), f"{name} takes times of shape [b]", gap(many[name], x))
    with report.section("bridge draws from the law it tells"):
        _check_law(report, path, x0, t, s, context, seed)
    if "deterministic" in path.offers:
        with report.section("the jump without churn draws nothing and follows the velocity"):
            for start, x_t in (
                (path.span[1], path.prior(x0, context, g=seeded(seed))),
                (t, path.corrupt(x0, t, context, g=seeded(seed))),
            ):
                a, b = (path.bridge(x_t, x0, start, s, context, g=seeded(i)) for i in (1, 2))
                report.require(
                    torch.equal(a, b), f"bridge from {start:g} with churn 0 draws nothing", gap(a, b)
                )
            _check_velocity(report, path, x0, t, context, seed)
    if "composable" in path.offers:
        with report.section("two jumps are one jump with the shared belief"):
            _check_share(report, path, x0, t, s, context, seed)
    with report.section("what is resolved stays"):
        x_t = path.corrupt(x0, t, context, g=seeded(seed))
        open_ = path.unresolved(x_t, t)
        shaped = open_.dtype == torch.bool and open_.shape == x_t.shape
        report.require(shaped, "unresolved is a bool for each element", f"{open_.dtype} {tuple(open_.shape)}")
        x_s = path.bridge(x_t, x0.flip(0), t, s, context, churn=1.0, g=seeded(seed))
        report.require(close(x_s[~open_], x_t[~open_]), "bridge leaves resolved elements alone")
    if ragged and x0.ndim > 1:
        with report.section("padding changes nothing"):
            _check_padding(report, path, x0, t, s, context, seed)
    return report.lines


def _inner_times(path: Path) -> tuple[float, float]:
    low, high = max(path.span[0], path.floor), path.span[1]
    return low + 0.75 * (high - low), low + 0.35 * (high - low)


def _walk(path, x0, t, s, context, seed) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    g = seeded(seed)
    x_t = path.corrupt(x0, t, context, g=g)
    parts = {"prior": path.prior(x0, context, g=g), "corrupt": x_t}
    parts["renoise"] = path.renoise(x0, t, context, g=g)
    for churn in (0.0, 1.0):
        parts[f"bridge with churn {churn:g}"] = path.bridge(x_t, x0, t, s, context, churn=churn, g=g)
    return parts


def _check_marginal(report, path, x0, t, s, context, churn, seed) -> None:  # type: ignore[no-untyped-def]
    """The z-scores of two independent samples of the same law, one drawn directly, one by way of t."""
    count = max(256, min(20_000, ELEMENTS // x0[0].numel()))
    many, around = x0[:1].expand(count, *x0.shape[1:]), repeated(context, count)
    g = seeded(seed + 1)
    direct = path.renoise(many, s, around, g=g)
    by_way = path.bridge(path.renoise(many, t, around, g=g), many, t, s, around, churn=churn, g=g)
    what = f"renoise to {t:.3g} and bridge to {s:.3g} has the law of renoise to {s:.3g} (churn {churn:g})"
    if x0.is_floating_point():
        # Centred on the mean of both, second moments are means too, and neither sample is nearer to it.
        centre = 0.5 * (direct.double().mean(0) + by_way.double().mean(0))
        statistics: dict[str, Statistic] = {
            "mean": lambda x: x.double(),
            "variance": lambda x: (x.double() - centre) ** 2,
        }
    else:
        top = int(torch.maximum(direct.max(), by_way.max())) + 1
        statistics = {f"frequency of token {k}": partial(_is_token, k) for k in range(min(top, 64))}
    for name, statistic in statistics.items():
        a, b = statistic(direct), statistic(by_way)
        error = ((a.var(0) + b.var(0)) / count).sqrt()
        difference = b.mean(0) - a.mean(0)
        sure = difference.abs() <= SIGMAS * error + 1e-5 * a.mean(0).abs().clamp_min(1e-3)
        report.require(sure.all(), what, f"{name} off by {float(difference.abs().max()):.3g}")
        # Small samples of large data say little about one element and much about their average.
        a, b = a.flatten(1).mean(1), b.flatten(1).mean(1)
        error, difference = ((a.var() + b.var()) / count).sqrt(), (b.mean() - a.mean()).abs()
        sure = difference <= SIGMAS * error + 1e-5 * a.mean().abs().clamp_min(1e-3)
        report.require(sure, what, f"average {name} off by {float(difference):.3g}")


def _is_token(k: int, x: Tensor) -> Tensor:
    return (x == k).double()


def _check_law(report, path, x0, t, s, context, seed) -> None:  # type: ignore[no-untyped-def]
    x_t = path.corrupt(x0, t, context, g=seeded(seed))
    if "gaussian" in path.offers:
        for churn in (0.0, 1.0):
            mean, std = path.bridge_law(x_t, x0, t, s, context, churn=churn)
            drawn = path.bridge(x_t, x0, t, s, context, churn=churn, g=seeded(seed))
            off = (drawn - mean).abs() <= 7.0 * std + 1e-6 * (1.0 + mean.abs())
            report.require(
                off.all(), f"bridge lies around the mean of bridge_law (churn {churn:g})", drawn - mean
            )
        return
    probs = path.bridge_law(x_t, x0, t, s, context)
    report.require(
        close(probs.sum(-1), torch.ones_like(probs[..., 0])), "probabilities of bridge_law sum to 1"
    )
    drawn = path.bridge(x_t, x0, t, s, context, g=seeded(seed))
    report.require((probs.gather(-1, drawn.unsqueeze(-1)) > 0).all(), "bridge draws what bridge_law allows")


def _check_velocity(report, path, x0, t, context, seed) -> None:  # type: ignore[no-untyped-def]
    """Against the central difference of the deterministic jump, whose error is of second order in h."""
    h = 1e-4 * t
    clean, around = x0.double(), context.map(lambda v: v.double() if v.is_floating_point() else v)
    x_t = path.corrupt(clean, t, around, g=seeded(seed))
    up, down = (path.bridge(x_t, clean, t, t + e, around) for e in (h, -h))
    error = (path.velocity(x_t, clean, t, around) - (up - down) / (2.0 * h)).abs().max()
    scale = ((up - down) / (2.0 * h)).abs().max() + 1e-9
    report.require(error < 1e-4 * scale, "velocity is the rate of the deterministic jump", float(error))


def _check_share(report, path, x0, t, s, context, seed) -> None:  # type: ignore[no-untyped-def]
    r, g = 0.5 * (t + s), seeded(seed)
    other = x0.flip(0)
    first, second = path.certain(x0), path.certain(other)
    x_t = path.corrupt(x0, t, context, g=g)
    x_r = path.bridge(x_t, x0, t, r, context, g=g)
    for end in (s, 0.0):
        weight = path.share(x_t, x_r, t, r, end)
        inside = bool(((weight >= -1e-9) & (weight <= 1 + 1e-9)).all())
        report.require(inside, "share lies in [0, 1]", weight)
        blended = first.blend(second, weight).sample(g)
        if "gaussian" in path.offers:
            twice, once = path.bridge(x_r, other, r, end, context), path.bridge(x_t, blended, t, end, context)
            what = f"jumps {t:.2g} -> {r:.2g} -> {end:.2g} equal one jump with the shared belief"
            report.require(close(once, twice), what, gap(once, twice))
        else:
            shown = ~path.unresolved(x_r, r)
            expected = torch.where(shown, x0, other)
            report.require(
                close(blended, expected), "an element takes the belief of the jump that decided it"
            )


def _check_padding(report, path, x0, t, s, context, seed) -> None:  # type: ignore[no-untyped-def]
    longer, mask = padded(x0)
    anchor = None if context.anchor is None else padded(context.anchor)[0]
    short = _walk(path, x0, t, s, context, seed)
    long = _walk(path, longer, t, s, replace(context, anchor=anchor, mask=mask), seed)
    for name, x in short.items():
        part = long[name][:, : x.shape[1]]
        report.require(
            close(part, x), f"{name} of a padded sample equals that of the sample alone", gap(part, x)
        )
