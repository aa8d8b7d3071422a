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


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "dream"])
def test_the_librarys_class_answers_as_the_student(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    folder = run(tmp_path, kind)
    out = omnidistill.export(folder, "transformers", tmp_path / "out", pipeline=tmp_path / "teacher")
    loads = AutoModelForCausalLM if kind in ("llama", "dream") else AutoModelForMaskedLM
    theirs = loads.from_pretrained(out).eval()
    student = load(folder)
    vocab = student.denoiser.path.vocab  # type: ignore[attr-defined]
    x = torch.randint(3, vocab, (2, 12), generator=generator("tokens"))
    x[:, ::2] = vocab
    asked = torch.where(x == vocab, MASK, x)
    with torch.no_grad():  # nothing is said of the attention of a causal class: its configuration does
        logits = theirs(input_ids=asked).logits[..., :vocab].clone()
    if kind == "dream":
        logits = torch.cat((logits[:, :1], logits[:, :-1]), 1)
    with torch.no_grad():
        logits[..., MASK] = -torch.inf
        found = student.denoiser(x, 0.5).probs
    assert torch.allclose(found[:, ::2], logits.softmax(-1)[:, ::2], atol=1e-5)
    assert AutoTokenizer.from_pretrained(out).mask_token_id == MASK
    again = omnidistill.teacher(out, length=12)
    with torch.no_grad():
        assert torch.allclose(again(x, 0.5).probs, found, atol=1e-6)
    card = (out / "README.md").read_text()
    assert ("one place early" in card) == (kind == "dream")
    assert "library_name: transformers" in card and "differ from the student's by at most" in card
    assert json.loads((out / "config.json").read_text())["mask_token_id"] == MASK


def test_a_student_of_a_llada_type_by_two_commands(tmp_path: Path) -> None:
    """Distilled, exported, loaded by the library's own class: the same logits to 1e-4, and not the teacher's."""
    from transformers import AutoModelForCausalLM

    from omnidistill.cli import main

    saved(tmp_path / "teacher", "llama")
    words = ["task=text/own", f"teacher={tmp_path / 'teacher'}", "task.length=16", "recipe=di-m-o"]
    quick = ["updates=2", "batch=4", "steps=[1]", "task.teacher_steps=2", "evaluation.samples=8", "ema=null"]
    rates = ["optim.lr=0.01", "optim.warmup=0", "device=cpu", "precision=fp32"]
    assert main(["distill", *words, *quick, *rates, f"out={tmp_path / 'run'}"]) == 0
    out = tmp_path / "handed"
    assert main(["export", str(tmp_path / "run"), "format=transformers", f"out={out}"]) == 0
    student = load(tmp_path / "run").denoiser
    vocab = student.path.vocab  # type: ignore[attr-defined]
    asked = torch.randint(3, vocab, (2, 9), generator=generator("tokens"))
    asked[:, ::2] = MASK
    kept = torch.arange(vocab) != MASK
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(out).eval()(input_ids=asked).logits[..., :vocab]
        ours = student.network(torch.where(asked == MASK, vocab, asked), torch.ones(2))[..., :vocab]  # type: ignore
        before = omnidistill.teacher(tmp_path / "teacher").network.model(input_ids=asked).logits  # type: ignore
    assert torch.allclose(theirs[..., kept], ours[..., kept], atol=1e-4)
    assert not torch.allclose(theirs, before[..., :vocab], atol=1e-2)


def test_tokens_in_a_folder_of_our_own(tmp_path: Path) -> None:
    folder = run(tmp_path, "bert")
    out = omnidistill.export(folder, "safetensors", tmp_path / "out")
    assert torch.equal(load(out).sample(2), load(folder).sample(2))
