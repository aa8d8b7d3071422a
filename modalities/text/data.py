"""Running text as token ids: the Brown corpus without its tags, or the user's own documents; split by document.

Brown: 500 documents of about 2000 words (Francis and Kucera 1964). Every tenth in the order of names, 50 of 500, is
held out, so that held-out text has other authors and subjects than the training text. The user's own text is a text
file, a folder of them, or JSON lines; a folder's files and the lines are documents and split in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from omnidistill.data import lines
from omnidistill.data.datasets import locate
from omnidistill.data.folder import Contents, read_each, scan
from omnidistill.errors import UserError
from omnidistill.modalities.text.own_tokens import OwnTokens
from omnidistill.modalities.text.tokens import Tokens

Document = list[str]
"""Its sentences, in order."""

SUFFIXES = (".txt", ".jsonl")
HELD_OUT_EVERY = 10
SHORTEST = 16  # characters; below that a stretch is a heading or a remainder and says nothing about text

_TAG = re.compile(r"/[^/\s]+(?=\s|$)")
_QUOTES = re.compile(r"``|''")
_DOUBLED = re.compile(r"([;:?!,.])([ \t]+\1)+")  # the corpus repeats some marks, a trace of its punched cards
_DETACHED = re.compile(r"[ \t]+([.,;:?!])")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


@dataclass(frozen=True)
class Stretches:
    """Pieces of text of different lengths, as token ids one after another.

    Attributes:
        starts, lengths: sorted by length, so that a batch of near ones has little padding.
    """

    ids: Int[Tensor, "total"]
    starts: Int[Tensor, "pieces"]
    lengths: Int[Tensor, "pieces"]

    def __len__(self) -> int:
        return len(self.starts)

    def padded(self, rows: Int[Tensor, "b"], fill: int = 0) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """The pieces, as long as the longest of them, and the mask, True where a token is real."""
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()))
        mask = places < lengths.unsqueeze(1)
        ids = self.ids[(self.starts[rows].unsqueeze(1) + places).clamp_max(len(self.ids) - 1)]
        return torch.where(mask, ids, fill), mask

    def texts(self, tokens: Tokens | OwnTokens) -> list[str]:
        """Each stretch as it reads."""
        ids = self.ids.tolist()
        bounds = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [tokens.decode(ids[start : start + length]) for start, length in bounds]


def fetched() -> bool:
    """Whether the corpus is in the cache."""
    try:
        locate("brown")
    except UserError:
        return False
    return True


def brown(folder: str | Path | None = None) -> list[Document]:
    """The Brown corpus in plain words: tags and quotation marks are taken off, punctuation joins its word, marks that
    the corpus doubles are single. From `folder`, else from the cache."""
    where = locate("brown") if folder is None else Path(folder)
    files = sorted(where.rglob("c[a-r][0-9][0-9]"))
    if not files:
        raise UserError(f"{where} holds no file of the Brown corpus (ca01 ... cr09)")
    return [untagged(lines.read(file, "latin-1")) for file in files]


def untagged(text: str) -> Document:
    """`The/at jury/nn said/vbd ,/, no/rb ./.` -> `The jury said, no.`, a sentence a line."""
    words = _QUOTES.sub(" ", _TAG.sub("", text))
    sentences = _DETACHED.sub(r"\1", _DOUBLED.sub(r"\1", words)).splitlines()
    return [" ".join(sentence.split()) for sentence in sentences if sentence.strip()]


def own(path: str | Path, on_bad: str = "stop") -> list[Document]:
    """The user's documents: *.txt (one document), *.jsonl (`{"text": ...}`, a document a line), or a folder of both.
    Lines whose text is null are left out, and their number is said.

    Args:
        on_bad: `stop` at a file that cannot be read, or `skip` it and say so.

    Raises:
        UserError: nothing there, no text in it, of another encoding, or a line that is no such object.
    """
    read = read_each(_found(path), _documents, on_bad, what="texts")
    documents = [document for _, of_file in read for document in of_file if document]
    if not documents:
        raise UserError(f"'{path}' holds no text")
    return documents


def _documents(file: Path) -> list[Document]:
    if _plain(file):
        return [_sentences(line for _, line in lines.lines(file))]
    found = [lines.field(file, number, row, "text") for number, row in lines.objects(file)]
    lines.left_out(file, found.count(None), 'lines with "text": null')
    return [_sentences([text]) for text in found if text is not None]


def lines_of(path: str | Path) -> Iterable[tuple[str, str | UserError]]:
    """Every line of text at `path` as it stands there, the kinds of file as in `own`, or what is wrong with it or with
    the rest of its file; each with a name: `file_0001`, relative to a folder, empty lines not counted."""
    path = Path(path).expanduser()
    found = _found(path)
    yield from ((f"unreadable_{number}", UserError(line)) for number, line in enumerate(found.wrong, 1))
    for file in found.files:
        stem = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("").as_posix()
        read = _plain_lines if _plain(file) else _json_lines
        count = 0
        try:
            for text in read(file):
                count += 1
                yield f"{stem}_{count:04d}", text
        except UserError as error:
            yield f"{stem}_{count + 1:04d}", error


def _plain_lines(file: Path) -> Iterable[str | UserError]:
    return (line for _, line in lines.lines(file))


def _json_lines(file: Path) -> Iterable[str | UserError]:
    for number, row in lines.objects(file):
        try:
            text = lines.field(file, number, row, "text")
            yield UserError(f"line {number} of '{file}': \"text\" is null") if text is None else text
        except UserError as error:
            yield error


def split(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents: of every ten the tenth is held out. Fewer than ten are first cut into
    consecutive tenths of all their sentences, so a single file splits into nine tenths and the last one."""
    if len(documents) < HELD_OUT_EVERY:
        sentences = [sentence for document in documents for sentence in document]
        if len(sentences) < HELD_OUT_EVERY:
            raise UserError(
                f"{len(sentences)} sentences are too few to split; give at least {HELD_OUT_EVERY}"
            )
        edges = [len(sentences) * i // HELD_OUT_EVERY for i in range(HELD_OUT_EVERY + 1)]
        documents = [sentences[a:b] for a, b in pairwise(edges)]
    held_out = [d for i, d in enumerate(documents) if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    return [d for i, d in enumerate(documents) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1], held_out


def stretches(documents: Iterable[Document], tokens: Tokens | OwnTokens, longest: int) -> Stretches:
    """Documents cut into pieces of at most `longest` tokens: as many whole consecutive sentences as fit, or the about
    equal parts of a sentence that is longer, cut at spaces."""
    texts = [
        text
        for document in documents
        for text in _packed([tokens.clean(sentence) for sentence in document], tokens, longest)
        if len(text) >= SHORTEST
    ]
    ids, lengths = tokens.encode_all(sorted(texts, key=tokens.count))
    fits = lengths <= longest  # a single word may be longer
    if not fits.any():
        raise UserError(f"the text holds no stretch of {SHORTEST} or more known characters")
    return Stretches(ids, (lengths.cumsum(0) - lengths)[fits], lengths[fits])


def _found(path: str | Path) -> Contents:
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there is no text at '{path}'; give a .txt or .jsonl file or a folder of them")
    found = scan(path, SUFFIXES, what="texts")
    found.files = [file for file in found.files if file.suffix.lower() in SUFFIXES]
    if not found.files and not found.wrong:
        raise UserError(f"'{path}' is neither a .txt nor a .jsonl file nor a folder of them")
    return found


def _plain(file: Path) -> bool:
    return file.suffix.lower() == ".txt"


def _packed(sentences: Iterable[str], tokens: Tokens | OwnTokens, longest: int) -> Iterable[str]:
    held = ""
    for sentence in sentences:
        joined = f"{held} {sentence}".strip()
        if tokens.count(joined) <= longest:
            held = joined
            continue
        yield held
        *parts, held = _parts(sentence, tokens, longest)
        yield from parts
        if parts:  # the end of a long sentence stays by itself: what follows starts afresh
            yield held
            held = ""
    yield held


def _parts(sentence: str, tokens: Tokens | OwnTokens, longest: int) -> list[str]:
    words = sentence.split(" ")
    sizes = [tokens.count(word) + 1 for word in words]
    wanted = -(-sum(sizes) // longest)
    while True:
        goal, parts, room = sum(sizes) / wanted, [[]], 0.0  # type: ignore[var-annotated]
        for word, size in zip(words, sizes, strict=True):
            if parts[-1] and room + size / 2 > goal:
                parts.append([])
                room -= goal
            parts[-1].append(word)
            room += size
        texts = [" ".join(part) for part in parts]
        if wanted >= len(words) or all(tokens.count(text) <= longest for text in texts):
            return texts
        wanted += 1


def _sentences(texts: Iterable[str]) -> Document:
    return [s for line in texts for s in _SENTENCE_END.split(" ".join(line.split())) if s]
