"""The transcribed English prompts of the Asterisk telephone exchange: one speaker, 16 kHz, split without leaks."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidistill.data.datasets import locate
from omnidistill.errors import UserError

DATA_SET = "asterisk_en"
RATE = 16000
LARGEST = 64 << 20  # bytes of transcripts, unpacked


@dataclass(frozen=True, slots=True)
class Prompt:
    """name: relative to the folder of prompts and without suffix, e.g. `digits/7`; text: what is said."""

    name: str
    path: Path
    text: str

    @property
    def base(self) -> str:
        """The file's own name: `digits/7` and `7` would be one."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def words(self) -> str:
        """The text without case and punctuation, to find prompts that say the same."""
        return " ".join(re.findall(r"[a-z0-9']+", self.text.lower()))


def read_transcripts(path: str | Path) -> dict[str, str]:
    """`name: text` lines, `;` begins a comment; packed with gzip or not.

    Raises:
        UserError: a line of another form.
    """
    try:
        with Path(path).open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else Path(path).open("rb") as file:
            raw = file.read(LARGEST + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the transcripts {path}: {' '.join(str(error).split())}") from error
    if len(raw) > LARGEST:
        raise UserError(f"the transcripts {path} are longer than {LARGEST} bytes")
    found = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith(";"):
            continue
        name, colon, text = line.partition(":")
        if not colon:
            raise UserError(f"line {number} of {path} is no 'name: text' but {line[:40]!r}")
        found[name.strip()] = text.strip()
    return found


def prompts(folder: str | Path | None = None) -> list[Prompt]:
    """All prompts that are speech and have a transcript, sorted by name; from `folder`, else from the cache.

    Left out: silence, tones and effects, whose transcript is a description in brackets.

    Raises:
        UserError: the data set is not on this machine; the line says how to get it.
    """
    root = locate(DATA_SET) if folder is None else Path(folder)
    sounds, listed = root / "prompts", root / "transcripts"
    if listed.is_dir():  # a stored pattern keeps its folder
        listed = next(iter(sorted(listed.rglob("*.txt*"))), listed)
    if not sounds.is_dir() or not listed.is_file():
        raise UserError(
            f"{root} holds no prompts/ and transcripts; get them with `omnidistill data fetch {DATA_SET}`"
        )
    texts = read_transcripts(listed)
    found = {}
    for path in sounds.rglob("*.g722"):
        # The name in the transcripts is the path below the speaker's folder.
        parts = path.relative_to(sounds).with_suffix("").parts
        names = ["/".join(parts[start:]) for start in range(len(parts))]
        name = next((n for n in names if n in texts), None)
        if name is not None and not texts[name].startswith("["):
            found[name] = Prompt(name, path, texts[name])
    if not found:
        raise UserError(f"{sounds} holds no prompt that its transcripts name")
    return [found[name] for name in sorted(found)]


def groups(items: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts that must not be divided between training and test: the same words, the same file name in two folders, or
    one name that goes on where the other ends (`conf-adminmenu` and `conf-adminmenu-18`)."""
    items = sorted(items, key=lambda item: item.name)
    parent = {item.name: item.name for item in items}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    first: dict[str, str] = {}
    bases = {item.base for item in items}
    for item in items:
        parts = item.base.split("-")
        beginnings = {"-".join(parts[:n]) for n in range(1, len(parts) + 1)} & bases
        for key in (f"words {item.words}", *(f"name {base}" for base in sorted(beginnings))):
            other = first.setdefault(key, item.name)
            a, b = root(item.name), root(other)
            parent[max(a, b)] = min(a, b)
    gathered: dict[str, list[Prompt]] = {}
    for item in items:
        gathered.setdefault(root(item.name), []).append(item)
    return list(gathered.values())


def split(items: Sequence[Prompt], share: float = 0.15) -> tuple[list[Prompt], list[Prompt]]:
    """(training, held out): whole `groups`, in the order of a hash of their first name, until `share` of the prompts is
    held out. The hash depends on names alone, so the split is the same everywhere."""
    train: list[Prompt] = []
    held: list[Prompt] = []
    ordered = sorted(groups(items), key=lambda group: hashlib.sha256(group[0].name.encode()).hexdigest())
    for group in ordered:
        fits = len(held) + len(group) <= share * len(items)
        (held if fits else train).extend(group)
    return sorted(train, key=lambda item: item.name), sorted(held, key=lambda item: item.name)
