"""Somebody else's teacher, as documented: diffusers' UNet2DConditionModel saved, loaded, wrapped, distilled."""

import runpy
from pathlib import Path

import pytest
import torch

import omnidistill
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.testing import check_denoiser

EXAMPLE = Path(__file__).parents[2] / "docs" / "teachers" / "unet2d_condition.py"

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def example() -> dict:
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def unet(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unet")
    example["small"]().save_pretrained(folder)
    return diffusers.UNet2DConditionModel.from_pretrained(folder)


def drawn(count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, 8, 8, generator=g), torch.randn(count, 5, 16, generator=g)


def test_the_wrapper_is_short():
    text = EXAMPLE.read_text()
    wrapper = text[text.index("class Conditioned") : text.index("def small")]
    assert len([line for line in wrapper.splitlines() if line.strip()]) <= 30


def test_the_path_is_the_schedulers(example):
    scheduler = example["schedule"]()
    path = example["path_of"](scheduler)
    steps = torch.tensor([0, 1, 499, 998, 999])
    alpha, _, sigma = path.coefficients((steps + 1) / 1000)
    expected = scheduler.alphas_cumprod[steps].double()
    assert torch.allclose(alpha**2, expected, rtol=1e-6) and torch.allclose(sigma**2, 1 - expected, rtol=1e-4)
    assert path.coefficients(torch.tensor(0.0)).sigma == 0 and bool(path.rates(torch.tensor(0.5)).alpha < 0)


def test_the_belief_is_that_of_diffusers_scheduler(example, unet):
    """x0 as DDIM computes it from the same network at the same timestep."""
    latents, texts = drawn(4)
    teacher, scheduler = example["wrap"](unet, example["schedule"]()), example["schedule"]()
    scheduler.set_timesteps(1000)
    for step in (0, 400, 999):
        with torch.no_grad():
            noise = unet(latents, step, encoder_hidden_states=texts).sample
            expected = scheduler.step(noise, step, latents).pred_original_sample
            found = teacher(latents, (step + 1) / 1000, Context(texts)).parameters
        assert torch.allclose(found.clamp(-1, 1), expected, atol=2e-3), step


def test_it_is_a_denoiser_and_distils(example, unet):
    latents, texts = drawn()
    teacher = example["wrap"](unet, example["schedule"]())
    assert len(check_denoiser(teacher, latents[:4], Context(texts[:4]))) > 5
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    options = ["families.consistency.guidance=2.0"]
    student = omnidistill.distill(
        teacher,
        "consistency-models",
        data=latents,
        condition=texts,
        null=torch.zeros_like,
        updates=2,
        batch=4,
        options=options,
    )
    assert student.sample(3, steps=2, condition=texts[:3]).shape == (3, 4, 8, 8)
    changed = student.denoiser.network.unet.state_dict()
    assert any(not torch.equal(changed[name], value) for name, value in before.items())
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_conditions_by_name_are_batched_and_checked(example, unet):
    """A mapping of tensors, as networks with several inputs want it; guidance empties it by a function."""
    latents, texts = drawn()

    class Named(example["Conditioned"]):
        def forward(self, x, time, condition):
            return super().forward(x, time, condition["text"]) * condition["strength"][:, None, None, None]

    teacher = NetworkDenoiser(
        Named(unet), example["path_of"](example["schedule"]()), "eps", time_input="1000t"
    )
    told = {"text": texts, "strength": torch.ones(len(texts))}
    keys = {"data": latents, "updates": 1, "batch": 4, "options": ["families.consistency.guidance=2.0"]}
    student = omnidistill.distill(
        teacher, "consistency-models", condition=told, null=lambda c: {**c, "text": 0 * c["text"]}, **keys
    )
    few = {name: value[:3] for name, value in told.items()}
    assert student.sample(3, steps=1, condition=few).shape == (3, 4, 8, 8)
    with pytest.raises(UserError, match=r"tensors have \[3, 16\] rows"):
        omnidistill.distill(teacher, "consistency-models", condition={**told, "text": texts[:3]}, **keys)
    with pytest.raises(UserError, match="condition has 3 rows and data 16"):
        omnidistill.distill(teacher, "consistency-models", condition=few, **keys)
