"""Files of weights notice damage, are readable by whom the umask allows, and hold numbers."""

import os
import random
import stat
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from torch import nn

from omnidistill.errors import UserError
from omnidistill.training.safetensors_file import (
    load_strictly,
    read_metadata,
    read_safetensors,
    write_safetensors,
)

TENSORS = {
    "half": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "none": torch.zeros(0, 4),
    "whole": torch.tensor([1, 2, 3]),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(TENSORS, path, {"state": "{}"})
    tensors, metadata = read_safetensors(path)
    assert metadata == read_metadata(path) == {"state": "{}"}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS) and len(tensors) == len(TENSORS)
    assert os.listdir(tmp_path) == ["w.safetensors"]
    with safe_open(path, framework="pt") as file:  # what the format's own library makes of it
        assert all(torch.equal(file.get_tensor(name), TENSORS[name]) for name in file.keys())  # noqa: SIM118


def test_the_same_content_is_the_same_bytes(tmp_path):
    code = """
import sys, torch; from pathlib import Path
from omnidistill.training.safetensors_file import write_safetensors
write_safetensors({n: torch.ones(3) for n in "abc"}, Path(sys.argv[1]), {n: n for n in "xyz"})
"""
    files = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_any_single_bit_is_noticed(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(TENSORS, path, {"state": '{"seed": 5}'})
    good = path.read_bytes()
    draws = random.Random(0)
    header = 8 + int.from_bytes(good[:8], "little")
    places = [*range(8, header), *draws.choices(range(header, len(good)), k=40)]
    unnoticed = []
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << draws.randrange(8)
        path.write_bytes(bytes(bad))
        try:
            read_safetensors(path)
            unnoticed.append(place)
        except UserError as error:
            assert "\n" not in str(error)
    assert unnoticed == []


def test_files_of_others_have_no_digest_and_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"format": "pt"})
    tensors, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["a"], torch.ones(2)) and metadata == {"format": "pt"}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_says_who_may_read(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_safetensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~mask


def test_a_link_in_the_way_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".a.safetensors.partial", "a.safetensors"):
        (tmp_path / name).symlink_to(victim)
    write_safetensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert victim.read_text() == "precious" and not (tmp_path / "a.safetensors").is_symlink()


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    layer = nn.Linear(3, 2)
    layer.register_buffer("limit", torch.tensor([float("-inf"), 1.0]))
    good = {name: value.clone() for name, value in layer.state_dict().items()}
    load_strictly(layer, good, tmp_path)  # an infinity that the network itself has is none of damage
    for weight, message in (
        (torch.full((2, 3), float("nan")), "NaN or infinity in 'weight'"),
        (torch.full((2, 3), float("inf")), "NaN or infinity in 'weight'"),
        (torch.ones(2, 3, dtype=torch.int64), "'weight' is int64 there and float32 here"),
    ):
        with pytest.raises(UserError, match=message):
            load_strictly(layer, {**good, "weight": weight}, tmp_path)
    assert torch.equal(layer.weight, good["weight"])
    load_strictly(layer, {**good, "weight": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path)
