"""What is said of what is written: numbers, money, dates, times, units, signs and abbreviations as English words.

Numbers are num2words', the names of moneys Unicode's. The rules work on `letters.plain` text and leave words, `.,;:!?`
and brackets alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts.letters import SIGNS

Match = re.Match[str]

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]})?" if len(month) > 3 else month for month in MONTHS)
ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "prof": "professor", "st": "saint", "jr": "junior",
    "sr": "senior", "vs": "versus", "etc": "et cetera", "approx": "approximately", "dept": "department",
    "gov": "governor", "gen": "general", "sgt": "sergeant", "capt": "captain", "col": "colonel", "lt": "lieutenant",
    "rev": "reverend", "hon": "honorable", "ave": "avenue", "blvd": "boulevard", "inc": "incorporated",
    "ltd": "limited", "corp": "corporation", "tel": "telephone", "ext": "extension", "vol": "volume",
    "est": "established", "misc": "miscellaneous", "fig": "figure",
    "e.g": "for example", "i.e": "that is", "a.k.a": "also known as",
}  # fmt: skip
"""Read so where a point follows."""
UNITS = {
    "km/h": "kilometer per hour", "mph": "mile per hour", "m/s": "meter per second", "km": "kilometer",
    "cm": "centimeter", "mm": "millimeter", "m": "meter", "kg": "kilogram", "mg": "milligram", "g": "gram",
    "lb": "pound", "lbs": "pound",
    "oz": "ounce", "ft": "foot", "yd": "yard", "mi": "mile", "ml": "milliliter", "l": "liter", "ghz": "gigahertz",
    "mhz": "megahertz", "khz": "kilohertz", "hz": "hertz", "kb": "kilobyte", "mb": "megabyte", "gb": "gigabyte",
    "tb": "terabyte", "kw": "kilowatt", "kwh": "kilowatt hour", "w": "watt", "v": "volt", "ms": "millisecond",
    "sec": "second", "min": "minute", "hr": "hour", "hrs": "hour", "db": "decibel", "c": "celsius", "f": "fahrenheit",
}  # fmt: skip
"""Read so right after a number."""
SAME = ("yen", "won", "baht", "yuan", "hertz", "celsius", "fahrenheit")  # one or many
CENTS = {"dollar": ("cent", "cents"), "euro": ("cent", "cents"), "pound": ("penny", "pence")}
DIALLED = (
    "dial|call|extension|ext|press|password|code|pin|number|no|room|flight|port|channel|"
    "zip|id|fax|tel|telephone|phone"
)
"""Words before a number that is said digit by digit."""
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_ZEROS = "hundred|thousand|million|billion|trillion"
_TELEPHONE = r"\(?\+?\d{2,}\)?(?:[ -]\d{3,})+-\d{2,}|\d{3}-\d{4}|\d{3,}-\d{3,}-\d{2,}|(?:0\d+|\+\d{1,3})(?:[ -]\d{2,})+"
_UNIT = "|".join(sorted(UNITS, key=len, reverse=True))


def number(value: int, kind: str = "cardinal") -> str:
    """28 is `twenty eight`; kind: `cardinal`, `ordinal` or `year`."""
    try:
        from num2words import num2words
    except ImportError as error:
        raise UserError("numbers in words need the package num2words (the extra `speech`)") from error
    words = num2words(value, to=kind).replace("-", " ").replace(",", "")
    return str(words).replace(" and ", " ")


def digits(text: str) -> str:
    """One by one, as a telephone number is said."""
    return " ".join(number(int(digit)) for digit in text)


def quantity(text: str) -> str:
    """A number as it is counted: `1,234.05` is one thousand two hundred thirty four point zero five."""
    whole, _, rest = text.replace(",", "").partition(".")
    head = digits(whole) if len(whole) > 60 else number(int(whole))
    return head + (f" point {digits(rest)}" if rest else "")


def words(text: str) -> str:
    """Text with everything that is not a word said as one."""
    for pattern, say in _RULES:
        text = pattern.sub(say, text)
    for sign, word in SIGNS.items():
        text = text.replace(sign, f" {word} ")
    return text


# --- the rules, in their order -------------------------------------------------------------------------------------


def _address(found: Match) -> str:
    return re.sub(r"[./_:-]", lambda sign: f" {_IN_ADDRESS[sign[0]]} ", found[0].replace("://", " "))


_IN_ADDRESS = {".": "dot", "/": "slash", "_": "underscore", "-": "dash", ":": "colon"}


def _money(found: Match) -> str:
    groups = found.groupdict()
    sign, amount, zeros = groups["sign"], groups["amount"], groups.get("zeros")
    minus = groups["minus"] or groups.get("within")
    name = unicodedata.name(sign).removesuffix(" SIGN").lower()
    one, many = name, name if name in SAME else f"{name}s"
    whole, _, rest = amount.replace(",", "").partition(".")
    start = " minus " if minus else " "
    if zeros:
        return f"{start}{quantity(amount)} {zeros} {many} "
    if len(rest) != 2 or name not in CENTS:
        return f"{start}{quantity(amount)} {one if amount == '1' else many} "
    coins = "" if rest == "00" else f"{number(int(rest))} {CENTS[name][rest != '01']}"
    notes = "" if coins and not int(whole) else f"{quantity(whole)} {one if whole == '1' else many}"
    return f"{start}{' and '.join(part for part in (notes, coins) if part)} "


def _day(year: str, month: int, day: int) -> str:
    return f" {MONTHS[month - 1]} {number(day, 'ordinal')}, {_year(year)} "


def _iso(found: Match) -> str:
    month, day = int(found[2]), int(found[3])
    return _day(found[1], month, day) if 1 <= month <= 12 and 1 <= day <= 31 else found[0].replace("-", " ")


def _slashed(found: Match) -> str:
    """Month first, as in America, where that is possible."""
    month, day = int(found[1]), int(found[2])
    if month > 12:
        month, day = day, month
    possible = 1 <= month <= 12 and 1 <= day <= 31
    return _day(found[3], month, day) if possible else found[0].replace("/", " ")


def _time(found: Match) -> str:
    hour, minute, second, half = int(found[1]), int(found[2]), found[3], found[4]
    if hour > 24 or minute > 59:
        return f" {number(hour)} to {number(minute)} " + (f"{number(int(second))} " if second else "")
    said = [number(hour)]
    if minute or second:
        said.append(f"oh {number(minute)}" if minute < 10 else number(minute))
    elif not half:
        said.append("o'clock" if 1 <= hour <= 12 else "hundred")
    if second:
        said.append(f"and {number(int(second))} seconds")
    return f" {' '.join(said)} {half[0].upper() + '.M.' if half else ''} "


def _fraction(found: Match) -> str:
    whole, over, under = found[1], int(found[2]), int(found[3])
    if (over, under) == (24, 7) and not whole:
        return " twenty four seven "
    if not 1 < under <= 100 or (over >= under and not whole):
        return f" {found[1] or ''} {quantity(found[2])} over {quantity(found[3])} "
    part = {2: "half", 4: "quarter"}.get(under, number(under, "ordinal"))
    part = part if over == 1 else "halves" if under == 2 else f"{part}s"
    if whole:
        return f" {quantity(whole)} and {'a' if over == 1 else number(over)} {part} "
    return f" {number(over)} {part} "


def _unit(found: Match) -> str:
    name = UNITS[found[3].lower()]
    degrees, first = "degrees " if found[2] else "", name.split(" ", 1)
    if found[1] != "1" and name not in SAME and not degrees:
        first[0] = {"foot": "feet"}.get(
            first[0], first[0] if first[0] in SAME or "hertz" in name else first[0] + "s"
        )
    power = {"2": " squared", "\u00b2": " squared", "3": " cubed", "\u00b3": " cubed", None: "", "": ""}[
        found[4]
    ]
    return f"{found[1]} {degrees}{' '.join(first)}{power}"


def _year(text: str) -> str:
    return number(int(text), "year") if len(text) == 4 and text[0] != "0" else digits(text)


def _decade(found: Match) -> str:
    said = _year(found[1]) if len(found[1]) == 4 else number(int(found[1]))
    return f" {said[:-1]}ies " if said.endswith("y") else f" {said}s "


def _any(found: Match) -> str:
    """As a number is said where nothing else is known of it: years as years, what begins with zero by its digits."""
    text = found[0]
    if "," in text or "." in text:
        return f" {quantity(text)} "
    if len(text) > 1 and text[0] == "0":
        return f" {digits(text)} "
    if len(text) == 4 and 1100 <= int(text) < 2100:
        return f" {_year(text)} "
    return f" {quantity(text)} "


def _spelt(found: Match) -> str:
    text = re.sub(r"\D", "", found[2])
    plus = " plus" if "+" in found[2] else ""
    return f"{found[1]}{plus} {number(int(text)) if len(text) <= 2 else digits(text)} "


_RULES: tuple[tuple[re.Pattern[str], str | Callable[[Match], str]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), say)
    for pattern, say in (
        (r"\d{16,}", lambda m: f" {digits(m[0])} "),
        (r"\b(?:https?://|www\.)[^\s,;!?()]*\w|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", _address),
        (r"\b(e\.g|i\.e|a\.k\.a)\.?(?!\w)", lambda m: ABBREVIATIONS[m[1].lower()]),
        (r"\bno\.\s*(?=\d)", "number "),
        (r"(?<=[a-z] )st\.(?!\s+(?-i:[A-Z]))", "street"),
        (r"\bms\.(?=\s+(?-i:[A-Z]))", "ms"),
        (rf"(?<![\w.])({'|'.join(k for k in ABBREVIATIONS if '.' not in k)})\.(?!\w)",
         lambda m: ABBREVIATIONS[m[1].lower()]),
        (r"#(?=\d)", "number "),
        (rf"(?P<minus>(?<![\w)])-\s?)?(?P<sign>[$\u00a2-\u00a5\u20a0-\u20cf])\s?(?P<within>-)?(?P<amount>{_NUMBER})"
         rf"(?:\s+(?P<zeros>{_ZEROS})\b)?", _money),
        (rf"(?P<minus>(?<![\w)])-)?(?P<amount>{_NUMBER})\s?(?P<sign>[$\u00a2-\u00a5\u20a0-\u20cf])", _money),
        (r"[$\u00a2-\u00a5\u20a0-\u20cf]", lambda m: f" {unicodedata.name(m[0]).removesuffix(' SIGN').lower()} "),
        (r"\b(\d{4})-(\d{2})-(\d{2})\b", _iso),
        (r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b", _slashed),
        (rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?![:.]?\d)",
         lambda m: f"{next(x for x in MONTHS if x.startswith(m[1][:3].lower()))} {number(int(m[2]), 'ordinal')}"),
        (r"\b(\d{1,2}):(\d{2})(?::(\d{2}))?\b(?:\s*([ap])\.?m\b\.?)?", _time),
        (r"\b(\d{1,2})\s?([ap])\.?m\b\.?", lambda m: f"{m[1]} {m[2].upper()}.M. "),
        # Digits that are a name rather than a count, and telephone numbers.
        (rf"\b((?:{DIALLED})\.?:?\s|\b[A-Za-z][.-]?)(\d+)\b(?![,.:/-]?\d)", _spelt),
        (rf"(^|[^\w-])({_TELEPHONE})\b", _spelt),
        (r"(?:(?<![\w/,.])(\d+)\s+|(?<![\w/,.]))(\d+)\s?/\s?(\d+)(?![\w/])", _fraction),
        (r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: number(int(m[1][:15]), "ordinal")),
        (r"\b(\d{4}|\d0)'?s\b", _decade),
        (rf"\b({_NUMBER})\s?(\u00b0\s?)?({_UNIT})([23\u00b2\u00b3]?)(?![\w'])", _unit),
        (r"(\d)\s+-\s+(?=\d)(?=.*=)", r"\1 minus "),
        (r"(\d)\s*-\s*(?=\d)", r"\1 to "),
        (r"(?<![\w)])-\s?(?=\.?\d)", " minus "),
        (r"(?<!\d)\.(?=\d)", " point "),
        (r"(\d)\s*x\s*(?=\d)", r"\1 times "),
        (r"\d+(?:\.\d+){2,}", lambda m: " " + " point ".join(_any(part) for part in re.finditer(r"\d+", m[0])) + " "),
        (r"(?<=[a-z])\d{3,}", lambda m: f" {digits(m[0])} "),
        (_NUMBER, _any),
    )
)  # fmt: skip
