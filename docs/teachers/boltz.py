"""A diffusion module of the Boltz kind as a teacher: atoms in Angstrom, a mapping of trunk outputs as the condition.

It is called with coordinates already divided by sqrt(sigma^2 + 16^2) and with log(sigma / 16) / 4, answers with a
mapping whose `r_update` is the F of Karras et al. (2022, table 1), and numbers its noise levels in multiples of 16
Angstrom. A real module is wrapped in the same way; its trunk is run once for a molecule, and what it says goes into the
condition. The one here is tiny and random, so that this runs without a download:

    python docs/teachers/boltz.py
"""

import math

import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import RigidMotion, edm

SIGMA_DATA = 16.0  # Angstrom
ATOMS, TOKENS, WIDTH = 12, 5, 32


class Boltz(nn.Module):
    """Atoms Float[b n 3] over sqrt(sigma^2 + 16^2), log(sigma)/4, trunk outputs, mask Bool[b n 1] -> F Float[b n 3]."""

    feature_module = "score_model.norm"  # Float[b tokens width], for a discriminator head
    feature_axis = 2

    def __init__(self, score_model: nn.Module, width: int) -> None:
        super().__init__()
        self.score_model, self.feature_channels = score_model, width

    def forward(self, x: Tensor, time: Tensor, condition: dict, *, mask: Tensor) -> Tensor:
        feats = {**condition["feats"], "atom_pad_mask": mask.squeeze(-1).to(x.dtype)}
        trunk = {key: value for key, value in condition.items() if key != "feats"}
        times = time - math.log(SIGMA_DATA) / 4
        return self.score_model(r_noisy=x, times=times, feats=feats, multiplicity=1, **trunk)["r_update"]


def teacher(score_model: nn.Module, width: int) -> NetworkDenoiser:
    """Boltz-1's noise levels: 4e-4 to 160, in multiples of sigma_data, on a grid of rho = 8."""
    path = edm(4e-4 * SIGMA_DATA, 160 * SIGMA_DATA, rho=8.0, symmetry=RigidMotion())
    network = Boltz(score_model, width)
    return NetworkDenoiser(
        network, path, "edm", time_input="log_sigma/4", sigma_data=SIGMA_DATA, unit_input=True
    )


class TinyScoreModel(nn.Module):
    """The signature of such a module, with a layer of attention over tokens, biased by the trunk's pairs."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.atom, self.token = nn.Linear(3, width), nn.Linear(2 * width, width)
        self.qkv, self.pair = nn.Linear(width, 3 * width), nn.Linear(2 * width, 1)
        self.norm, self.update = nn.LayerNorm(width), nn.Linear(2 * width, 3)

    def forward(
        self, s_inputs, s_trunk, z_trunk, r_noisy, times, relative_position_encoding, feats, multiplicity
    ):  # type: ignore[no-untyped-def]
        real = feats["atom_pad_mask"].unsqueeze(-1)
        to_token = feats["atom_to_token"] * real  # [b atoms tokens]
        atoms = self.atom(r_noisy) * real
        tokens = to_token.mT @ atoms + self.token(torch.cat((s_inputs, s_trunk), -1)) + times[:, None, None]
        q, k, v = self.qkv(tokens).chunk(3, -1)
        bias = self.pair(torch.cat((z_trunk, relative_position_encoding), -1)).squeeze(-1)
        mixed = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1) @ v
        a = self.norm(tokens + mixed)
        return {"r_update": self.update(torch.cat((atoms, to_token @ a), -1)) * real, "token_a": a.detach()}


def molecules(count: int, g: torch.Generator) -> Batch:
    """Stand-ins for what a trunk says of `count` molecules, whose last atoms are padding in every other one."""
    draw = lambda *shape: torch.randn(count, *shape, generator=g)  # noqa: E731
    mask = torch.ones(count, ATOMS, 1, dtype=torch.bool)
    mask[::2, -2:] = False
    to_token = torch.eye(TOKENS).repeat_interleave(3, 0)[:ATOMS].expand(count, ATOMS, TOKENS)
    condition = {
        "s_inputs": draw(TOKENS, WIDTH),
        "s_trunk": draw(TOKENS, WIDTH),
        "z_trunk": draw(TOKENS, TOKENS, WIDTH),
        "relative_position_encoding": draw(TOKENS, TOKENS, WIDTH),
        "feats": {"atom_to_token": to_token},
    }
    x0 = RigidMotion().project(SIGMA_DATA * draw(ATOMS, 3), mask)
    return Batch(x0, Context(condition, mask=mask))


if __name__ == "__main__":
    torch.manual_seed(0)
    boltz = teacher(TinyScoreModel(), WIDTH)
    student = omnidistill.distill(
        boltz, "consistency-models", data=molecules, shape=(ATOMS, 3), updates=2, batch=4, device="cpu"
    )
    context = molecules(2, torch.Generator().manual_seed(0)).context
    print("student's structures, in Angstrom:", tuple(student.sample(2, context=context).shape))
