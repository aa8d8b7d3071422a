"""Reading and fetching real images: what is damaged is refused in one line, and nothing half-made is left."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
import yaml

from omnidistill.data import datasets
from omnidistill.data import sources as data_sources
from omnidistill.errors import UserError
from omnidistill.modalities.image import data


def idx(array: np.ndarray, kind: int = 0x08) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def described(tmp_path):
    """A data set of two small files that lie packed in a folder, and the YAML file that describes it."""
    contents = {"first": b"abc" * 1000, "second": b"defg" * 500}
    folder = tmp_path / "upstream"
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    description = {
        "name": "small",
        "title": "two files",
        "licence": "CC0",
        "attribution": "nobody in particular",
        "files": {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()},
        "sources": [{"kind": "folder", "path": str(folder)}],
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(description))
    return path, folder, contents, description


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_idx_reads_packed_and_plain(tmp_path, images):
    (tmp_path / "plain").write_bytes(idx(images))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(images)))
    np.testing.assert_array_equal(data.read_idx(tmp_path / "plain"), images)
    np.testing.assert_array_equal(data.read_idx(tmp_path / "packed.gz"), images)
    floats = np.arange(6, dtype=">f4").reshape(2, 3)
    (tmp_path / "floats").write_bytes(idx(floats, 0x0D))
    np.testing.assert_array_equal(data.read_idx(tmp_path / "floats"), floats)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: b"", "empty"),
        (lambda raw: gzip.compress(b""), "empty"),
        (lambda raw: gzip.compress(raw)[:-900], "cut short"),
        (lambda raw: gzip.compress(raw)[:6], "cut short"),
        (lambda raw: raw[:-1], "cut short"),
        (lambda raw: raw[:9], "do not hold its header"),
        (lambda raw: raw + b"\0", "too long"),
        (lambda raw: b"\x89PNG" + raw[4:], "no idx file"),
        (lambda raw: b"\0\0\x42\x03" + raw[4:], "no idx file"),
        (lambda raw: b"\x1f\x8bnonsense", "cannot read|damaged"),
    ],
)
def test_idx_refuses_damage(tmp_path, images, damage, says):
    path = tmp_path / "images"
    path.write_bytes(damage(idx(images)))
    with pytest.raises(UserError, match=says) as error:
        data.read_idx(path)
    assert str(path) in one_line(error)


def test_idx_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read") as error:
        data.read_idx(tmp_path / "nowhere")
    one_line(error)


def test_fashion_mnist_from_a_folder(tmp_path, images):
    labels = np.arange(7, dtype=np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    loaded = data.fashion_mnist("test", tmp_path)
    assert loaded.images.dtype == torch.float32
    assert loaded.images.shape == (7, 1, 28, 28)
    back = ((loaded.images + 1) * 127.5).round().squeeze(1).to(torch.uint8).numpy()
    np.testing.assert_array_equal(back, images)
    assert loaded.images.min() >= -1 and loaded.images.max() <= 1
    assert loaded.labels.tolist() == list(range(7))

    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:5]))
    with pytest.raises(UserError, match=r"labels \(5,\) for 7 images"):
        data.fashion_mnist("test", tmp_path)
    with pytest.raises(UserError, match="has neither"):
        data.fashion_mnist("train", tmp_path)
    with pytest.raises(UserError, match="unknown split 'tset'; did you mean test"):
        data.fashion_mnist("tset", tmp_path)


def test_fashion_mnist_not_fetched(cache):
    with pytest.raises(UserError, match="omnidistill data fetch fashion_mnist") as error:
        data.fashion_mnist("train")
    one_line(error)


def test_shipped_sample_is_balanced_and_mixed():
    images, labels = data.heldout()
    assert images.shape == (5000, 1, 28, 28)
    assert labels.bincount().tolist() == [500] * 10
    assert labels[:500].bincount(minlength=10).min() > 25
    assert images.flatten(1).unique(dim=0).shape[0] > 4990


def test_digits_split_is_fixed_and_disjoint():
    train, test = data.digits("train"), data.digits("test")
    assert len(train.labels) == 1437 and len(test.labels) == 360
    assert torch.equal(test.images, data.digits("test").images)
    assert train.images.min() == -1 and train.images.max() == 1
    seen = {tuple(row) for row in train.images.flatten(1).tolist()}
    assert not any(tuple(row) in seen for row in test.images.flatten(1).tolist())


def test_fetch_stores_unpacked_and_says_whose_it_is(cache, described):
    path, _, contents, _ = described
    said: list[str] = []
    folder = datasets.fetch(str(path), say=said.append)
    assert folder == cache / "small" == datasets.locate(str(path))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == contents
    text = "\n".join(said)
    assert "CC0" in text and "nobody in particular" in text
    assert [entry.name for entry in cache.iterdir()] == ["small"]


def test_fetch_refuses_wrong_sums_and_leaves_nothing(cache, described):
    path, folder, contents, _ = described
    (folder / "second.gz").write_bytes(gzip.compress(contents["second"].replace(b"d", b"D", 1)))
    with pytest.raises(UserError, match="wrong sha256 of second") as error:
        datasets.fetch(str(path))
    assert str(folder) in one_line(error)
    assert list(cache.iterdir()) == []
    with pytest.raises(UserError, match="is not here"):
        datasets.locate(str(path))


def test_fetch_refuses_cut_archives(cache, described):
    path, folder, _, _ = described
    whole = (folder / "first.gz").read_bytes()
    (folder / "first.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"first.gz is damaged"):
        datasets.fetch(str(path))
    assert list(cache.iterdir()) == []


def test_fetch_takes_the_next_source_and_gives_all_reasons(cache, described, tmp_path, monkeypatch):
    path, folder, contents, description = described

    def broken(source, files, scratch):
        (scratch / "first").write_bytes(b"half")
        raise data_sources.SourceError("the line is dead")

    monkeypatch.setitem(data_sources.SOURCES, "url", broken)
    dead = {"kind": "url", "address": "http://localhost/"}
    path.write_text(yaml.safe_dump(description | {"sources": [dead, *description["sources"]]}))
    said: list[str] = []
    assert (datasets.fetch(str(path), say=said.append) / "first").read_bytes() == contents["first"]
    assert any(f"from folder {folder}" in line for line in said)

    empty = tmp_path / "empty"
    empty.mkdir()
    path.write_text(yaml.safe_dump(description | {"sources": [dead, {"kind": "folder", "path": str(empty)}]}))
    assert datasets.fetch(str(path), say=said.append) == cache / "small"  # intact, so no source is asked
    (cache / "small" / "first").write_bytes(b"spoilt")
    with pytest.raises(UserError, match=r"the line is dead.*has neither first nor first\.gz") as error:
        datasets.fetch(str(path))
    one_line(error)
    assert [entry.name for entry in cache.iterdir()] == ["small"]


def test_fetch_mends_a_damaged_copy(cache, described):
    path, _, contents, _ = described
    folder = datasets.fetch(str(path))
    (folder / "first").write_bytes(contents["first"][:-1])
    with pytest.raises(UserError, match=r"is damaged \(first\)"):
        datasets.locate(str(path))
    datasets.fetch(str(path))
    assert (datasets.locate(str(path)) / "first").read_bytes() == contents["first"]


def test_a_folder_given_is_the_only_source(cache, described, tmp_path):
    path, folder, contents, _ = described
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(UserError, match=f"folder {mine} .has neither"):
        datasets.fetch(str(path), folder=mine)
    for name, content in contents.items():
        (mine / name).write_bytes(content)
    assert datasets.fetch(str(path), folder=mine) == cache / "small"
    with pytest.raises(UserError, match="no such folder"):
        datasets.fetch(str(path), folder=tmp_path / "nowhere")
    assert folder.is_dir()


def test_an_unwritable_cache_is_the_users_error(described, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot store small") as error:
        datasets.fetch(str(described[0]))
    one_line(error)


def test_url_source_reads_a_web_server(cache, described):
    import functools
    import http.server
    import threading

    path, folder, contents, description = described

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = {"kind": "url", "address": f"http://127.0.0.1:{server.server_port}", "suffix": ".gz"}
        path.write_text(yaml.safe_dump(description | {"sources": [source]}))
        assert (datasets.fetch(str(path)) / "second").read_bytes() == contents["second"]
        (cache / "small" / "second").unlink()
        (folder / "second.gz").unlink()
        with pytest.raises(UserError, match=r"HTTP 404 for second\.gz"):
            datasets.fetch(str(path))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../outside"},
        {"files": {"../../outside": {"bytes": 1, "sha256": "0"}}},
        {"sources": [{"kind": "carrier pigeon"}]},
        {"files": {"a": {"bytes": 1}}},
        {"colour": "green"},
    ],
)
def test_bad_descriptions_are_refused(cache, described, change):
    path, _, _, description = described
    path.write_text(yaml.safe_dump(description | change))
    with pytest.raises(UserError, match="does not describe a data set") as error:
        datasets.fetch(str(path))
    one_line(error)


def test_unknown_names_get_near_matches():
    assert "fashion_mnist" in datasets.available()
    assert datasets.describe("fashion-mnist").licence == "MIT"
    with pytest.raises(UserError, match="unknown data set 'fashon_mnist'; did you mean fashion_mnist"):
        datasets.describe("fashon_mnist")


def test_packed_bombs_and_fifos_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(data, "LARGEST", 1 << 20)
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(1 << 22)))
    with pytest.raises(UserError, match="bomb unpacks to more than 1 MiB"):
        data.read_idx(tmp_path / "bomb")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a fifo"):
        data.read_idx(tmp_path / "pipe")
