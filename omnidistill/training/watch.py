"""What the scalars of a run say about its health: one line for each way in which it goes wrong, once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

Series = Mapping[str, Sequence[float]]
"""The scalars logged so far by name, oldest first."""

NEAR = 0.5  # of the distance between samples of the data: a collapse below
LAG = 0.1  # of a critic's error, gained by a few more updates
FEW = 0.1  # of the samples, as an effective number of them
STEERS = 10.0  # times the first term's gradient
FLOORED = 0.5  # of the samples
SURE = 0.95  # of a discriminator's verdicts, and more of them right, at some time
WINDOW = 8  # logged points over which a gap is watched
GREW = 3.0  # times the least gap since its first rise
LOUD = 3.0  # times the noise from point to point
SMALL = 0.1  # of a reward's size


def _lately(values: Sequence[float] | None, count: int) -> list[float]:
    """The last values, none where there are fewer."""
    return list(values[-count:]) if values is not None and len(values) >= count else []


def _collapse(series: Series) -> str | None:
    name = "diagnostics/matching/diversity"
    own = series.get(name)
    late = _lately(own, WINDOW)
    if not late or own is None:
        return None
    data = series.get(f"{name}_data")
    # Without data the run's own past has to serve.
    where, least = ("data", fmean(data)) if data else ("they once were", max(own))
    # A student of one step starts from means, near one another, and its samples part only with time.
    rising = fmean(late[-3:]) > 1.1 * fmean(late[:3])
    if max(late[-2:]) >= NEAR * least or rising:
        return None
    return (
        f"samples collapse: they lie {late[-1]:.3g} apart, {where} {least:.3g}; try more "
        "families.matching.critic_updates, a lower optim.lr, or a divergence that covers modes"
    )


def _lag(series: Series) -> str | None:
    for name, values in series.items():
        late = _lately(values, 2)
        if name.startswith("diagnostics/lag/") and late and min(late) > LAG:
            role = name.rsplit("/", 1)[1]
            return (
                f"{role} lags behind the student: a few more updates would lower its error by {100 * late[-1]:.0f} %; "
                "raise critic_updates or critic_lr, or set follow"
            )
    return None


def _few(series: Series) -> str | None:
    late = _lately(series.get("diagnostics/matching/ratio_ess"), 2)
    if not late or max(late) >= FEW:
        return None
    return (
        f"density ratios are uneven: {100 * late[-1]:.0f} % of the samples carry the gradient; narrow ratio_limits or "
        "take jensen_shannon"
    )


def _steers(series: Series) -> str | None:
    for name, values in series.items():
        late = _lately(values, 3)
        if name.startswith("diagnostics/grad_ratio/") and late and min(late) > STEERS:
            return (
                f"{name.rsplit('/', 1)[1]} steers the student: its gradient is {late[-1]:.0f} times that of the first "
                "term; lower its weight in objective"
            )
    return None


def _saturated(series: Series) -> str | None:
    for name, values in series.items():
        late = _lately(values, 3)
        place, _, bin_of_times = name.partition("adversarial/accuracy/")
        if place.startswith("diagnostics/") and bin_of_times and late and min(late) > SURE:
            return (
                f"the discriminator is right about {100 * late[-1]:.0f} % of the samples at times {bin_of_times}, and "
                "the student learns little from it there; give it a penalty (families.adversarial.r1), fewer updates, "
                "or times of more noise"
            )
    return None


def _floored(series: Series) -> str | None:
    late = _lately(series.get("diagnostics/matching/floored"), 3)
    if not late or min(late) <= FLOORED:
        return None
    return f"the normaliser's floor stands in for {100 * late[-1]:.0f} % of the samples; lower families.matching.floor"


def _unsteady(series: Series) -> str | None:
    own = series.get("diagnostics/matching/gap")
    late = _lately(own, WINDOW)
    if not late or own is None:
        return None
    # A critic that starts as the teacher has a gap of nothing: what it rises to first is where it is counted from.
    half = len(own) // 2
    start = next((i for i in range(half) if own[i + 1] < own[i]), half)
    least = min(own[start:])
    if fmean(late[-3:]) > GREW * least and own.index(least, start) < len(own) - 3:
        return (
            f"the gap between critic and teacher grows: {late[-1]:.3g} after {least:.3g}; lower optim.lr or let the "
            "critic learn faster"
        )
    moves = [b - a for a, b in itertools.pairwise(late)]
    turns = sum(a * b < 0.0 for a, b in itertools.pairwise(moves))
    if turns >= WINDOW // 2 and max(late) - min(late) > fmean(late):
        return (
            f"the gap between critic and teacher swings between {min(late):.3g} and {max(late):.3g}; lower optim.lr or "
            "let the critic learn faster"
        )
    return None


def _overdone(series: Series) -> str | None:
    """What is maximised rises, and what is only watched has fallen, by more than either does from point to point."""
    risen = [name for name, values in series.items() if _reward(name, "mean") and _moved(values) > 0.0]
    for name, values in series.items():
        if not risen or not _reward(name, "watched") or _moved(values) >= 0.0:
            continue
        own, late = (word.removeprefix("diagnostics/reward/").rsplit("/", 1)[0] for word in (risen[0], name))
        return (
            f"the reward {own} is over-optimised: it rose to {series[risen[0]][-1]:.3g} while {late}, only watched, "
            f"fell from {_best(values):.3g} to {values[-1]:.3g}; raise families.*.anchor, set caps, or lower its weight"
        )
    return None


def _reward(name: str, kind: str) -> bool:
    return name.startswith("diagnostics/reward/") and name.endswith(f"/{kind}")


def _best(values: Sequence[float]) -> float:
    """The highest mean of three points in a row."""
    return max(fmean(values[i : i + 3]) for i in range(len(values) - 2))


def _moved(values: Sequence[float]) -> float:
    """1 where the last points are above the first, -1 where they are below the best; 0 where that is no more than
    `LOUD` times the noise, or `SMALL` of the size, or there are too few points."""
    if len(values) < WINDOW:
        return 0.0
    noise = pstdev([b - a for a, b in itertools.pairwise(values)]) / 2**0.5
    now, first, best = fmean(values[-3:]), fmean(values[:3]), _best(values)
    least = max(LOUD * noise, SMALL * max(abs(now), abs(best)))
    return 1.0 if now - first > least else -1.0 if best - now > least else 0.0


RULES: dict[str, Callable[[Series], str | None]] = {
    "collapse": _collapse,
    "lag": _lag,
    "few": _few,
    "steers": _steers,
    "floored": _floored,
    "saturated": _saturated,
    "unsteady": _unsteady,
    "overdone": _overdone,
}


class Watch:
    """Remembers what was logged and says each kind of trouble the first time that it is seen.

    A resumed run begins with an empty memory, so that it may say again what it said before.
    """

    def __init__(self) -> None:
        self.series: dict[str, list[float]] = {}
        self.said: dict[str, str] = {}

    def __call__(self, shown: Mapping[str, float]) -> list[str]:
        """The new lines after one more logged point."""
        for name, value in shown.items():
            self.series.setdefault(name, []).append(value)
        new = []
        for kind, rule in RULES.items():
            line = None if kind in self.said else rule(self.series)
            if line is not None:
                self.said[kind] = line
                new.append(line)
        return new
