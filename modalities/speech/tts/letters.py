"""Any writing in the letters that English is spelled with, and the signs that have a name in it.

Accents come off and ligatures apart by Unicode's own tables. What nothing is known of (another script, a picture) is
said on stderr rather than dropped without a word.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

SIGNS = {
    "&": "and", "%": "percent", "@": "at", "#": "pound", "*": "star", "+": "plus", "=": "equals",
    "^": "to the power of",
    "~": "about", "\\": "backslash", "<": "less than", ">": "greater than",
    "\u00b0": "degrees", "\u00d7": "times", "\u00f7": "divided by", "\u00b1": "plus or minus", "\u2248": "about",
    "\u2260": "is not", "\u2264": "at most", "\u2265": "at least", "\u221a": "the root of", "\u221e": "infinity",
    "\u2030": "per mille", "\u00a7": "section", "\u00b6": "paragraph", "\u00a9": "copyright", "\u00ae": "registered",
    "\u2122": "trademark", "\u2192": "to", "\u00b2": "squared", "\u00b3": "cubed", "\u2044": "over", "\u00b5": "micro",
    "\u03bc": "micro", "\u03c0": "pi", "\u03a9": "ohm", "\u2126": "ohm",
    "\u2116": "number",
}  # fmt: skip


def plain(text: str) -> str:
    """In ASCII and the signs of `SIGNS`: letters without accents, ligatures apart. What nothing is known of becomes a
    space, and is said once on stderr."""
    text = re.sub("\u2018(.*?)\u2019(?!\\w)", r"\1", unicodedata.normalize("NFC", text))
    lost: list[str] = []
    made = []
    for character in text:
        known = _plain(character)
        made.append(" " if known is None else known)
        lost.append(character if known is None else " ")
    for word in "".join(lost).split():
        _left_out(word)
    return "".join(made)


@cache
def _left_out(word: str) -> None:
    print(f"warning: nothing is known to say for '{word}'; it is left out", file=sys.stderr)


@cache
def _plain(character: str) -> str | None:
    if character.isascii() or character in SIGNS:
        return character
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category == "Sc":
        return character
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", character).replace("\u2044", "/") + " "
    if category[0] in "ZC" or category in ("Mn", "Me"):
        return "" if category in ("Cf", "Mn", "Me") else " "
    if category == "Pd" or "MINUS SIGN" in name:
        return "-" if name in ("HYPHEN", "NON-BREAKING HYPHEN", "MINUS SIGN") else " - "
    if "APOSTROPHE" in name or name in ("RIGHT SINGLE QUOTATION MARK", "PRIME"):
        return "'"
    if category[0] == "N" and unicodedata.numeric(character, 0.5) % 1 == 0:
        return str(int(unicodedata.numeric(character)))
    folded = "".join(
        c for c in unicodedata.normalize("NFKD", character) if unicodedata.category(c) not in ("Mn", "Me")
    )
    if folded and folded.isascii():
        return folded
    latin = re.fullmatch(
        r"LATIN (?:SMALL|CAPITAL) (?:LETTER|LIGATURE) (?:DOTLESS )?(SHARP S|ETH|THORN|[A-Z]{1,2})(?: WITH .*)?",
        name,
    )
    if latin:
        letters = {"SHARP S": "ss", "ETH": "th", "THORN": "th"}.get(latin[1], latin[1].lower())
        return letters if character.islower() else letters.upper()
    # Quotation marks, bullets and their like are not said in any language.
    return " " if category[0] == "P" else None
