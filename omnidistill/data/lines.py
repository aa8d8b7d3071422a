"""Words from files as people have them: any byte-order mark, lines that end where lines end, JSON lines.

`str.splitlines` also splits at U+2028, U+0085 and six more characters that stand inside sentences and, unescaped,
inside JSON strings; here a line of plain text ends at a newline, a carriage return or both, and a JSON line at a
newline alone (jsonlines.org). Who compares or counts characters folds them first: `folded`.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnidistill.errors import UserError

LARGEST = 4 << 30  # bytes of one file, which is read as a whole
_MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONE = re.compile(
    "[\ud800-\udfff]"
)  # half surrogates, as of a text cut off within a character; no file can hold them


def folded(text: str) -> str:
    """Unicode's composed form (NFC): an e with an accent is one thing whichever keyboard or file system wrote it."""
    return unicodedata.normalize("NFC", text)


def read(file: Path, encoding: str = "utf-8") -> str:
    """The whole file, by its byte-order mark or else in `encoding`; ends of lines as they are.

    Raises:
        UserError: no regular file, unreadable, too large, in another encoding, or with zero bytes in it.
    """
    try:
        if not file.is_file():
            raise UserError(f"'{file}' is no file" if file.exists() else f"there is no file '{file}'")
        if (size := file.stat().st_size) > LARGEST:
            raise UserError(f"'{file}' has {size} bytes; a file has at most {LARGEST}, split it")
        raw = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror or error}") from error
    found = next((name for mark, name in _MARKS if raw.startswith(mark)), encoding)
    try:
        text = raw.decode(found)
    except UnicodeDecodeError as error:
        raise UserError(f"'{file}' is not {found} text: byte {error.start} is {error.reason}") from error
    if "\0" in text:
        raise UserError(f"'{file}' holds zero bytes; it is no text file")
    return text


def lines(file: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """The number and the content of every line that is more than white space."""
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read(file, encoding)), 1):
        if line.strip():
            yield number, line


def objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the object of every JSON line.

    Raises:
        UserError: a line is no JSON object; the line says which.
    """
    for number, line in enumerate(read(file).split("\n"), 1):
        if not line.strip(" \t\r"):
            continue
        try:
            # Not strict: a bare control character in a string is some writer's fault, and says no less for it.
            row = json.loads(line, strict=False)
        except (ValueError, RecursionError) as error:
            raise UserError(f"line {number} of '{file}' is no JSON: {str(error)[:80]}") from error
        if not isinstance(row, dict):
            raise UserError(f"line {number} of '{file}' is no JSON object but {_kind(row)}")
        yield number, row


def field(file: Path, number: int, row: dict[str, Any], key: str) -> str | None:
    """The string at `key` of a line, half surrogates as U+FFFD; None where it is null.

    Raises:
        UserError: the line has no such key, or something else than a string there.
    """
    if key not in row:
        raise UserError(f"line {number} of '{file}' is not an object with the key \"{key}\"")
    value = row[key]
    if value is not None and not isinstance(value, str):
        raise UserError(f"line {number} of '{file}': \"{key}\" is a string, got {_kind(value)}")
    return None if value is None else _LONE.sub("\ufffd", value)


def left_out(file: Path, count: int, what: str) -> None:
    """Says on stderr how much of a file was not used."""
    if count:
        print(f"warning: {count} {what} of '{file}' left out", file=sys.stderr)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
