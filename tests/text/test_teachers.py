"""The documented ways to bring a masked language model: they conform, they distil, and they are short."""

import ast
import runpy
from pathlib import Path

import pytest
import torch

import omnidistill
from omnidistill.context import Context
from omnidistill.testing import check_denoiser

TEACHERS = Path(__file__).parents[2] / "docs" / "teachers"


def mdlm():
    example = runpy.run_path(str(TEACHERS / "mdlm.py"))
    torch.manual_seed(0)
    return example["teacher"](example["Tiny"](20), 20)


def llada(tmp_path):
    pytest.importorskip("transformers")
    example = runpy.run_path(str(TEACHERS / "llada.py"))
    return example["teacher"](example["tiny"](str(tmp_path)), 7)


@pytest.mark.parametrize("name", ["mdlm", "llada"])
def test_it_conforms_and_a_student_of_it_learns(name, tmp_path):
    teacher = mdlm() if name == "mdlm" else llada(tmp_path)
    vocab = teacher.path.vocab
    x0 = torch.randint(vocab, (4, 12), generator=torch.Generator().manual_seed(0))
    context = (
        Context() if name == "mdlm" else Context(mask=torch.arange(12) < torch.tensor([[12], [7], [9], [4]]))
    )
    check_denoiser(teacher, x0, context)
    before = [p.clone() for p in teacher.network.parameters()]
    student = omnidistill.distill(teacher, "di-m-o", shape=(12,), updates=2, batch=4, device="cpu")
    made = student.sample(8, steps=1, seed=1)
    assert made.shape == (8, 12) and int(made.min()) >= 0 and int(made.max()) < vocab
    pairs = list(zip(before, teacher.network.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    moved = zip(before, student.denoiser.network.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)


def test_sigma_is_the_total_noise_of_the_schedule():
    teacher = mdlm()
    seen = []
    teacher.network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    teacher(torch.full((3, 5), 20), t)
    assert torch.allclose(seen[0].double(), -teacher.path.alpha(t).log(), rtol=1e-4)


def test_the_inner_mask_is_renamed_both_ways(tmp_path):
    teacher = llada(tmp_path)
    asked = []
    teacher.network.model.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(kwargs["input_ids"]), with_kwargs=True
    )
    x = torch.tensor([[6, 7, 38, 39]])  # 39 is our mask, 7 theirs
    with torch.no_grad():
        probs = teacher(x, 0.5).probs[0, 3]
        raw = teacher.network.model(input_ids=torch.tensor([[6, 8, 39, 7]])).logits[0, 3]
    assert asked[0].tolist() == [[6, 8, 39, 7]]
    kept = torch.cat((raw[:7], raw[8:]))
    assert torch.allclose(probs, kept.softmax(0), atol=1e-5)


@pytest.mark.parametrize(("name", "wrapper"), [("mdlm", "Mdlm"), ("llada", "Llada")])
def test_the_wrapper_has_at_most_thirty_lines(name, wrapper):
    source = (TEACHERS / f"{name}.py").read_text()
    nodes = [n for n in ast.parse(source).body if getattr(n, "name", "") in (wrapper, "teacher")]
    lines = [line for n in nodes for line in ast.get_source_segment(source, n).splitlines() if line.strip()]
    assert len(nodes) == 2 and len(lines) <= 30
