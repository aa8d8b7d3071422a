"""Sentences as symbols."""

from __future__ import annotations

import random

import pytest

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts import letters
from omnidistill.modalities.speech.tts.lexicon import PHONEMES, cmudict
from omnidistill.modalities.speech.tts.said import number
from omnidistill.modalities.speech.tts.text import SYMBOLS, encode, normalise


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Meet me at the caf\u00e9.", "meet me at the cafe"),
        ("cafe\u0301, Stra\u00dfe, \u0141\u00f3d\u017a, \u0153uvre", "cafe, strasse, lodz, oeuvre"),
        ("It is -5 to +3 degrees", "it is minus five to plus three degrees"),
        ("\u22123.14", "minus three point one four"),
        ("1,000,000 people", "one million people"),
        ("342 dogs, 1500 cats", "three hundred forty two dogs, fifteen hundred cats"),
        ("$1,234.56", "one thousand two hundred thirty four dollars and fifty six cents"),
        ("-\u00a35 or \u20ac0.50 or \u20b91", "minus five pounds or fifty cents or one indian rupee"),
        ("$3.5 million, 5 \u20ac, \u00a5500", "three point five million dollars, five euros, five hundred yen"),
        ("\u00bd a cup, 2 3/4 miles, 3/8", "one half a cup, two and three quarters miles, three eighths"),
        ("1\u00bd cups, 24/7", "one and a half cups, twenty four seven"),
        ("1st, 22nd and 3rd", "first, twenty second and third"),
        ("2024-05-17", "may seventeenth, twenty twenty four"),
        ("17/5/1999", "may seventeenth, nineteen ninety nine"),
        ("Jan. 3rd, the 1990s", "january third, the nineteen nineties"),
        ("3:05 pm, 10:00, 14:30", "three oh five pee em, ten o'clock, fourteen thirty"),
        ("Dr. Smith vs. Mr. O\u2019Neil, e.g. No. 5", "doctor smith versus mister o'neil, for example number five"),
        ("St. Paul, 12 Main St. now", "saint paul, twelve main street now"),
        ("100 km/h, 3 ft, 20\u00b0C", "one hundred kilometers per hour, three feet, twenty degrees celsius"),
        ("5-10 people; 5 - 3 = 2", "five to ten people, five minus three equals two"),
        ("call 555-1234, extension 8500", "call five five five one two three four, extension eight five zero zero"),
        ("a@b.com", "a at bee dot com"),
        ("x < 5 and y > 3 \u00d7 2", "ex less than five and why greater than three times two"),
        ("\u0663 or \uff12\uff13 or \u2167", "three or twenty three or eight"),
        ("\u2018so\u2019 it\u2019s \u201cgood\u201d", "so it's good"),
    ],
)  # fmt: skip
def test_nothing_that_is_said_gets_lost(text, said, capsys):
    assert normalise(text) == said
    assert normalise(said) == said
    assert not capsys.readouterr().err


def test_what_nothing_is_known_of_is_said_once(capsys):
    letters._left_out.cache_clear()
    assert (
        normalise("the \u6f22\u5b57 sign \u2603") == normalise("the \u6f22\u5b57 sign \u2603") == "the sign"
    )
    warned = capsys.readouterr().err.splitlines()
    assert [line.split("'")[1] for line in warned] == ["\u6f22\u5b57", "\u2603"]


def test_any_text_is_normalised_once_and_for_all(capsys):
    rng = random.Random(0)
    pool = [
        *map(chr, range(32, 127)),
        *"0123456789" * 6,
        *"-/:.,$\u00a3\u20ac%\u00b0\u00bd\u00b2\u00e9\u00df\u2019\u201c\u2013\u6f22\ud800",
    ]
    pool += ["pm", "am", "St.", "Dr.", " km", "May ", "1/2", "$5", "10:00", "st", "2024-05-17"]
    for _ in range(800):
        text = normalise("".join(rng.choice(pool) for _ in range(rng.randrange(1, 30))))
        assert normalise(text) == text and set(text) <= set("abcdefghijklmnopqrstuvwxyz ,'")
    for text in ("9" * 5000, "1/" + "9" * 5000, "1," + ",".join(["000"] * 300), "$" * 5000, "1-" * 3000):
        normalise(text)


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
