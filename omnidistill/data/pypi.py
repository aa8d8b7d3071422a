"""A source archive of a Python package index, fetched and not built: pip runs an archive's code to learn its name.

The index is the one that pip is configured for; its pages are those of PEP 503.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

INDEX = "https://pypi.org/simple"
LARGEST = 4 << 30  # bytes
TIMEOUT = 30.0


class NotFound(Exception):
    """There is no such archive, or it is not what its page says; the message is a short reason."""


def fetch_archive(package: str, folder: Path) -> Path:
    """The archive of `NAME==VERSION` in `folder`; where the index gives its SHA-256 sum, the sum is checked.

    Raises:
        NotFound: the index has none, cannot be reached, or gave another file.
    """
    name, _, version = package.partition("==")
    page = f"{_index().rstrip('/')}/{_normal(name)}/"
    try:
        with urllib.request.urlopen(page, timeout=TIMEOUT) as answer:
            links = _Links(answer.geturl())
            links.feed(answer.read(1 << 26).decode("utf-8", "replace"))
        for link in links.found:
            address, mark = urldefrag(link)
            file = unquote(urlsplit(address).path).rpartition("/")[2]
            stem = file.removesuffix(".tar.gz")
            if (
                stem != file
                and _normal(stem) == _normal(f"{name}-{version}")
                and urlsplit(address).scheme in ("http", "https")
            ):
                return _download(address, mark, folder / f"{_normal(name)}.tar.gz")
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise NotFound(f"{page}: {getattr(error, 'reason', error)}") from error
    raise NotFound(f"the index has no source archive of {package}")


def _download(address: str, mark: str, file: Path) -> Path:
    found = hashlib.sha256()
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, file.open("wb") as target:
        while chunk := answer.read(1 << 18):
            found.update(chunk)
            target.write(chunk)
            if target.tell() > LARGEST:
                raise NotFound(f"{file.name} is larger than {LARGEST >> 30} GiB")
    if mark.startswith("sha256=") and mark[7:] != found.hexdigest():
        raise NotFound(f"{file.name} has another sum than its index says")
    return file


def _index() -> str:
    if given := os.environ.get("PIP_INDEX_URL"):
        return given
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "get", "global.index-url"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout.strip() or INDEX


def _normal(name: str) -> str:
    """As indices write names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


class _Links(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.page, self.found = page, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (target := dict(attrs).get("href")):
            self.found.append(urljoin(self.page, target))
