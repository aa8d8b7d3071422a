"""The page's templates: whatever is put into them is escaped unless it is a drawing of our own."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from jinja2 import Environment

ADDRESS = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;)]|arXiv:\d{4}\.\d{4,5}")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(linked=linked, breakable=breakable, slashed=slashed)
    return made


def render(template: str, **values: Any) -> str:
    """The page that a template makes of `values`."""
    return _environment().get_template(template).render(**values)


def linked(text: str) -> Markup:
    """Text in which addresses and arXiv numbers can be followed; nothing is loaded from them."""
    parts, end = Markup(), 0
    for found in ADDRESS.finditer(text):
        address = found[0].replace("arXiv:", "https://arxiv.org/abs/")
        link = Markup('<a href="{}" rel="noreferrer">{}</a>').format(address, found[0])
        parts += escape(text[end : found.start()]) + link
        end = found.end()
    return parts + escape(text[end:])


def breakable(name: str) -> Markup:
    """A name that may be broken after its underscores."""
    return escape(name).replace("_", Markup("_<wbr>"))


def slashed(name: str, sign: str = "/") -> Markup:
    """A name that may be broken after its slashes, which are written as `sign`."""
    before, after = (sign[:-1], " ") if sign.endswith(" ") else (sign, "")
    return escape(name).replace("/", escape(before) + Markup("<wbr>") + after)
