"""The bring-your-own example runs, and its wrapping is the module's own preconditioning."""

import ast
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

import omnidistill
from omnidistill.testing import check_denoiser

EXAMPLE = Path(__file__).parents[2] / "docs" / "teachers" / "boltz.py"


@pytest.fixture(scope="module")
def boltz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("boltz_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_beliefs_are_those_of_its_own_preconditioning(boltz: ModuleType):
    """D = c_skip x + c_out F(c_in x, c_noise) in Angstrom with sigma_data = 16 (Karras et al. 2022, table 1)."""
    torch.manual_seed(0)
    model = boltz.TinyScoreModel()
    teacher = boltz.teacher(model, boltz.WIDTH)
    batch = boltz.molecules(4, torch.Generator().manual_seed(0))
    condition, mask = batch.context.condition, batch.context.mask
    for sigma in (0.5, 16.0, 400.0):
        t = teacher.path.time_from_noise_level(sigma)
        x = teacher.path.corrupt(batch.x0, t, batch.context, g=torch.Generator().manual_seed(1))
        f = model(
            r_noisy=x / math.sqrt(sigma**2 + 16**2),
            times=torch.full((4,), math.log(sigma / 16) / 4),
            feats={**condition["feats"], "atom_pad_mask": mask.squeeze(-1).float()},
            multiplicity=1,
            **{key: value for key, value in condition.items() if key != "feats"},
        )["r_update"]
        skip, out = 16**2 / (sigma**2 + 16**2), sigma * 16 / math.sqrt(sigma**2 + 16**2)
        expected = (skip * x + out * f) * mask
        torch.testing.assert_close(teacher(x, t, batch.context).mean, expected, rtol=1e-4, atol=1e-4)


def test_noise_levels_are_multiples_of_sigma_data(boltz: ModuleType):
    path = boltz.teacher(boltz.TinyScoreModel(), boltz.WIDTH).path
    low, high = (float(path.noise_level(t)) for t in path.span)
    assert (low, high) == pytest.approx((4e-4 * 16, 2560.0))


def test_the_wrapped_module_conforms(boltz: ModuleType):
    torch.manual_seed(0)
    teacher = boltz.teacher(boltz.TinyScoreModel(), boltz.WIDTH)
    batch = boltz.molecules(4, torch.Generator().manual_seed(0))
    assert check_denoiser(teacher, batch.x0, batch.context)


def test_the_wrapping_takes_at_most_thirty_lines():
    parts = {
        n.name: n
        for n in ast.parse(EXAMPLE.read_text()).body
        if isinstance(n, ast.ClassDef | ast.FunctionDef)
    }
    assert sum(parts[name].end_lineno - parts[name].lineno + 1 for name in ("Boltz", "teacher")) <= 30


@pytest.mark.parametrize("recipe", ["consistency-models", "dmd2"])
def test_it_is_distilled_from_a_mapping_of_conditions(boltz: ModuleType, recipe: str):
    torch.manual_seed(0)
    teacher = boltz.teacher(boltz.TinyScoreModel(), boltz.WIDTH)
    keys = {"updates": 2, "batch": 4, "device": "cpu"}
    student = omnidistill.distill(teacher, recipe, data=boltz.molecules, shape=(boltz.ATOMS, 3), **keys)
    context = boltz.molecules(3, torch.Generator().manual_seed(5)).context
    x = student.sample(3, steps=2, context=context)
    assert x.shape == (3, boltz.ATOMS, 3) and bool(x.isfinite().all())
    assert not (x * ~context.mask).any() and float(x.abs().max()) > 1.0
    before, after = (
        dict(teacher.network.named_parameters()),
        dict(student.denoiser.network.named_parameters()),
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
