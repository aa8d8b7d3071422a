"""Files of words as people have them: ends of lines, byte-order marks, JSON lines; wrong ones end in one line."""

import json
import random

import pytest

from omnidistill.data import lines
from omnidistill.errors import UserError

INSIDE = ("\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")
"""At all of these `str.splitlines` splits; they end no line."""


def json_lines(file, texts, encoding="utf-8"):
    page = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    file.write_bytes(page.encode(encoding))
    return file


def texts_of(file):
    return [lines.field(file, number, row, "text") for number, row in lines.objects(file)]


@pytest.mark.parametrize("mark", INSIDE)
def test_lines_end_at_newlines_alone(tmp_path, mark):
    texts = ["one", f"two{mark}three", "four"]
    assert texts_of(json_lines(tmp_path / "a.jsonl", texts)) == texts
    plain = tmp_path / "a.txt"
    plain.write_bytes("\r\n".join(texts).encode())
    assert list(lines.lines(plain)) == list(enumerate(texts, 1))


def test_a_carriage_return_ends_a_plain_line_and_no_json_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\r\nthree\n\n four ")
    assert list(lines.lines(tmp_path / "a.txt")) == [(1, "one"), (2, "two"), (3, "three"), (5, " four ")]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one\rtwo"}\r\n\r\n{"text": "three\\n"}')
    assert texts_of(tmp_path / "a.jsonl") == ["one\rtwo", "three\n"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_read_and_are_no_text(tmp_path, encoding):
    texts = ["na\u00efve", "\U0001f600 \u6f22"]
    assert texts_of(json_lines(tmp_path / "a.jsonl", texts, encoding)) == texts
    if encoding == "utf-16":  # the other order of bytes
        page = "\ufeff" + (tmp_path / "a.jsonl").read_text("utf-16")
        (tmp_path / "b.jsonl").write_bytes(page.encode("utf-16-be"))
        assert texts_of(tmp_path / "b.jsonl") == texts


def test_null_is_no_text_and_other_values_are_refused(tmp_path):
    assert texts_of(json_lines(tmp_path / "a.jsonl", ["a", None])) == ["a", None]
    for value, says in ((3, "a number"), (["a"], "a list"), (True, "true or false")):
        with pytest.raises(UserError, match=f'line 2 .*"text" is a string, got {says}'):
            texts_of(json_lines(tmp_path / "a.jsonl", ["a", value]))


def test_half_a_character_can_be_written_again(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "cut \\ud83d"}\n{"text": "\\ud83d\\ude00"}\n')
    assert texts_of(tmp_path / "a.jsonl") == ["cut \ufffd", "\U0001f600"]


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        lines.read(tmp_path / "absent")
    with pytest.raises(UserError, match="no file"):
        lines.read(tmp_path)


def test_damaged_files_end_in_one_line_with_their_name(tmp_path):
    """Mutations of a good file: each is read or refused in one line, and nothing else happens."""
    good = json_lines(tmp_path / "good.jsonl", ["one \u00e9", None, "two\u2028", '"{\\']).read_bytes()
    rng, refused = random.Random(0), 0
    file = tmp_path / "bad.jsonl"
    for _ in range(400):
        raw = bytearray(good[: rng.randrange(len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.randrange(4)):
            if raw:
                raw[rng.randrange(len(raw))] = rng.choice((0, 10, 0x5B, 0x7B, 0xFF, rng.randrange(256)))
        file.write_bytes(bytes(raw))
        try:
            texts_of(file)
            list(lines.lines(file))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and "bad.jsonl" in str(error)
    assert refused > 50
    for bomb in (b"[" * 100_000, b'{"text": ' * 100_000, b'{"text": ' + b"9" * 10_000 + b"}"):
        file.write_bytes(bomb)
        with pytest.raises(UserError, match=r"bad\.jsonl"):
            texts_of(file)
