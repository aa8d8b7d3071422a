"""Closed forms that the objectives are tested on: exact denoisers of a Gaussian, affine students, ragged batches."""

import pytest
import torch
from torch import Tensor, nn

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser, NetworkDenoiser
from omnidistill.exact.gaussian_mixture import MixtureDenoiser
from omnidistill.exact.mixture import Mixture
from omnidistill.objectives.base import StudentSpec
from omnidistill.objectives.step import Step
from omnidistill.posteriors import CategoricalPosterior
from omnidistill.random import generator


class Affine(nn.Module):
    """`shift + scale x`, float64."""

    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None, **keywords: Tensor) -> Tensor:
        return self.shift + self.scale * x


class RaggedNet(nn.Module):
    """Float[b n c] -> Float[b n c] or, with a vocabulary, Long[b n] -> logits. Elements talk through a masked mean."""

    feature_module, feature_axis, feature_channels = "inner", 2, 8

    def __init__(self, channels: int = 3, vocab: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.tokens = None if vocab is None else nn.Embedding(vocab + 1, 8)
        self.first = nn.Linear(channels, 8)
        self.inner = nn.Linear(8, 8)
        self.last = nn.Linear(8, channels if vocab is None else vocab)
        g = generator("ragged", seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=g))
        self.double()

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        target_time: Tensor | None = None,
    ) -> Tensor:
        h = self.first(x) if self.tokens is None else self.tokens(x)
        h = h if target_time is None else h * (1.0 + target_time.reshape(-1, 1, 1).to(h.dtype))
        real = torch.ones_like(h[..., :1]) if mask is None else mask.reshape(*h.shape[:2], 1).to(h.dtype)
        mean = (h * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return self.last(torch.tanh(self.inner(torch.tanh(h + mean + t.reshape(-1, 1, 1).to(h.dtype)))))


class Table(nn.Module):
    """Free logits for each state of a short masked sequence: Long[b n] in 0 ... k -> Float[b n k]."""

    def __init__(self, logits: Tensor, vocab: int) -> None:
        super().__init__()
        self.logits, self.vocab = nn.Parameter(logits), vocab

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        base = self.vocab + 1
        index = (x * base ** torch.arange(x.shape[1])).sum(1)
        return self.logits[index]


class Float64Logits(NetworkDenoiser):
    """`logits` are read in float32; closed forms want the last digits."""

    def _read(
        self, out: Tensor, x_t: Tensor, t: Tensor, context: Context, *here: object
    ) -> CategoricalPosterior:
        coarse = super()._read(out, x_t, t, context, *here)
        undecided = self.path.unresolved(x_t, t).unsqueeze(-1)
        return CategoricalPosterior(torch.where(undecided, out.double(), coarse.parameters.double()))


class Closed:
    """What every test file here needs, as one fixture, since test folders are no packages."""

    Affine, RaggedNet, Table, Float64Logits = Affine, RaggedNet, Table, Float64Logits
    flow = staticmethod(paths.rectified_flow)

    @staticmethod
    def gaussian(mean: float, variance: float, path: paths.GaussianPath, dim: int = 1) -> MixtureDenoiser:
        """The exact denoiser of N(mean, variance I)."""
        means = torch.full((1, dim), mean, dtype=torch.float64)
        return MixtureDenoiser(path, Mixture(means, variance**0.5, torch.ones(1, dtype=torch.float64)))

    @staticmethod
    def student(shift: float, scale: float, path: paths.GaussianPath) -> NetworkDenoiser:
        """`x0 = shift + scale x_t`: at t = 1 of a rectified flow a sample of N(shift, scale^2)."""
        return NetworkDenoiser(Affine(shift, scale), path, "x0")

    @staticmethod
    def step(
        role: str,
        models: dict[str, nn.Module],
        batch: Batch,
        like: Tensor | None = None,
        seed: int = 0,
        **options,
    ) -> Step:
        """A step in which `role` trains and all else is frozen, as the engine arranges it."""
        for name, model in models.items():
            model.requires_grad_(name == role or (name == "discriminator" and role == "fake_score"))
        like = torch.empty_like(batch.x0) if like is None else like
        return Step(role, batch, models, generator("step", seed), like=like, **options)

    @staticmethod
    def free(count: int, dim: int = 1) -> tuple[Batch, Tensor]:
        """A batch without data and the `like` of its samples."""
        return Batch(None, Context(), count), torch.empty(count, dim, dtype=torch.float64)

    @staticmethod
    def gradient(losses, *parameters: Tensor) -> tuple[Tensor, ...]:
        total = torch.stack(list(losses.terms.values())).sum()
        return torch.autograd.grad(total, parameters, allow_unused=True)

    @staticmethod
    def ragged(kind: str, more: int = 0, seed: int = 0, vocab: int = 5) -> tuple[Batch, paths.Path]:
        """Four samples of 3 to 6 elements, padded to 6 + `more`; padding holds zeros."""
        g = generator("ragged batch", seed)
        lengths = torch.tensor([6, 4, 3, 5])[:, None]
        real = torch.arange(6 + more) < lengths
        whole = torch.arange(6) < lengths
        if kind == "tokens":
            x0 = torch.zeros(4, 6 + more, dtype=torch.long)
            x0[real] = torch.randint(vocab, (4, 6), generator=g)[whole]
            return Batch(x0, Context(mask=real)), paths.MaskedPath(vocab)
        x0 = torch.zeros(4, 6 + more, 3, dtype=torch.float64)
        x0[real] = torch.randn(4, 6, 3, generator=g, dtype=torch.float64)[whole]
        return Batch(x0, Context(mask=real.unsqueeze(-1))), paths.rectified_flow()

    @staticmethod
    def ragged_denoiser(
        kind: str, path: paths.Path, seed: int, vocab: int = 5, told: bool = False
    ) -> Denoiser:
        if kind == "tokens":
            return Float64Logits(RaggedNet(vocab=vocab, seed=seed), path, "logits")
        return NetworkDenoiser(RaggedNet(seed=seed), path, "x0", target_time=told)

    def check_padding(
        self, objective, kind: str, role: str = "student", bank=None, told: bool = False, **heads: nn.Module
    ) -> None:
        """The loss of `role` and its gradient are the same however much padding there is; `told`: points' denoisers
        are told where they jump to."""
        found = []
        for more in (0, 3):
            batch, path = self.ragged(kind, more)
            names = ("teacher", "student", "fake_score", "target", "mentor")
            models = {name: self.ragged_denoiser(kind, path, i, told=told) for i, name in enumerate(names)}
            step = self.step(
                role, {**models, **heads}, batch, student=StudentSpec(), bank=bank and bank(more)
            )
            trained = [
                p
                for n in (role, *(heads if role == "fake_score" else ()))
                for p in step.models[n].parameters()
            ]
            losses = objective.losses(role, step)
            gradients = self.gradient(losses, *trained)
            found.append([*losses.terms.values(), *(g for g in gradients if g is not None)])
            assert any(bool((g != 0).any()) for g in gradients if g is not None)
        for short, long in zip(*found, strict=True):
            torch.testing.assert_close(long, short, rtol=1e-9, atol=1e-12)


@pytest.fixture
def closed() -> Closed:
    return Closed()
