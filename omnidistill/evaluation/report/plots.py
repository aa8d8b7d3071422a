"""Curves as inline SVG. Drawn by matplotlib in stand-in colours that become CSS variables, so that one drawing serves
the light and the dark page; text stays text, in the page's own font."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnidistill.evaluation.report.run import Scalar

# Any colours do that matplotlib writes back unchanged and that nothing else on the drawing has.
STAND_INS = {
    "ink": "#010201",
    "faint": "#010202",
    "teacher": "#010203",
    "student": "#010204",
    "floor": "#010205",
    "raw": "#010206",
    **{f"c{index}": f"#0102{7 + index:02x}" for index in range(12)},
}
MARKERS = "Ds^vPX<>ph*d"  # of the recipes c0 ... c11, so that no curve is told by its colour alone
SIGNS = "◆■▲▼✚✖◀▶⬟⬢★♦"  # the same for a legend in HTML
ARROWS = {"lower": "↓", "higher": "↑"}
POINTS = 240  # of a curve; more than a small plot has pixels for
ROUNDING = 1e9  # a zero that rounding made 1e-17 would stretch a logarithmic axis over all of the plot
WIDE, MEDIUM, SMALL = (4.7, 2.9), (4.2, 2.7), (3.3, 2.0)  # inches, 72 units each in the SVG


def quality_curve(document: Mapping[str, Any], metric: str, wide: bool) -> str:
    """One metric against sampler steps: the teacher's line, the student's points, the inputs, the floor; with intervals
    where the metric is the primary one."""
    figure, axes = _figure(WIDE if wide else SMALL)
    shown: list[float] = []
    for model, style in (("teacher", "o-"), ("student", "D")):
        points = [(p["steps"], p["metrics"][metric]) for p in document[model] if metric in p["metrics"]]
        if points:
            x, y = zip(*sorted(points), strict=True)
            size = 6 if model == "student" else 3.5
            axes.plot(x, y, style, color=STAND_INS[model], label=model, markersize=size, linewidth=1.6)
            shown += y
        if metric == document["primary"]["name"]:
            spans = [(p["steps"], *p["interval"]) for p in document[model] if p.get("interval")]
            if spans:
                axes.vlines(*zip(*spans, strict=True), color=STAND_INS[model], linewidth=1.1)
    given = (document.get("input") or {}).get("metrics", {}).get(metric)
    if given is not None:
        axes.axhline(given, color=STAND_INS["ink"], linestyle=(0, (1, 2)), linewidth=1.1, label="input")
        shown.append(given)
    if metric in document["floor"]:
        value = document["floor"][metric]
        axes.axhline(value, color=STAND_INS["floor"], linestyle=(0, (4, 3)), linewidth=1.1, label="real data")
        shown.append(value)
    steps = sorted({p["steps"] for model in ("teacher", "student") for p in document[model]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.minorticks_off()
    _scale(axes, shown, ratio=8.0)
    if wide:
        axes.set_xlabel("sampler steps")
        axes.set_ylabel(metric)
        axes.legend(frameon=False, labelcolor=STAND_INS["ink"])
    else:
        axes.set_title(metric)
    return _svg(figure, f"{metric} against sampler steps", f"quality-{metric}")


@dataclass(frozen=True)
class Line:
    """One model in a comparison: network calls against a metric, each seed a point.

    Attributes:
        nfe: calls a sample.
        values: at each of them, one for each seed.
        mark: index of a recipe's colour and marker; None for the teacher.
    """

    nfe: Sequence[float]
    values: Sequence[Sequence[float]]
    mark: int | None = None


def comparison_curve(title: str, metric: str, better: str, lines: Sequence[Line], floor: float | None) -> str:
    """A metric against network calls: the teacher's line, a marker for each student, the floor of real data. Seeds are
    averaged, with a bar from the lowest to the highest."""
    figure, axes = _figure(MEDIUM)
    shown = [] if floor is None else [floor]
    teachers = 0
    for line in lines:
        means = [sum(values) / len(values) for values in line.values]
        shown += [value for values in line.values for value in values]
        if line.mark is None:  # a second teacher is one under guidance, at other calls
            style = ("-", (0, (2, 1.5)))[min(teachers, 1)]
            axes.plot(
                line.nfe,
                means,
                "o",
                linestyle=style,
                color=STAND_INS["teacher"],
                markersize=3.5,
                linewidth=1.6,
            )
            teachers += 1
            continue
        colour = STAND_INS[f"c{line.mark}"]
        axes.plot(
            line.nfe,
            means,
            MARKERS[line.mark],
            linestyle=(0, (1, 2)),
            color=colour,
            markersize=6,
            linewidth=1,
        )
        lows, highs = (list(map(extreme, line.values)) for extreme in (min, max))
        axes.vlines(line.nfe, lows, highs, color=colour, linewidth=1.2)
    if floor is not None:
        axes.axhline(floor, color=STAND_INS["floor"], linestyle=(0, (4, 3)), linewidth=1.1)
    calls = sorted({nfe for line in lines for nfe in line.nfe})
    ticks = [
        2**k for k in range(1 + int(max(calls, default=1)).bit_length()) if 2**k <= 2 * max(calls, default=1)
    ]
    ticks = ticks[:: 1 + len(ticks) // 8]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    _scale(axes, shown, ratio=8.0)
    axes.set_title(title)
    axes.set_xlabel("network calls a sample")
    axes.set_ylabel(f"{metric} {ARROWS[better]}")
    return _svg(figure, f"{title}: {metric} against network calls", f"comparison-{title}-{metric}")


def scalar_curve(scalar: Scalar) -> str:
    """One column of the log: every value thinned to what fits, and their running mean."""
    figure, axes = _figure(SMALL)
    dots = len(scalar.x) < 3
    axes.plot(
        *_thin(scalar.x, scalar.y), "o" if dots else "-", color=STAND_INS["raw"], linewidth=0.8, markersize=3
    )
    if not dots:
        axes.plot(*_thin(scalar.x, smoothed(scalar.y)), color=STAND_INS["student"], linewidth=1.5)
    axes.set_title(scalar.name.removeprefix("diagnostics/"))  # which would not fit
    axes.xaxis.get_major_locator().set_params(nbins=4, integer=True)
    _scale(axes, scalar.y, ratio=50.0)
    return _svg(figure, f"{scalar.name} against student updates", f"scalar-{scalar.name}")


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean over about a twentieth of the run, corrected for its start."""
    decay = 1.0 - 1.0 / max(1.0, len(values) / 20.0)
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = decay * total + (1.0 - decay) * value, decay * weight + (1.0 - decay)
        means.append(total / weight)
    return means


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most about `POINTS` points: lowest and highest of each stretch, so that no spike is lost."""
    if len(x) <= POINTS:
        return list(x), list(y)
    width = -(-2 * len(x) // POINTS)
    keep: set[int] = {0, len(x) - 1}
    for start in range(0, len(x), width):
        stretch = range(start, min(start + width, len(x)))
        keep |= {min(stretch, key=y.__getitem__), max(stretch, key=y.__getitem__)}
    kept = sorted(keep)
    return [x[i] for i in kept], [y[i] for i in kept]


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    # Not through pyplot: no global state, no window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0.0)
    axes.patch.set_alpha(0.0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(STAND_INS["faint"])
    axes.grid(axis="y", color=STAND_INS["faint"], linewidth=0.5, alpha=0.5)
    axes.tick_params(
        which="both", color=STAND_INS["faint"], labelcolor=STAND_INS["ink"], labelsize=8.5, length=2.5
    )
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set(color=STAND_INS["ink"], fontsize=9)
    return figure, axes


def _scale(axes: Any, values: Sequence[float], ratio: float) -> None:
    """A logarithmic axis where positive values span more than `ratio`; few ticks, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    span = max(values) / min(values) if values and min(values) > 0 else 1.0
    if ratio < span < ROUNDING:
        axes.set_yscale("log")
        decades = span > 300
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _svg(figure: Any, label: str, salt: str) -> str:
    """The figure as an `<svg>` element for an HTML page: no prolog, no metadata, colours as CSS variables."""
    import html

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for name, colour in STAND_INS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", text)  # only markers and clips are referred to
    # Coordinates to a hundredth of a unit; never the tick labels, which stand between tags.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
    text = text.replace("xlink:href", "href")
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg {box[0] if box else ""} role="img" aria-label="{html.escape(label, quote=True)}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
