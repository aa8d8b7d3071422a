"""How English words sound: the CMU Pronouncing Dictionary, in 39 phonemes without stress.

The packed copy beside this file is the first pronunciation of each word in pocketsphinx 5.1.1's `cmudict-en-us.dict`
(Carnegie Mellon University, two-clause BSD licence, in `assets/cmudict.LICENSE.txt`).
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PACKED = Path(__file__).parent / "assets" / "cmudict.txt.gz"

# fmt: off
PHONEMES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on

Lexicon = Mapping[str, tuple[str, ...]]


@cache
def cmudict() -> Lexicon:
    """Phonemes by lower-case word."""
    lines = gzip.decompress(PACKED.read_bytes()).decode("ascii").splitlines()
    return {word: tuple(sounds.split()) for word, _, sounds in (line.partition(" ") for line in lines)}
