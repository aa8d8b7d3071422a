"""A masked language model, back in a folder that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

import omnidistill
from omnidistill.random import generator
from omnidistill.student import Recipe, load, save
from tests.interop.test_transformers_folder import MASK, saved


def run(tmp: Path, kind: str) -> Path:
    saved(tmp / "teacher", kind)
    teacher = omnidistill.teacher(tmp / "teacher", length=12)
    torch.manual_seed(1)
    with torch.no_grad():  # as if it had been trained
        for parameter in teacher.network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    recipe = Recipe(None, teacher.reading(), foreign=teacher.named, transition="ancestral", steps=4)
    save(teacher, recipe, tmp / "run")
    return tmp / "run"


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_the_librarys_class_answers_as_the_student(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    folder = run(tmp_path, kind)
    out = omnidistill.export(folder, "transformers", tmp_path / "out", pipeline=tmp_path / "teacher")
    loads = AutoModelForCausalLM if kind == "llama" else AutoModelForMaskedLM
    theirs = loads.from_pretrained(out).eval()
    student = load(folder)
    vocab = student.denoiser.path.vocab  # type: ignore[attr-defined]
    x = torch.randint(3, vocab, (2, 12), generator=generator("tokens"))
    x[:, ::2] = vocab
    asked = torch.where(x == vocab, MASK, x)
    keywords = {"attention_mask": torch.zeros(2, 1, 12, 12)} if kind == "llama" else {}
    with torch.no_grad():
        logits = theirs(input_ids=asked, **keywords).logits[..., :vocab].clone()
        logits[..., MASK] = -torch.inf
        found = student.denoiser(x, 0.5).probs
    assert torch.allclose(found[:, ::2], logits.softmax(-1)[:, ::2], atol=1e-5)
    assert AutoTokenizer.from_pretrained(out).mask_token_id == MASK
    again = omnidistill.teacher(out, length=12)
    with torch.no_grad():
        assert torch.allclose(again(x, 0.5).probs, found, atol=1e-6)
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card and "differ from the student's by at most" in card
    assert json.loads((out / "config.json").read_text())["mask_token_id"] == MASK


def test_tokens_in_a_folder_of_our_own(tmp_path: Path) -> None:
    folder = run(tmp_path, "bert")
    out = omnidistill.export(folder, "safetensors", tmp_path / "out")
    assert torch.equal(load(out).sample(2), load(folder).sample(2))
