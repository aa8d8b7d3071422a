"""What files call an element: its symbol, its atomic number, an isotope of it."""

from __future__ import annotations

_TABLE = (
    "H HE LI BE B C N O F NE NA MG AL SI P S CL AR K CA SC TI V CR MN FE CO NI CU ZN GA GE AS SE BR KR RB "
    "SR Y ZR NB MO TC RU RH PD AG CD IN SN SB TE I XE CS BA LA CE PR ND PM SM EU GD TB DY HO ER TM YB LU "
    "HF TA W RE OS IR PT AU HG TL PB BI PO AT RN FR RA AC TH PA U NP PU AM CM BK CF ES FM MD NO LR RF DB "
    "SG BH HS MT DS RG CN NH FL MC LV TS OG"
)
SYMBOLS = tuple(_TABLE.split())
"""In capitals, in the order of atomic numbers."""
HYDROGEN = ("D", "T")
"""Isotopes with letters of their own."""


def symbol(element: str, name: str = "") -> str:
    """An element's symbol in capitals, of `C`, `c`, its number `6`, or an isotope: `13C`, `C13`, `D`, `T`.

    Args:
        name: of the atom, for where no element is given: a D or T in front stands for an isotope of hydrogen.
    """
    element = element.strip()
    if element.isdecimal():
        number = int(element)
        return SYMBOLS[number - 1] if 0 < number <= len(SYMBOLS) else "X"
    plain = element.strip("0123456789+-").upper() or name.strip("0123456789 ")[:1].upper()
    return "H" if plain in HYDROGEN else plain
