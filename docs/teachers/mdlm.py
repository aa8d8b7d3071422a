"""A network of the MDLM kind as a teacher: `forward(indices, sigma)`, raw logits with a column for the mask as well.

Its sigma is the total noise `-log alpha(t)` of the log-linear schedule `alpha = 1 - (1 - eps) t` (Sahoo et al. 2024,
sec. 3.5). Which tokens are copied and that the mask is never predicted is said outside of such a network, here by
`NetworkDenoiser`. Real weights: the backbone of `AutoModelForMaskedLM.from_pretrained(folder)`, with its vocabulary.

    python docs/teachers/mdlm.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import MaskedPath

EPS = 1e-3


class Mdlm(nn.Module):
    """Tokens Long[b n] with the mask as the last one, t in [0, 1] -> logits Float[b n vocab]."""

    feature_module = "backbone.layers"  # Float[b n width], for a discriminator head
    feature_axis = 2

    def __init__(self, backbone: nn.Module, vocab: int) -> None:
        super().__init__()
        self.backbone, self.vocab = backbone, vocab
        self.feature_channels = backbone.width

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        sigma = -torch.log1p(-(1.0 - EPS) * t)
        return self.backbone(x, sigma)[..., : self.vocab]


def teacher(backbone: nn.Module, vocab: int) -> NetworkDenoiser:
    path = MaskedPath(vocab, lambda t: 1.0 - (1.0 - EPS) * t)
    return NetworkDenoiser(Mdlm(backbone, vocab), path, "logits")


class Tiny(nn.Module):
    """Stands in for MDLM's transformer: it sees its neighbours and sigma."""

    def __init__(self, vocab: int, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.embed, self.noise = nn.Embedding(vocab + 1, width), nn.Linear(1, width)
        self.layers = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, vocab + 1)

    def forward(self, indices: Tensor, sigma: Tensor) -> Tensor:
        h = self.embed(indices) + self.noise(F.softsign(sigma).unsqueeze(1)).unsqueeze(1)
        return self.head(self.layers(h))


if __name__ == "__main__":
    torch.manual_seed(0)
    student = omnidistill.distill(
        teacher(Tiny(20), 20), "di-m-o", shape=(12,), updates=2, batch=4, device="cpu"
    )
    print("student's tokens:", tuple(student.sample(2).shape))
