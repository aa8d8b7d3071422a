"""The user's own sentences to speak."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from omnidistill.data import lines
from omnidistill.errors import UserError


def sentences(source: Path) -> Iterable[tuple[str, str | UserError]]:
    """Names and sentences of a text file, one a line, or of a jsonl file with `text` and, if it likes, `id`; or what is
    wrong with a line.

    Raises:
        UserError: the file cannot be read, holds no sentence, or a line is no JSON object.
    """
    if not source.is_file():
        raise UserError(
            f"input={source} is no file; give a .txt with a sentence a line, or a .jsonl with text a line"
        )
    count = 0
    for count, (name, text) in enumerate(_rows(source), 1):
        name = f"{source.stem}_{count:03d}" if name is None else name
        yield name, text if isinstance(text, UserError) else _spoken(name, text)
    if not count:
        raise UserError(f"input={source} holds no sentence")


def _rows(source: Path) -> Iterable[tuple[str | None, str | UserError]]:
    if source.suffix.lower() != ".jsonl":
        yield from ((None, line.strip()) for _, line in lines.lines(source))
        return
    for number, row in lines.objects(source):
        name = None if row.get("id") is None else Path(str(row["id"])).name or None
        if name is not None and (not name.isprintable() or len(name.encode()) > 200):
            yield None, UserError(f"line {number} of '{source}': the id is no name of a file")
            continue
        try:
            text = lines.field(source, number, row, "text")
            yield name, UserError(f"line {number} of '{source}': \"text\" is null") if text is None else text
        except UserError as error:
            yield name, error


def _spoken(name: str, text: str) -> str:
    """What stands in round brackets is said between pauses; what is a remark, `[laughs]` or `<b>`, is not, and is
    named on stderr."""
    for remark in re.findall(r"\[[^\]]*\]|<[a-zA-Z/][^<>]*>", text):
        print(f"warning: {name}: the remark {remark[:40]} is not spoken", file=sys.stderr)
    return re.sub(r"\(([^()]*)\)", r", \1, ", text)
