"""Sentences with their recordings, as log-mels: the fetched prompts, or the user's own in the forms of the field.

A corpus is a folder or a file:

    FOLDER/metadata.csv + FOLDER/wavs/ID.wav      LJSpeech: `id|text` or `id|text|normalised text`
    FILE.txt or FILE.csv                          a filelist, `path|text` or `path|speaker|text`
    FILE.jsonl                                    a manifest, {"audio": path, "text": sentence} a line
    FOLDER with prompts/ and transcripts/         what `omnidistill data fetch asterisk_en` leaves

Paths are relative to the file's folder. The split is by transcript: see `held_out`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from omnidistill.data import lines
from omnidistill.data.folder import shown
from omnidistill.errors import UserError
from omnidistill.modalities.audio.files import read_audio
from omnidistill.modalities.audio.signal import MelSignature, log_mel
from omnidistill.modalities.speech.prompts import prompts
from omnidistill.modalities.speech.tts.text import encode, normalise

SHORTEST = 0.1  # seconds of a recording
HELD_OUT = 0.1  # share of the recorded time
LONGEST_HELD_OUT = (
    4.0  # seconds; longer prompts are for training, so that evaluation batches are not mostly padding
)


@dataclass(frozen=True)
class Spoken:
    """One sentence and its recording: name, text as written, file."""

    name: str
    text: str
    file: Path


@dataclass(frozen=True)
class Utterance:
    """A sentence and its log-mel spectrogram, natural logarithm, not normalised."""

    name: str
    text: str
    mel: Float[Tensor, "mels t"]


def listed(source: str | Path) -> list[Spoken]:
    """The sentences of a corpus and where their recordings lie; remarks such as `[beep]` are left out.

    Raises:
        UserError: no such corpus, a line that does not fit, or no sentence in it.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"there is no corpus {source}")
    if source.is_dir():
        forms: dict[str, Callable[[Path], Iterable[Spoken]]] = {
            "metadata.csv": _ljspeech,
            "transcripts": _prompts,
        }
        form = next((read for name, read in forms.items() if (source / name).exists()), None)
        if form is None:
            raise UserError(
                f"{source} is no corpus: it has neither metadata.csv with wavs/ nor prompts/ with transcripts/"
            )
        found = list(form(source))
    elif source.suffix == ".jsonl":
        found = list(_manifest(source))
    else:
        found = list(_filelist(source))
    found = [item for item in found if normalise(item.text)]
    if not found:
        raise UserError(f"the corpus {source} holds no sentence")
    return found


def load(
    items: Sequence[Spoken], signature: MelSignature, encode: Callable[[str], Sequence[int]] = encode
) -> list[Utterance]:
    """The recordings as log-mels.

    Args:
        encode: a sentence's symbols, as the front end reads them.

    Raises:
        UserError: a file is missing, damaged, too short, at another rate than the signature's, holds NaN, or has
            fewer frames than its sentence has symbols.
    """
    found = []
    for item in items:
        wave, _ = read_audio(item.file, signature.rate, shortest=SHORTEST)
        if len(wave) <= signature.n_fft // 2:
            raise UserError(f"{item.file} has {len(wave)} samples, too few for n_fft={signature.n_fft}")
        mel = log_mel(wave, signature)
        symbols = len(encode(item.text))
        if symbols > mel.shape[1]:
            raise UserError(
                f"{item.file} has {mel.shape[1]} frames for {symbols} symbols of its text "
                f"'{item.text[:40]}'; is it another recording's?"
            )
        found.append(Utterance(item.name, item.text, mel))
    return found


def held_out(utterances: Sequence[Utterance], seconds: float, share: float = HELD_OUT) -> list[bool]:
    """Which utterances are held out, without leaks.

    Sentences with the same words, or half of whose runs of three words are shared, form a group, and no group is on
    both sides. Groups are taken by a hash of their words, so the split does not depend on the order of files, until
    `share` of the time is held out. A group with a prompt longer than LONGEST_HELD_OUT is for training.

    Args:
        seconds: of one frame.
    """
    groups: dict[int, list[int]] = {}
    for number, root in enumerate(_groups([normalise(u.text) for u in utterances])):
        groups.setdefault(root, []).append(number)

    def rank(group: list[int]) -> str:
        return hashlib.sha256(min(normalise(utterances[i].text) for i in group).encode()).hexdigest()

    frames = [u.mel.shape[1] for u in utterances]
    wanted, chosen = share * sum(frames), [False] * len(frames)
    for group in sorted(groups.values(), key=rank):
        own = sum(frames[i] for i in group)
        longest = max(frames[i] for i in group) * seconds
        if wanted <= 0 or longest > LONGEST_HELD_OUT or own > wanted:
            continue
        wanted -= own
        for i in group:
            chosen[i] = True
    if all(chosen) or not any(chosen):
        raise UserError(
            f"{len(frames)} sentences do not split: at least two different ones of at most {LONGEST_HELD_OUT:g} s are "
            "needed, enough of them that a tenth can be held out"
        )
    return chosen


def _groups(texts: Sequence[str]) -> list[int]:
    """A number for each text, equal where texts are near-identical."""
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    runs = [_runs(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = {}
    for i, own in enumerate(runs):
        shared: dict[int, int] = {}
        for run in own:
            for j in holders.setdefault(run, []):
                shared[j] = shared.get(j, 0) + 1
            holders[run].append(i)
        for j, count in shared.items():
            if 2 * count >= min(len(own), len(runs[j])):
                parent[root(i)] = root(j)
    return [root(i) for i in range(len(texts))]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = tuple(text.replace(",", "").split())
    return {words[i : i + 3] for i in range(max(1, len(words) - 2))}


def pad(
    mels: Sequence[Tensor], frames: int | None = None, value: float = 0.0
) -> tuple[Float[Tensor, "b 1 m t"], Bool[Tensor, "b 1 1 t"]]:
    """Mels as one batch, and the mask of real frames."""
    longest = max(mel.shape[1] for mel in mels) if frames is None else frames
    batch = torch.full((len(mels), 1, mels[0].shape[0], longest), value)
    mask = torch.zeros((len(mels), 1, 1, longest), dtype=torch.bool)
    for row, mel in enumerate(mels):
        batch[row, 0, :, : mel.shape[1]] = mel
        mask[row, ..., : mel.shape[1]] = True
    return batch, mask


# --- the forms --------------------------------------------------------------------------------------------------


def _prompts(folder: Path) -> Iterable[Spoken]:
    return [Spoken(prompt.name, prompt.text, prompt.path) for prompt in prompts(folder)]


def _ljspeech(folder: Path) -> Iterable[Spoken]:
    for number, fields in _rows(folder / "metadata.csv"):
        if len(fields) not in (2, 3):
            raise UserError(
                f"{folder / 'metadata.csv'}, line {number}: expected id|text or id|text|normalised text"
            )
        name = fields[0].strip()
        yield Spoken(name, fields[-1].strip(), _found(folder / "wavs" / f"{name}.wav", number))


def _filelist(file: Path) -> Iterable[Spoken]:
    for number, fields in _rows(file):
        if len(fields) not in (2, 3):
            raise UserError(f"{file}, line {number}: expected path|text or path|speaker|text")
        path = _found(file.parent / fields[0].strip(), number)
        yield Spoken(path.stem, fields[-1].strip(), path)


def _manifest(file: Path) -> Iterable[Spoken]:
    form = '{"audio": path, "text": sentence}'
    missing = 0
    for number, row in lines.objects(file):
        try:
            path, text = (lines.field(file, number, row, key) for key in ("audio", "text"))
        except UserError as error:
            raise UserError(f"{error}; expected {form}") from error
        if path is None or text is None:
            missing += 1
            continue
        yield Spoken(Path(path).stem, text, _found(file.parent / path, number))
    lines.left_out(file, missing, "lines with null")


def _rows(file: Path) -> Iterable[tuple[int, list[str]]]:
    return ((number, line.split("|")) for number, line in lines.lines(file))


def _found(path: Path, line: int) -> Path:
    try:
        there = path.is_file()
    except (OSError, ValueError):  # no name of a file at all
        there = False
    if not there:
        raise UserError(f"line {line} names {shown(path)[:200]}, which is not there")
    return path
