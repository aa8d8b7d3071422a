"""Samples as a page of text: a picture of it, and the text itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from omnidistill.exact.render import write_whole

COLUMNS, LINES = 100, 40  # of the picture; the text file has every sample


def picture(texts: Sequence[str], path: Path) -> Path:
    """The first samples in a fixed-width face, numbered, as a PNG at `path`."""
    from matplotlib.figure import Figure

    lines: list[str] = []
    for number, text in enumerate(texts, 1):
        lines += textwrap.wrap(
            text,
            COLUMNS - 4,
            initial_indent=f"{number:>3} ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        ) or [f"{number:>3}"]
    figure = Figure(figsize=(7.8, 0.153 * min(len(lines), LINES) + 0.2), dpi=110)
    figure.text(
        0.01, 0.99, "\n".join(lines[:LINES]).replace("$", r"\$"), family="monospace", size=9, va="top"
    )
    return write_whole(path, lambda file: figure.savefig(file, format="png"))


def lines(texts: Sequence[str], path: Path) -> Path:
    """One sample a line, UTF-8."""

    def write(file: Path) -> None:
        file.write_text("\n".join(texts) + "\n", encoding="utf-8")

    return write_whole(path, write)
