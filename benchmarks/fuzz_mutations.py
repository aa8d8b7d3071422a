"""Damage for `fuzz.py`: to the bytes of a file, or to what they say.

Flipped bits seldom come past a parser, which is one line of a library. So a file whose form is known is taken apart,
changed in what it says (a value of another type, keys swapped, a `_target_` of somebody else's, a path in place of a
name, nests, absurd numbers), and put together again with lengths and sums that are right.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

TOKENS = [
    *(b"${oc.env:HOME}", b"../../x", b"/etc/passwd", b"\x00", b"\xff\xfe", b"NaN", b"1e999", b"-1", b"null"),
    *(b"[]", b"{}", b'"_target_": "os.system"', b"!!python/object/apply:os.getcwd []", b"9" * 400, b"[" * 90),
    *(b"&a [*a]", b"true"),
]

TARGETS = [
    {"_target_": "os.system", "command": "touch fuzzed"},
    {"_target_": "builtins.eval", "_args_": ["open('fuzzed', 'w')"]},
    {"_target_": "omnidistill.data.files.write_text", "text": "x", "path": "../fuzzed"},
    {"_target_": "omnidistill.cli.main", "words": ["demo"]},
    {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
    {"_target_": "torch.nn.Linear", "in_features": 1 << 40, "out_features": 1 << 40},
    {"_target_": "torch.optim.SGD", "params": []},
    {"_target_": "torch.nn.modules.module.torch.load", "f": "x.pt"},
    {"_target_": "transformers.AutoModel.from_config", "config": {"_target_": "transformers.GPT2Config", "n_embd": 9}},
    {"_target_": "diffusers.UNet2DModel.from_pretrained", "pretrained_model_name_or_path": "/", "trust_remote_code": 1},
    {"_target_": "omnidistill.paths.named.rectified_flow"},
    {"_target_": "omnidistill.networks.mlp.Mlp"},
    {"_target_": "omnidistill.exact.MarkovTextTask", "_partial_": True},
    {"_target_": "omnidistill.exact.GaussianMixtureTask", "_convert_": "none", "_recursive_": False},
    {"_target_": "omnidistill.student.load", "folder": "/"},
    {"_target_": 5},
    {"_target_": "..."},
]  # fmt: skip
NUMBERS = [
    *(0, 1, -1, 2, 3, 0.5, -0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan, 1 << 16, 1 << 31, 1 << 63),
    *(-(1 << 63) - 1, 10**18, 10**40, 10**400, 7.0, 1e9, True, False),
]
TEXTS = [
    *(
        "",
        " ",
        "x",
        "x" * 5000,
        "../../fuzzed",
        "/etc/passwd",
        "~/fuzzed",
        "~nobody/x",
        "a\x00b",
        "a\nb",
        "\r",
    ),
    *(
        "${oc.env:HOME}",
        "${a}",
        "\\${x}",
        "{{7*7}}",
        "<script>alert(1)</script>",
        "null",
        "1e3",
        "-",
        "--",
        ".",
    ),
    *(
        "..",
        "a/../../b",
        "\u202e",
        "\ud800",
        "é",
        "𝟙",
        "\u2028",
        "%s%n",
        "os.system",
        "con:",
        "a=b",
        "'",
        '"',
        "*",
    ),
]

NESTS: list[Any] = [None, [], {}, [[]], [None], {"": {}}, [1, 2, 3], ["a"], {"a": 1}, [[1, 2], [3]]]

Value = Any


class Form(NamedTuple):
    """What takes a file apart, raising `ValueError` where it is none, and what puts it together again."""

    apart: Callable[[bytes], Value]
    together: Callable[[Value], bytes]


def mutated(data: bytes, draws: random.Random, times: int | None = None) -> bytes:
    """A damaged copy: bits flipped, pieces cut out, doubled, moved, overwritten by what has hurt readers before."""
    made = bytearray(data)
    for _ in range(times or draws.choice((1, 1, 1, 2, 4, 8))):
        size = len(made)
        at, span = draws.randrange(size + 1), draws.choice((1, 2, 8, 64, max(1, size // 4)))
        kind = draws.randrange(7)
        if kind == 0 and size:
            made[at % size] ^= 1 << draws.randrange(8)
        elif kind == 1:
            del made[at:]
        elif kind == 2:
            del made[at : at + span]
        elif kind == 3:
            made[at:at] = made[at : at + span]
        elif kind == 4:
            made[at:at] = draws.choice(TOKENS)
        elif kind == 5:
            made[at : at + span] = draws.choice(TOKENS)
        else:
            made[at : at + span] = draws.randbytes(min(span, 64))
    return bytes(made)


WRONG = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What taking apart and putting together raise for what a form cannot say."""


def damaged(data: bytes, draws: random.Random, form: str | None) -> bytes:
    """A copy with something changed that it says; in one file of four something of its bytes, instead or as well."""
    if form is None:
        return mutated(data, draws)
    kind = draws.randrange(8)
    for _ in range(8 if kind < 7 else 0):
        value = copy.deepcopy(FORMS[form].apart(data))
        for _ in range(draws.choice((1, 1, 1, 1, 2, 2, 3, 5))):
            value = changed(value, draws)
        with suppress(*WRONG):
            made = FORMS[form].together(value)
            return mutated(made, draws, 1) if kind == 6 else made
    return mutated(data, draws)


def well_formed(data: bytes, form: str) -> bool:
    """Whether the file can be taken apart, and so comes past the parser of its form."""
    try:
        FORMS[form].apart(data)
    except WRONG:
        return False
    return True


def changed(value: Value, draws: random.Random) -> Value:
    """The value with one place of it changed, in place where it is a section or a list."""
    places = list(_places(value))
    if not places:
        return odd(draws)
    holder, key = draws.choice(places)
    item, kind = holder[key], draws.randrange(12)
    if kind < 3:
        holder[key] = _near(item, draws)
    elif kind < 5:
        holder[key] = draws.choice(TOKENS) if isinstance(item, bytes) else odd(draws)
    elif kind == 5:
        del holder[key]
    elif kind == 6:
        other, name = draws.choice(places)
        if _there(other, name) and not (_within(item, other) or _within(other[name], holder)):
            holder[key], other[name] = other[name], item
    elif kind == 7 and isinstance(holder, dict):
        names = [name for section, name in places if isinstance(section, dict)]
        holder[draws.choice([*names, *TEXTS])] = copy.deepcopy(item)
        if draws.random() < 0.5:
            del holder[key]
    elif kind == 7:
        holder.insert(key, copy.deepcopy(item))
    elif kind == 8:
        for _ in range(draws.choice((1, 1, 2, 70))):
            item = draws.choice(
                ([item], {"a": item}, [item, item] if not isinstance(item, dict | list) else [item])
            )
        holder[key] = item
    elif kind == 9:
        other, name = draws.choice(places)
        if _there(other, name):
            holder[key] = copy.deepcopy(other[name])
    elif kind == 10 and isinstance(item, dict):
        item[draws.choice(TEXTS)] = odd(draws)
    else:
        holder[key] = (
            copy.deepcopy(draws.choice(TARGETS)) if not isinstance(item, bytes) else mutated(item, draws)
        )
    return value


def odd(draws: random.Random) -> Value:
    """A value that nobody would write."""
    kind = draws.randrange(5)
    if kind == 4:
        return copy.deepcopy(draws.choice(NESTS))
    return copy.deepcopy(draws.choice((NUMBERS, TEXTS, NUMBERS, TARGETS)[kind]))


def _near(item: Value, draws: random.Random) -> Value:
    """A value of the same kind."""
    if isinstance(item, bytes):
        return mutated(item, draws, 1)
    if isinstance(item, bool) or item is None:
        return draws.choice((True, False, None))
    if isinstance(item, int | float):
        other = draws.choice(
            (-item, item + 1, item - 1, item * 2, item // 2 if isinstance(item, int) else item / 2)
        )
        return draws.choice([*NUMBERS, *(other,) * 12])
    if isinstance(item, str):
        at = draws.randrange(len(item) + 1)
        other = draws.choice(TEXTS)
        return draws.choice(
            (other, item[:at], item[at:], item[:at] + other + item[at:], item.upper(), item + item)
        )
    if isinstance(item, list):
        return draws.choice(
            (item[1:], item[:-1], item + item[:1], item[::-1], item * draws.choice((2, 3, 50)))
        )
    return dict(draws.sample(list(item.items()), len(item)))


def _places(value: Value) -> list[tuple[Any, Any]]:
    """Every place that a section or a list has, however deep: the holder and its key."""
    found, level = [], [value]
    while level:
        item = level.pop()
        inside: list[Any] = []
        if isinstance(item, dict | list):
            inside = list(item.items() if isinstance(item, dict) else enumerate(item))
        found += [(item, key) for key, _ in inside]
        level += [inner for _, inner in inside]
    return found


def _there(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _within(item: Value, wanted: Value) -> bool:
    return item is wanted or any(holder is wanted for holder, _ in _places(item))


# --- forms ---------------------------------------------------------------------------------------------------------


def _json(data: bytes) -> Value:
    value = json.loads(data.decode())
    if not isinstance(value, dict | list):
        raise ValueError("no section")
    return value


def _lines(data: bytes) -> Value:
    text = data[2:].decode("utf-16-le") if data[:2] == b"\xff\xfe" else data.decode()
    return [json.loads(line) for line in text.split("\n") if line]


def _text(value: Value) -> bytes:
    return json.dumps(value, indent=1).encode()


def _yaml(data: bytes) -> Value:
    import yaml

    try:
        value = yaml.load(data.decode(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(value, dict | list):
        raise ValueError("no section")
    return value


def _yaml_text(value: Value) -> bytes:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    try:
        return yaml.dump(value, Dumper=Plain, allow_unicode=False, sort_keys=False).encode(
            "utf-8", "surrogatepass"
        )
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _safetensors(data: bytes) -> Value:
    size = int.from_bytes(data[:8], "little")
    return [_json(data[8 : 8 + size]), data[8 + size :]]


def _safetensors_file(value: Value) -> bytes:
    header = json.dumps(value[0]).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + value[1]


def _words(data: bytes) -> Value:
    """Lines of words, each with the blanks before it, so that columns stay where they are."""
    return [re.findall(r"\s*\S+|\s+$", line) for line in data.decode().split("\n")]


def _words_file(value: Value) -> bytes:
    def word(item: Value) -> str:
        return item if isinstance(item, str) else f" {item}"

    def line(item: Value) -> str:
        return "".join(map(word, item)) if isinstance(item, list) else word(item)

    return "\n".join(map(line, value)).encode("utf-8", "surrogatepass")


ENDS = (6, 11, 16, 17, 20, 22, 26, 30, 38, 46, 54, 60, 66, 76, 80)
PLACES = list(zip((0, *ENDS), ENDS, strict=False))


def _columns(data: bytes) -> Value:
    """Lines in pieces of fixed places, as PDB has them."""
    return [[line[a:b] for a, b in PLACES if line[a:b]] for line in data.decode().split("\n")]


def _columns_file(value: Value) -> bytes:
    def line(items: Value) -> str:
        pieces = [str(item) for item in items] if isinstance(items, list) else [str(items)]
        whole = (text[: b - a].rjust(b - a) for text, (a, b) in zip(pieces[:-1], PLACES, strict=False))
        return "".join((*whole, *pieces[-1:]))

    return "\n".join(map(line, value)).encode("utf-8", "surrogatepass")


def _png(data: bytes) -> Value:
    """Chunks as [type, content], that of the pixels unpacked."""
    found, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        content = data[at + 8 : at + 8 + size]
        if zlib.crc32(data[at + 4 : at + 8 + size]) != int.from_bytes(
            data[at + 8 + size : at + 12 + size], "big"
        ):
            raise ValueError("a wrong sum")
        found.append([data[at + 4 : at + 8], content])
        at += 12 + size
    if not found or data[:4] != b"\x89PNG":
        raise ValueError("no chunks")
    pixels = b"".join(content for kind, content in found if kind == b"IDAT")
    kept = [[kind, content] for kind, content in found if kind != b"IDAT"]
    return [*kept[:-1], [b"IDAT", zlib.decompress(pixels)], *kept[-1:]]


def _png_file(value: Value) -> bytes:
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in value:
        content = zlib.compress(content, 1) if kind == b"IDAT" else content
        made += (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    return made


def _riff(data: bytes) -> Value:
    """Chunks as [name, content] of wav, webp and avi; a LIST has its own inside."""
    if data[:4] != b"RIFF":
        raise ValueError("no RIFF")
    return [data[8:12], *_chunks(data[12:])]


def _chunks(data: bytes) -> list[Any]:
    found, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + size]
        inner = [content[:4], *_chunks(content[4:])] if data[at : at + 4] == b"LIST" else content
        found.append([data[at : at + 4], inner])
        at += 8 + size + size % 2
    return found


def _riff_file(value: Value) -> bytes:
    content = value[0] + b"".join(map(_chunk, value[1:]))
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _chunk(item: Value) -> bytes:
    name, content = item
    if isinstance(content, list):
        content = content[0] + b"".join(map(_chunk, content[1:]))
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf")


def _boxes(data: bytes) -> Value:
    """Boxes of mp4 as [name, content], those that hold others taken apart."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        if size < 8 or at + size > len(data):
            raise ValueError("a box without an end")
        content = data[at + 8 : at + size]
        found.append([name, _boxes(content) if name in BOXES else content])
        at += size
    if at != len(data):
        raise ValueError("bytes beside the boxes")
    return found


def _boxes_file(value: Value) -> bytes:
    made = b""
    for name, content in value:
        content = _boxes_file(content) if isinstance(content, list) else content
        made += struct.pack(">I", 8 + len(content)) + name + content
    return made


def _ogg_sum(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _OGG[crc >> 24 ^ byte]
    return crc


def _ogg_table() -> list[int]:
    table = []
    for number in range(256):
        crc = number << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc >> 31 else crc << 1) & 0xFFFFFFFF
        table.append(crc)
    return table


_OGG = _ogg_table()


def _ogg(data: bytes) -> Value:
    """Pages as [head of 22 bytes, lengths of segments, content], their sums checked."""
    found, at = [], 0
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            raise ValueError("no page")
        count = data[at + 26]
        table = data[at + 27 : at + 27 + count]
        end = at + 27 + count + sum(table)
        page = data[at : at + 22] + bytes(4) + data[at + 26 : end]
        if _ogg_sum(page) != int.from_bytes(data[at + 22 : at + 26], "little"):
            raise ValueError("a wrong sum")
        found.append([data[at : at + 22], table, data[at + 27 + count : end]])
        at = end
    return found


def _ogg_file(value: Value) -> bytes:
    made = b""
    for head, table, content in value:
        page = head + bytes(4) + bytes([len(table)]) + table + content
        made += page[:22] + struct.pack("<I", _ogg_sum(page)) + page[26:]
    return made


def _rows(data: bytes) -> Value:
    import csv

    return [list(row) for row in csv.reader(data.decode().splitlines())]


def _rows_file(value: Value) -> bytes:
    import csv
    import io

    file = io.StringIO()
    csv.writer(file).writerows([row if isinstance(row, list) else [row] for row in value])
    return file.getvalue().encode("utf-8", "surrogatepass")


FORMS = {
    "json": Form(_json, _text),
    "jsonl": Form(_lines, lambda value: "\n".join(json.dumps(line) for line in value).encode() + b"\n"),
    "yaml": Form(_yaml, _yaml_text),
    "safetensors": Form(_safetensors, _safetensors_file),
    "words": Form(_words, _words_file),
    "columns": Form(_columns, _columns_file),
    "csv": Form(_rows, _rows_file),
    "png": Form(_png, _png_file),
    "riff": Form(_riff, _riff_file),
    "boxes": Form(_boxes, _boxes_file),
    "ogg": Form(_ogg, _ogg_file),
}
