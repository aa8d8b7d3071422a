"""Sentences as symbols."""

from __future__ import annotations

import pytest

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts.lexicon import PHONEMES, cmudict
from omnidistill.modalities.speech.tts.text import SYMBOLS, encode, normalise, number


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (28, "twenty eight"),
        (100, "one hundred"),
        (342, "three hundred forty two"),
        (1000, "one thousand"),
        (70_015, "seventy thousand fifteen"),
        (999_999, "nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_numbers(value, words):
    assert number(value) == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Press 1 now.", "press one now"),
        ("Dial 1234, then  hang up!", "dial one two three four, then hang up"),
        ("a 28.8 kilobit modem", "a twenty eight point eight kilobit modem"),
        ("P.M.", "pee em"),
        ("the PBX, or USB radio; your PIN?", "the pee bee ex, or you ess bee radio, your pin"),
        ("press * or # [beep] (tone)", "press star or pound"),
        ("don\u2019t", "don't"),
        ("...has left the conference...", "has left the conference"),
        ("one\u2014two/three", "one two three"),
    ],
)
def test_what_is_said(text, said):
    assert normalise(text) == said
    assert normalise(said) == said


def test_symbols_spell_the_sentence_between_two_pauses():
    symbols = encode("I'm  here, now")
    assert "".join(SYMBOLS[i] for i in symbols) == ",i'm here,now,"
    assert 0 not in symbols, "zero is padding"


def test_words_of_the_lexicon_are_two_halves_a_phoneme_and_others_are_spelled():
    symbols = encode("Press zork, please", {"press": ("P", "R", "EH", "S"), "please": ("P", "L", "IY", "Z")})
    assert [SYMBOLS[i] for i in symbols] == [
        *[",", "P<", "P>", "R<", "R>", "EH<", "EH>", "S<", "S>", " ", "z", "o", "r", "k"],
        *[",", "P<", "P>", "L<", "L>", "IY<", "IY>", "Z<", "Z>", ","],
    ]
    assert 0 not in symbols


def test_the_dictionary_pronounces_english():
    words = cmudict()
    assert len(words) > 120_000 and words["through"] == ("TH", "R", "UW") and words["don't"][-1] == "T"
    assert {phoneme for sounds in words.values() for phoneme in sounds} == set(PHONEMES)
    assert all(len(encode(word, words)) == 2 * len(sounds) + 2 for word, sounds in list(words.items())[::997])


@pytest.mark.parametrize("text", ["", "  ", "[beep]", "?!"])
def test_nothing_to_say_is_an_error(text):
    with pytest.raises(UserError, match="no words to say"):
        encode(text)
