"""English sentences as symbols: numbers spelled out, words and pauses kept, everything else dropped.

The alphabet is letters, the apostrophe, phonemes, a space between words and one mark of a pause, which also stands at
both ends. Words of a lexicon are read as phonemes, others, and all of them without a lexicon, as letters, of which the
encoder learns from their neighbours what they sound like. There is no blank between symbols, as Glow-TTS has: every
symbol takes at least one frame of 16 ms, and fast speech has no more than three for a letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts import said
from omnidistill.modalities.speech.tts.letters import plain
from omnidistill.modalities.speech.tts.lexicon import PHONEMES, Lexicon

PADDING, PAUSE = "_", ","
HALVES = tuple(phoneme + half for phoneme in PHONEMES for half in "<>")
SYMBOLS = (*PADDING, *PAUSE, *" '", *"abcdefghijklmnopqrstuvwxyz", *HALVES)
_INDEX = {symbol: number for number, symbol in enumerate(SYMBOLS)}

# fmt: off
# How a letter that stands alone is called; `a` and `i` are words.
_NAMES = {
    "b": "bee", "c": "see", "d": "dee", "e": "ee", "f": "eff", "g": "gee", "h": "aitch", "j": "jay", "k": "kay",
    "l": "ell", "m": "em", "n": "en", "o": "oh", "p": "pee", "q": "cue", "r": "ar", "s": "ess", "t": "tee",
    "u": "you", "v": "vee", "w": "double you", "x": "ex", "y": "why", "z": "zee",
}
# fmt: on


def normalise(text: str) -> str:
    """Lower-case words with `, ` where a speaker pauses; what stands in brackets is a remark and not spoken.

    Numbers, signs and abbreviations are said as `said.words` has it. Capitals in which no vowel follows a consonant are
    spelled (`P.M.`, `PBX`, `USB`; `PIN` is a word), and a letter is written as it is called. `normalise` of its own
    answer changes nothing.
    """
    text = re.sub(r"\[[^\]]*\]|\([^)]*\)|<[a-zA-Z/][^<>]*>", " ", plain(text))
    text = said.words(text)
    text = re.sub(r"\b(?:[A-Za-z]\.){2,}", lambda found: " ".join(found[0].replace(".", "")) + " ", text)
    text = re.sub(
        r"\b(?![A-Z]*[B-DF-HJ-NP-TV-XZ][AEIOUY])[A-Z]{2,5}\b", lambda found: " ".join(found[0]), text
    )
    text = re.sub(r"[.,;:!?]+", PAUSE, text.lower())
    text = re.sub(r"[^a-z', ]+|(?<![a-z])'(?![a-z])", " ", text).strip(" ,'")
    text = re.sub(r"(?<![a-z'])[b-hj-z](?![a-z'])", lambda found: _NAMES[found[0]], text)
    words = re.sub(r"\s*,[\s,]*", f"{PAUSE} ", re.sub(r"\s+", " ", text))
    return words.strip(" ,'")


def encode(text: str, lexicon: Lexicon | None = None) -> list[int]:
    """Symbol numbers of a sentence, with a pause at each end; in letters where there is no lexicon.

    Raises:
        UserError: nothing in it can be spoken.
    """
    spoken = normalise(text)
    if not spoken:
        raise UserError(f"no words to say in '{text[:60]}'; a sentence needs letters or numbers")
    # Words, and what stands between them: a space, or a pause that swallows it.
    parts = re.split(r"([ ,])", PAUSE + spoken.replace(f"{PAUSE} ", PAUSE) + PAUSE)
    sounds = {} if lexicon is None else {part: halves(lexicon[part]) for part in parts if part in lexicon}
    return [_INDEX[symbol] for part in parts for symbol in sounds.get(part, part)]


def halves(phonemes: Sequence[str]) -> list[str]:
    """Each phoneme as its beginning and its end: a diphthong or a plosive is no single sound."""
    return [phoneme + half for phoneme in phonemes for half in "<>"]
