"""The page docs/evidence.md from the records of `evidence`: no figure is typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import evidence_steps
from matrix_tables import markdown

Record = Mapping[str, Any]

HEAD = """# What matching, on-policy distillation and rewards do

Made by `python benchmarks/evidence.py` from `benchmarks/results/evidence/`, where each run has its command, seed,
versions and machine. Budgets are small, tens of seconds of one thread for most runs: the tables say what happens, not
how far it can be taken. ± is half the 95 % interval over resamples of the samples (of a mean reward: of its mean).
"""


def page(records: Mapping[str, Record]) -> str:
    """The sections of the experiments that have a record."""
    parts = [HEAD]
    for name, (title, about, table) in SECTIONS.items():
        if name in records:
            parts.append("\n".join([f"## {title}\n", about.strip() + "\n", *table(records[name])]) + "\n")
    return "\n".join(parts)


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _within(point: Record, name: str) -> str:
    ends = point.get("interval")
    half = "" if ends is None else f" ±{(ends[1] - ends[0]) / 2:.2g}"
    return f"{_number(point[name])}{half}"


def _reward(point: Record) -> tuple[str, float] | None:
    return next(
        ((key, value) for key, value in point.items() if key.startswith("reward_") and key != "reward_right"),
        None,
    )


def _last(run: Record) -> tuple[str, Record]:
    """The step count of the most steps and the student's point there."""
    steps = max(run["student"], key=int)
    return steps, run["student"][steps]


KEPT = ("stray", "nll", "aligned_rmsd")
"""Whether single samples are still the data's, whichever of them a reward prefers."""


def _families(record: Record) -> list[str]:
    rows = [["", "gaussian_mixture", "markov_text", "rigid_cloud"]]
    runs = record["runs"]
    for family in dict.fromkeys(name.partition(" / ")[0] for name in runs):
        rows.append(
            [
                family,
                *(
                    _cell(runs[f"{family} / {state}"])
                    for state in rows[0][1:]
                    if f"{family} / {state}" in runs
                ),
            ]
        )
    return markdown(rows)


def _cell(run: Record) -> str:
    if "student" not in run:
        return str(run.get("reason") or f"failed: {run['failed']}")
    steps, own = _last(run)
    rewarded, primary = _reward(own), run["primary"]["name"]
    if rewarded is not None:
        name, after = rewarded
        full = run["teacher"][max(run["teacher"], key=int)]
        cell = (
            f"reward {full[name]:.2f} → {after:.2f} at {steps} steps; {primary} {_within(full, primary)} → "
            f"{_within(own, primary)}"
        )
        kept = next((name for name in KEPT if name in full and name in own), None)
        return cell + ("" if kept is None else f"; {kept} {_number(full[kept])} → {_number(own[kept])}")
    found = []
    for count, gap in run["gap"].items():
        ends = (run.get("gap_interval") or {}).get(count)
        half = "" if not ends else f" ±{(ends[1] - ends[0]) / 2:.1f}"
        found.append(f"{count}: " + ("no gap" if gap is None else f"{gap:.1f}{half} %"))
    return "; ".join(found)


def _divergences(record: Record) -> list[str]:
    rows = [["divergence", "energy", "modes of 8 recalled", "weights' TV", "stray", "gap closed"]]
    for name, run in record["runs"].items():
        _, own = _last(run)
        rows.append(
            [
                name,
                _within(own, "energy"),
                f"{8 * own['modes_recalled']:.0f}",
                _number(own["weights_tv"]),
                _number(own["stray"]),
                f"{run['gap']['1']:.1f} %",
            ]
        )
    return markdown(rows)


def _forms(record: Record) -> list[str]:
    rows = [["", "steps", "nll", "bigram TV", "entropy"]]

    def row(name: str, steps: str, point: Record) -> list[str]:
        return [name, steps, _number(point["nll"]), _within(point, "bigram_tv"), _number(point["entropy"])]

    first = next(iter(record["runs"].values()))
    rows += [row("teacher", steps, point) for steps, point in first["teacher"].items()]
    for name, run in record["runs"].items():
        rows += [row(name, steps, point) for steps, point in run["student"].items()]
    return markdown(rows)


def _teachers(record: Record) -> list[str]:
    found = record["measured"]
    names = [
        key.removeprefix("share of the gain: ") for key in found if key.startswith("share of the gain: ")
    ]
    rows = [["", *(f"reward {name} on its labels" for name in names)]]
    for who in dict.fromkeys(key.partition(": ")[0] for key in found if not key.startswith("share")):
        cells = [found[f"{who}: {name}"] for name in names]
        rows.append([who, *(f"{cell['mean']:.3f} ±{cell['half']:.3f}" for cell in cells)])
    rows.append(
        ["share of the gain kept", *(f"{100 * found[f'share of the gain: {name}']:.1f} %" for name in names)]
    )
    return markdown(rows)


def _guards(record: Record) -> list[str]:
    rows = [["", "mean reward", "held out: nearness to the modes", "energy", "stray", "guard", "said"]]
    first = next(iter(record["runs"].values()))
    full = first["teacher"][max(first["teacher"], key=int)]
    points = [("teacher", full, [], "")] + [
        (name, own, run["warnings"], "holds" if _rewarded_and_near(own, full) else "broken")
        for name, run in record["runs"].items()
        for _, own in [_last(run)]
    ]
    for name, point, warnings, verdict in points:
        said = "; ".join(line for line in warnings if "over-optimised" in line)
        rows.append(
            [
                name,
                _number(point["reward_right"]),
                _number(point["reward_near"]),
                _within(point, "energy"),
                _number(point["stray"]),
                verdict,
                said,
            ]
        )
    return markdown(rows)


STRAYS = 0.1
"""The largest share of samples off the modes that the guard of a mixture's reward allows."""


def _rewarded_and_near(own: Record, full: Record) -> bool:
    return bool(own["reward_right"] > full["reward_right"] and own["stray"] <= STRAYS)


def _feedback(record: Record) -> list[str]:
    rows = [["", "steps", "mean reward", "energy", "stray"]]

    def row(name: str, steps: str, point: Record) -> list[str]:
        return [
            name,
            steps,
            _number(point["reward_right"]),
            _within(point, "energy"),
            _number(point["stray"]),
        ]

    first = next(iter(record["runs"].values()))
    full = max(first["teacher"], key=int)
    rows.append(row("teacher", full, first["teacher"][full]))
    for name, run in record["runs"].items():
        rows += [row(f"{name} feedback", steps, point) for steps, point in run["student"].items()]
    return markdown(rows)


def _health(record: Record) -> list[str]:
    rows = [["", "energy", "stray", "warning lines"]]
    for name, run in record["runs"].items():
        _, own = _last(run)
        rows.append(
            [name, _within(own, "energy"), _number(own["stray"]), "; ".join(run["warnings"]) or "none"]
        )
    return markdown(rows)


Guard = Callable[[Record, Record, Record, Record], bool]
"""Whether a student is still good enough: of its point, the teacher's at full steps and at the student's, and that of
the same training without the reward."""


def _beside(record: Record, guard: Guard) -> list[str]:
    runs = record["runs"]
    first = next(iter(runs.values()))
    steps = next(iter(first["student"]))
    names = [name for name in first["student"][steps] if name not in ("nfe", "interval", "pesq_failed")]
    primary = first["primary"]["name"]
    names.sort(key=lambda name: (not name.startswith("reward_"), name != primary, name))
    rows = [["", "steps", *names, "guard"]]
    few, full = (first["teacher"][count] for count in (steps, max(first["teacher"], key=int)))
    points = [("teacher", max(first["teacher"], key=int), full, ""), ("teacher", steps, few, "")]
    without = runs.get("without", first)["student"][steps]
    for name, run in runs.items():
        point = run["student"][steps]
        held = guard(point, full, few, without)
        said = {"alone": "student, the reward alone"}.get(name, f"student {name} the reward")
        points.append((said, steps, point, "holds" if held else "broken"))
    for who, count, point, verdict in points:
        cells = [_within(point, name) if name == primary else _number(point.get(name)) for name in names]
        rows.append([who, count, *cells, verdict])
    return markdown(rows)


def _image_guard(own: Record, full: Record, few: Record, without: Record) -> bool:
    return bool(own["frechet"] <= without["interval"][1])


def _enhancement_guard(own: Record, full: Record, few: Record, without: Record) -> bool:
    return all(own[name] >= 0.95 * full[name] for name in ("pesq", "dnsmos_ovrl"))


def _text_guard(own: Record, full: Record, few: Record, without: Record) -> bool:
    return bool(own["entropy_ratio"] >= 0.95 and own["bits_per_char"] <= few["bits_per_char"])


Section = tuple[str, str, Callable[[Record], Sequence[str]]]
SECTIONS: Mapping[str, Section] = {
    "families": (
        "Families and states",
        """One implementation of each family on points, tokens and coordinates. Shares of the gap closed at each number
of steps; of rewards, which are black boxes here (the right half of the plane, the share of one token, the
one of two shapes whose first two points lie apart), the teacher's mean and the student's, with the distance from the
data that it costs. That grows also where a law only moves to what is rewarded, one of two shapes, or three modes; last
stands what single samples lose: the share that strays from all modes, negative log-likelihood under the true chain, the
distance to the nearest shape after the best rigid motion. The share of a token has no end within the chain's law and
rises at the cost of likelihood.
Consistency on tokens is `sdtt`, matching `di-m-o`, on-policy `gkd`; elsewhere `consistency-models`, `dmd2`,
`diffusionopd`; rewards are `pso`, `flow-grpo` by a policy gradient, and `diffusion-nft` without likelihoods. On tokens
consistency and on-policy distillation are about nothing here: a belief that factorises over positions does not depend
on the step that it is for (it is a martingale), and this teacher's is exact already; matching, whose students
start from random tokens, is not bound by that. A student of one step of `dmd2` is worse with more, as
docs/matching.md says of several steps.""",
        _families,
    ),
    "divergences": (
        "Reverse KL, forward KL and what lies between",
        """`f-distill` by the weight of its gap: eight modes of 30 to 5 %, one step, no pairs beside it. Compared at all
levels of noise, at the highest of which the modes are one, a student that can cover all of them covers nearly all
whatever the divergence: no mode seeking is seen. `starved` is a student of eight hidden units in one block, compared at
little noise alone (times up to 0.4), where modes lie apart: reverse KL settles for the fewest and strays least,
forward KL reaches the most.""",
        _divergences,
    ),
    "steps": ("Students of several steps", evidence_steps.ABOUT, evidence_steps.table),
    "forms": (
        "On-policy forms of text",
        """A chain's exact teacher, the student's own walks alone (`gkd`, `families.on_policy.share=1`): negative
log-likelihood under the true chain, total variation of its bigrams, entropy within a sequence. A likelihood
better than the full teacher's with less entropy is a student that repeats itself.""",
        _forms,
    ),
    "teachers": (
        "Two teachers, two rewards, one student",
        """Four modes with labels. One teacher is trained by `diffusion-nft` to lie above the x axis, the other right
of the y axis; each teaches two labels a student of four steps, by `diffusionopd`. The share of gain is
counted from the student that the exact teacher makes (`plain`).""",
        _teachers,
    ),
    "guards": (
        "Rewards with a guard and without",
        """The reward is nearness to x = 4, where the mixture has nothing; nearness to the nearest mode is watched and
not maximised. The guard is stated beforehand: the mean reward rises above the teacher's while at most 10 % of
the samples are stray. `beside dmd2` is `dmd2-reward` of one step with a weight of 0.02; `alone` is `r0` of four
steps without its anchor, and with `families.reward.anchor=100`. The first has three times as many updates as the
others: with as many, DMD's own terms had not settled, and somewhat more samples strayed than the guard allows.""",
        _guards,
    ),
    "feedback": (
        "Hyper-SD's stage of feedback",
        """`hyper-sd` in 500 updates, and the same with its stage of feedback, which the recipe leaves without a weight:
`objective.reward=0.002` over the last three tenths of the run, for the reward of the table above. The student is
trained for one step, and so is the feedback: there the reward rises, at the cost that a move away from the data has,
and hardly at two steps and four, which the segments keep where they are. Ten times the weight is too much.""",
        _feedback,
    ),
    "health": (
        "Runs that go wrong on purpose",
        """And the lines that say so, in metrics.json and on the page: `diff-instruct` without a critic, and on one
Gaussian with a student much faster than its critic. A reward that is over-optimised is in the table above.
What mends each is in the line itself; tests/training/test_watch.py has runs beside them that are quiet.""",
        _health,
    ),
    "image": (
        "DMD2 with a reward: pictures",
        """`dmd2-reward` on `image/fashion_mnist` in latents; the reward is the classifier's log probability of the
label, of the decoded picture, capped at -0.02. Not optimised: Fréchet distance, precision, recall (in the features of
the same classifier, so not independent of the reward). The guard is a Fréchet distance of at most the upper end of the
interval of the same training without the reward. The reward alone has no matching, no discriminator and no cap.""",
        partial(_beside, guard=_image_guard),
    ),
    "enhancement": (
        "DMD2 with a reward: speech enhancement",
        """`dmd2-reward` on `speech/enhancement`; the reward is likeness of loudness patterns (`LogMel`), which stands
for PESQ as a loss. Held out: PESQ itself, DNSMOS, ESTOI, SI-SDR; the Fréchet distance is of log-mel patches, and so
not independent of the reward. The teacher takes eight steps, at which it is as good as at its thirty (docs/results.md).
The guard, stated before these runs, is PESQ and the overall DNSMOS at 95 % of the teacher's at least. At 40 updates in
place of 200 DMD's own terms had not settled, and the guard was broken with the reward and without. The reward alone
breaks none here: it compares with clean speech and leaves little to be gained by error. On pictures and text it
does.""",
        partial(_beside, guard=_enhancement_guard),
    ),
    "text": (
        "DMD2 with a reward: text",
        """`dmd2-reward` on `text/brown`: Di[M]O's gap, and by the likelihood of the student's own walk the share of
one letter. Held out: the n-gram judge's bits per character, entropy, pairs of words, real words. The guard is an
entropy ratio of at least 0.95, and no more bits a character than the teacher has at as many steps.""",
        partial(_beside, guard=_text_guard),
    ),
}
