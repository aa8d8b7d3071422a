"""Every list of words that the task reads, damaged: read, or refused in one line."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omnidistill.errors import UserError
from omnidistill.modalities.audio.requests import read_requests
from omnidistill.modalities.speech import prompts
from omnidistill.modalities.speech.tts import data
from omnidistill.modalities.speech.tts.sentences import sentences

GOOD = {
    "metadata.csv": b"a|One two.|one two\na|Three \xe2\x82\xac5.\n",
    "list.txt": b"wavs/a.wav|One two.\nwavs/a.wav|7|Three.\n",
    "rows.jsonl": b'{"audio": "wavs/a.wav", "text": "One."}\n{"audio": "wavs/a.wav", "text": null}\n',
    "say.jsonl": b'{"text": "One (two).", "id": "x"}\n{"text": "Three", "id": 4}\n',
    "say.txt": b"One.\n\nTwo!\n",
    "ask.csv": b"name,label,seconds\na,drum,2.5\nb,bass,3\n",
    "names.txt.gz": gzip.compress(b"; a comment\na: One.\nb/c: [beep]\n"),
}


def read(file: Path) -> None:
    if file.name.endswith("ask.csv"):
        list(read_requests(file, ("drum", "bass")))
    elif "say" in file.name:
        list(sentences(file))
    elif file.suffix == ".gz":
        prompts.read_transcripts(file)
    else:
        data.listed(file.parent if file.name == "metadata.csv" else file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", np.full(1000, 0.1), 16000)
    return tmp_path


@pytest.mark.parametrize("name", GOOD)
def test_damaged_lists_end_in_one_line(folder: Path, name: str, capsys) -> None:  # type: ignore[no-untyped-def]
    file, good, rng, refused = folder / name, GOOD[name], random.Random(0), 0
    file.write_bytes(good)
    read(file)
    for _ in range(150):
        raw = bytearray(good[: rng.randrange(len(good))] if rng.random() < 0.2 else good)
        for _ in range(rng.randrange(1, 5)):
            if raw:
                raw[rng.randrange(len(raw))] = rng.choice((0, 10, 34, 92, 124, 255, rng.randrange(256)))
        file.write_bytes(raw)
        try:
            read(file)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5


@pytest.mark.parametrize("name", ["\\u0000", "\\ud800", "a" * 400, "..\\n"])
def test_ids_that_name_no_file_are_refused_and_others_go_on(folder: Path, name: str) -> None:
    (folder / "say.jsonl").write_text(f'{{"text": "One.", "id": "{name}"}}\n{{"text": "Two."}}\n')
    (_, wrong), (_, fine) = sentences(folder / "say.jsonl")
    assert isinstance(wrong, UserError) and "line 1" in str(wrong) and fine == "Two."


def test_a_packed_list_that_unpacks_to_a_memory_full_is_stopped(folder: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(prompts, "LARGEST", 1000)
    (folder / "names.txt.gz").write_bytes(gzip.compress(b"; " + bytes(100_000)))
    with pytest.raises(UserError, match="longer than 1000 bytes"):
        prompts.read_transcripts(folder / "names.txt.gz")
