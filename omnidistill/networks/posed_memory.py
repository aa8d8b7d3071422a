"""Attention from a cloud of labelled points to learned clouds in every orientation: for rigid clouds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnidistill.errors import UserError
from omnidistill.networks.embeddings import LinearEmbedding, TimeEmbedding, told, zero
from omnidistill.networks.features import Answer, Asked
from omnidistill.networks.forward_mode import exact
from omnidistill.networks.mlp import Blocks
from omnidistill.random import generator

SQUARINGS = 6
"""The sharpest orientation is `(1 + c)^64` of a match c in [-1, 1]."""
SCALE = 4.0
"""A learned cloud is so many times its parameter: it has far to go, and the optimiser's steps are of one length."""


class PosedMemory(nn.Module):
    """`f(x) = e^a (sum_m w_m (C_m + g) R_m^T - e^b x)` with learned clouds C_m: `R_m = R(x, C_m)` turns x onto C_m, w_m
    says how well it then matches, both softly, and g is a residual perceptron's answer to `sum_m w_m x R_m`; so
    `f(x Q) = f(x) Q` for every rotation Q, and for no reflection.

    R_m is the mean rotation, and w_m the share, under densities `k(tr(R^T x^T C_m))` for a power k that time chooses:
    what the posterior mean of rigid shapes in every orientation looks like, with the shapes unknown. A perceptron on
    coordinates, even in a frame of its own (canonicalisation: Kaba et al. 2023), has to find bilinear matches and a
    choice between them through its layers, and where a frame is ambiguous it jumps; this does not, for R_m fades there.

    Args:
        points: of every cloud; what pads a longer one is not read, and answered by 0.
        clouds: learned ones, more than there are shapes: some are not found.
        width, depth: of g, see `MLP`; target_time, guidance: as there.
    """

    feature_module = "blocks"  # its output, Float[b width], is what a discriminator head reads
    feature_axis = 1
    returns_features = True
    turns: Tensor

    def __init__(
        self,
        points: int,
        clouds: int = 16,
        width: int = 128,
        depth: int = 2,
        target_time: bool = False,
        guidance: bool = False,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.points, self.feature_channels = points, width
        self.time = TimeEmbedding(embedding)
        drawn = torch.randn(clouds, points, 3, generator=generator("clouds", points))
        self.clouds = nn.Parameter(drawn / (SCALE * 3**0.5))
        # Of orientations: how sharp; of the choice: its power; a and b; a bias of each cloud.
        self.gates = zero(nn.Linear(embedding, 4 + clouds))
        self.first = nn.Linear(3 * points + clouds, width)
        self.blocks = Blocks(width, depth, embedding)
        self.last = zero(nn.Linear(width, 3 * points))
        self.register_buffer("turns", quadratic(), persistent=False)
        # Made last: the layers above draw the same initial weights with and without them.
        self.target_time = LinearEmbedding(embedding, silent=True) if target_time else None
        self.guidance = LinearEmbedding(embedding, silent=True) if guidance else None

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        target_time: Tensor | None = None,
        guidance: Tensor | None = None,
        mask: Tensor | None = None,
        features: Sequence[str] | None = None,
        answered: int | None = None,
    ) -> Answer:
        """x: Float[b n 3]; t, target_time, guidance: Float[b]; mask: Bool[b n 1], real points first -> Float[b n 3]."""
        if x.shape[1] < self.points or (mask is None and x.shape[1] != self.points):
            raise UserError(f"this network was built for clouds of {self.points} points, got {x.shape[1]}")
        film = F.silu(told(self, t, None, target_time, guidance))
        asked, padding = Asked(features, answered), x.shape[1] - self.points
        gates = self.gates(film)
        # Orientations under autocast too: a power of 64 of what is known to 1/256 is not known.
        with torch.autocast(x.device.type, enabled=False):
            x = exact(x[:, : self.points])
            x = x - x.mean(1, keepdim=True)
            sharpness, power, a, b = exact(gates[:, :4]).unsqueeze(-1).unbind(1)
            turn, match = self._matched(x, torch.sigmoid(sharpness))
            share = (power.exp() * match + exact(gates[:, 4:])).softmax(1)
            turn = share * turn
            mean = turn.sum(-1).permute(2, 0, 1)
            seen = x @ mean
        h = self.blocks(self.first(torch.cat((seen.flatten(1), share), 1)), film)
        if (some := asked.note("blocks", h)) is not None:
            if not answered:
                return asked.result(None)
            h, x, turn, mean, a, b = h[some], x[some], turn[:, :, some], mean[some], a[some], b[some]
        inner = self.last(F.silu(h)).unflatten(1, (self.points, 3))
        with torch.autocast(x.device.type, enabled=False):
            rigid = torch.einsum("mnj,ijbm->bni", self._centred(), turn)
            answer = rigid + exact(inner) @ mean.mT
            answer = a.exp().unsqueeze(-1) * (answer - b.exp().unsqueeze(-1) * x)
        return asked.result(F.pad(answer, (0, 0, 0, padding)))

    def _centred(self) -> Tensor:
        return SCALE * exact(self.clouds - self.clouds.mean(1, keepdim=True))

    def _matched(self, x: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
        """Float[3 3 b m], the mean rotation onto each cloud, and Float[b m], the log of the mean density.

        With `K(F)` such that `tr(R^T F) = q^T K q` for the quaternion q of R, `(1 + c K)^64` by squaring is a density's
        second moment of q up to its trace, smooth in F also where the best rotation is not unique. `|K| <= 1` for an F
        that is divided by the sizes of both clouds.
        """
        clouds = self._centred()
        size = x.flatten(1).norm(dim=1).unsqueeze(1) * clouds.flatten(1).norm(dim=1)
        f = torch.einsum("bni,mnj->ijbm", x, clouds) / size.clamp_min(1e-12)
        eye = torch.eye(4, dtype=x.dtype, device=x.device)[..., None, None]
        k = torch.einsum("pq,pbm->qbm", self.turns, f.flatten(0, 1)).unflatten(0, (4, 4))
        moment = eye + sharpness * k
        for _ in range(SQUARINGS):
            # Symmetric, and with the clouds last: the sum of products is a quicker square than small matrix products.
            moment = (moment.unsqueeze(1) * moment.unsqueeze(0)).sum(2)
        # Of K the trace is 0, so that this one lies between 1 and 4 * 2^64, within single precision.
        trace = moment.diagonal(dim1=0, dim2=1).sum(-1)
        turn = torch.einsum("pq,qbm->pbm", self.turns, (moment / trace).flatten(0, 1)).unflatten(0, (3, 3))
        return turn, trace.log()


def quadratic() -> Tensor:
    """Float[9 16]: the rotation of a unit quaternion q is `R_ij = sum_ab T_ijab q_a q_b`, symmetric in a and b. Also
    `tr(F^T R) = q^T K q` with `K_ab = sum_ij T_ijab F_ij` (Davenport 1968)."""
    t = torch.zeros(3, 3, 4, 4)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        t[i, i].diagonal().copy_(torch.tensor([1.0 if a in (0, i + 1) else -1.0 for a in range(4)]))
        # R_jk = 2 (q_j q_k - w q_i) and R_kj = 2 (q_j q_k + w q_i), each product half here, half there.
        for row, column, sign in ((j, k, -1.0), (k, j, 1.0)):
            t[row, column, j + 1, k + 1] = t[row, column, k + 1, j + 1] = 1.0
            t[row, column, 0, i + 1] = t[row, column, i + 1, 0] = sign
    return t.reshape(9, 16)
