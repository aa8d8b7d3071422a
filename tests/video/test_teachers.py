"""Video transformers of diffusers as teachers: the wrapped examples conform and can be distilled from."""

import importlib.util
from pathlib import Path

import pytest
import torch

import omnidistill
from omnidistill.context import Context
from omnidistill.testing import check_denoiser

EXAMPLES = Path(__file__).parents[2] / "docs" / "teachers"


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_the_example_conforms_and_can_be_distilled_from(name, tmp_path):
    pytest.importorskip("diffusers")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    teacher = example.teacher(example.tiny(str(tmp_path)))
    assert list(tmp_path.glob("*.safetensors"))  # saved, and loaded from there
    g = torch.Generator().manual_seed(0)
    latents, texts = (torch.randn(8, *shape, generator=g) for shape in (example.LATENT, example.TEXT))
    assert check_denoiser(teacher, latents[:4], Context(texts[:4]))
    with torch.no_grad():  # the text reaches the answer, and frames are not mistaken for channels
        told, other = (teacher(latents[:2], 0.5, Context(text)).mean for text in (texts[:2], texts[2:4]))
        assert (told - other).abs().max() > 1e-4
    student = omnidistill.distill(
        teacher, "consistency-models", data=latents, condition=texts, updates=2, batch=2, device="cpu"
    )
    made = student.sample(2, condition=texts[:2])
    assert made.shape == (2, *example.LATENT) and made.isfinite().all()
    before, after = (dict(d.network.named_parameters()) for d in (teacher, student.denoiser))
    assert any(not torch.equal(before[key], after[key]) for key in before)
