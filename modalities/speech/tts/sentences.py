"""The user's own sentences to speak."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts.data import read_text


def sentences(source: Path) -> Iterable[tuple[str, str]]:
    """Names and sentences of a text file, one a line, or of a jsonl file with `text` and, if it likes, `id`.

    Raises:
        UserError: the file cannot be read, holds no sentence, or a line does not fit.
    """
    if not source.is_file():
        raise UserError(
            f"input={source} is no file; give a .txt with a sentence a line, or a .jsonl with text a line"
        )
    lines = [line.strip() for line in read_text(source).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"input={source} holds no sentence")
    for number, line in enumerate(lines, 1):
        name, text = f"{source.stem}_{number:03d}", line
        if source.suffix == ".jsonl":
            try:
                row = json.loads(line)
                name, text = Path(str(row.get("id", name))).name, str(row["text"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f'{source}, line {number}: expected {{"text": sentence, "id": name}}'
                ) from error
        yield name, text
