"""Text with a closed-form teacher: sequences of a stationary Markov chain, masked or resampled tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor, nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError, unknown
from omnidistill.exact.arguments import keywords, whole
from omnidistill.exact.chain import MarkovChain, marginals
from omnidistill.exact.markov_onehot import OneHotChainDenoiser
from omnidistill.exact.render import write_whole
from omnidistill.networks.transformer import Transformer
from omnidistill.paths import MaskedPath, OneHotPath, Path, UniformPath
from omnidistill.paths.base import as_time, per_sample, undecided
from omnidistill.posteriors import IMPOSSIBLE, CategoricalPosterior
from omnidistill.samplers import Euler, Sampler
from omnidistill.shapes import TensorTime, Time, Tokens
from omnidistill.tasks import Metric, Task


class ChainDenoiser(Denoiser):
    """`p(x0_i | x_t)` of every token of a Markov chain, exact: what a perfect network would answer.

    Each x_t gives its x0 the evidence `q(x_t | x0)`: on a masked path a one-hot where the token is seen and nothing
    where it is masked; on the uniform path `alpha [x_t = x0] + (1 - alpha) / k`. Forward-backward joins them. At
    t = 1, where alpha is 0, nothing is evidence and the answer is the stationary distribution everywhere. Padding
    is no evidence either.

    Args:
        dtype: of the returned log-probabilities; float32 as from a network. The sums run in float64 whatever it is.
    """

    initial: Tensor
    transition: Tensor

    def __init__(self, chain: MarkovChain, path: Path, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(path)
        if "categorical" not in path.offers or getattr(path, "vocab", None) != chain.vocab:
            raise UserError(
                f"a chain of {chain.vocab} tokens needs a masked or uniform path over them, got {path}"
            )
        self.dtype = dtype
        self.register_buffer("initial", chain.initial)
        self.register_buffer("transition", chain.transition)

    def evidence(self, x_t: Tokens, t: Time, context: Context = Context()) -> Float64[Tensor, "b n k"]:
        """`q(x_t | x0 = a)` up to a factor per position."""
        vocab = len(self.initial)
        seen = F.one_hot(x_t.clamp(max=vocab - 1), vocab).double()
        if "uniform" in self.path.offers:
            alpha = per_sample(self.path.alpha(as_time(t, x_t)), x_t).unsqueeze(-1)  # type: ignore[attr-defined]
            likelihood = alpha * seen + (1.0 - alpha) / vocab
        else:
            likelihood = torch.ones_like(seen)
        hidden = undecided(self.path, x_t, t, context, vocab).unsqueeze(-1)
        likelihood = torch.where(hidden, likelihood, seen)
        if context.mask is None:
            return likelihood
        return torch.where(context.mask.expand(x_t.shape).unsqueeze(-1), likelihood, 1.0)

    def marginals(self, x_t: Tokens, t: Time, context: Context = Context()) -> Float64[Tensor, "b n k"]:
        """`p(x0_i = a | x_t)`; they sum to 1 over a."""
        return marginals(self.initial, self.transition, self.evidence(x_t, t, context))

    def belief(
        self, x_t: Tokens, t: Time, context: Context, target_time: TensorTime | None
    ) -> CategoricalPosterior:
        log_probs = self.marginals(x_t, t, context).log().clamp_min(IMPOSSIBLE)
        return CategoricalPosterior(log_probs.to(self.dtype))


class MarkovTextTask(Task):
    """Tokens of a stationary Markov chain drawn from the seed, with its exact posterior as the teacher.

    Many teacher steps follow the chain; one step draws every token from the stationary distribution, independently of
    the others: that factorisation is what a few-step student has to overcome.

    Args:
        vocab: number k of tokens, at least 2.
        length: tokens a sequence, at least 2.
        seed: of the chain, not of the samples.
        path: `masked` (the default), `uniform`, `onehot` (one-hots under Gaussian noise: states and samples are then
            Float[b n k], of which the likeliest token is measured and shown), or such a path over the same tokens.
        teacher_steps: steps of the full teacher.
        network: `width`, `depth`, `heads` of the students' transformer, which takes sequences of at most `length`.
        sampler: of the teacher; None: `Euler`. `samplers.Confidence` reveals the surest tokens first.

    Metrics, over real (unpadded) tokens:
        bigram_tv: total variation in [0, 1] between the samples' pooled bigrams and the chain's; primary, because it
            sees mode-seeking, which likelihood rewards. With N bigrams, real samples score about 0.4 k / sqrt(N).
        nll: `-log p(x)` per token under the chain, its stationary start included, nats.
        entropy: entropy of the token frequencies WITHIN a sample, averaged over samples, nats (the "unigram entropy"
            of the masked-text literature; bounded by log(length), and lower than that of the stationary distribution).
        entropy_rate: `H(next | token)` of the pooled bigrams, nats.
    """

    dtype = torch.long
    primary = Metric("bigram_tv", "lower")

    def __init__(
        self,
        vocab: int = 12,
        length: int = 24,
        seed: int = 3,
        path: Path | str | None = None,
        teacher_steps: int = 64,
        network: Mapping[str, int] | None = None,
        sampler: Sampler | None = None,
        name: str = "exact/markov_text",
    ) -> None:
        self.name, self.vocab, self.seed = name, whole("vocab", vocab, 2), whole("seed", seed, 0)
        self.shape = (whole("length", length, 2),)
        self.teacher_steps, self._sampler = whole("teacher_steps", teacher_steps, 1), sampler or Euler()
        self.title = f"A Markov chain over {self.vocab} tokens, {self.shape[0]} long"
        self.path = _path(path, self.vocab)
        self.onehot = "simplex" in self.path.offers
        if self.onehot:
            self.shape, self.dtype = (*self.shape, self.vocab), torch.float32
        self.chain = MarkovChain.random(self.vocab, self.seed)
        self.exact_teacher()  # a path that does not fit is refused here
        options = keywords("network", network, ("width", "depth", "heads"))
        self._network = {key: whole(f"network.{key}", value, 1) for key, value in options.items()}

    def batch(self, count: int, g: torch.Generator, split: str = "train") -> Batch:
        # Draws never repeat, so training and held-out samples differ by their generator alone.
        tokens = self.chain.sample(count, self.shape[0], g)
        return Batch(
            F.one_hot(tokens, self.vocab).to(self.dtype) if self.onehot else tokens, Context(), count
        )

    def network(self, *, target_time: bool = False, guidance: bool = False) -> nn.Module:
        return Transformer(
            self.vocab,
            self.shape[0],
            **self._network,
            target_time=target_time,
            guidance=guidance,
            onehot=self.onehot,
        )

    def reading(self) -> dict[str, Any]:
        return {"parameterisation": "logits"}

    def exact_teacher(self) -> Denoiser:
        return (OneHotChainDenoiser if self.onehot else ChainDenoiser)(self.chain, self.path)

    def contexts(self, count: int, g: torch.Generator) -> Context:
        return Context()

    def like(self, count: int, device: torch.device | str = "cpu", context: Context = Context()) -> Tensor:
        """As long as what is given, or as the mask, where there is one: a chain has no length of its own."""
        if self.onehot and context.mask is not None:
            return torch.empty((count, context.mask.shape[1], self.vocab), dtype=self.dtype, device=device)
        known = context.mask if context.anchor is None else context.anchor
        shape = (count, *self.shape) if known is None else known.shape
        return torch.empty(shape, dtype=self.dtype, device=device)

    def sampler(self) -> Sampler:
        return self._sampler

    def file_suffix(self) -> str:
        return ".jsonl"

    def measure(self, x0: Tensor, context: Context, g: torch.Generator) -> dict[str, float]:
        tokens, real = self._tokens(x0, context)
        both = real[:, 1:] & real[:, :-1]
        pairs = (tokens[:, :-1] * self.vocab + tokens[:, 1:])[both]
        bigrams = torch.bincount(pairs, minlength=self.vocab**2).double().reshape(self.vocab, self.vocab)
        bigrams = bigrams / bigrams.sum().clamp_min(1.0)
        counts = (F.one_hot(tokens.clamp(0, self.vocab - 1), self.vocab) * real.unsqueeze(-1)).sum(1).double()
        within = counts / counts.sum(1, keepdim=True).clamp_min(1.0)
        return {
            "bigram_tv": 0.5 * float((bigrams - self.chain.bigrams).abs().sum()),
            "nll": -float(self.chain.log_likelihood(tokens, real).sum() / real.sum()),
            "entropy": float(_entropy(within).mean()),
            "entropy_rate": float(_entropy(bigrams.flatten()) - _entropy(bigrams.sum(1))),
        }

    def bootstrap(self, x0: Tensor, context: Context, g: torch.Generator, counts: Tensor) -> Tensor:
        tokens, real = self._tokens(x0, context)
        both = real[:, 1:] & real[:, :-1]
        pairs = (tokens[:, :-1] * self.vocab + tokens[:, 1:])[both]
        owner = torch.arange(len(tokens)).unsqueeze(1).expand_as(both)[both]
        true, found = self.chain.bigrams.flatten(), []
        for row in counts.double():
            bigrams = torch.bincount(pairs, row[owner], minlength=self.vocab**2)
            found.append(0.5 * (bigrams / bigrams.sum().clamp_min(1.0) - true).abs().sum())
        return torch.stack(found)

    def _decoded(self, x0: Tensor) -> Tensor:
        """Token ids: of one-hot samples the likeliest."""
        fits = self.onehot and x0.is_floating_point() and x0.shape[-1] == self.vocab
        return (x0.argmax(-1) if fits else x0).cpu()

    def _tokens(self, x0: Shaped[Tensor, "b n ..."], context: Context) -> tuple[Tokens, Bool[Tensor, "b n"]]:
        """The samples and where they are real; a `UserError` for anything else."""
        tokens = self._decoded(x0)
        if tokens.ndim != 2 or tokens.is_floating_point() or not len(tokens):
            given = f"{tuple(x0.shape)} {x0.dtype}"
            raise UserError(f"{self.name} measures token ids of shape (count, length), got {given}")
        real = _real(tokens, context)
        low, high = int(tokens[real].min()), int(tokens[real].max())
        if low < 0 or high >= self.vocab:
            raise UserError(
                f"{self.name} has tokens 0 ... {self.vocab - 1}, got samples with {low} to {high}"
            )
        return tokens, real

    def render(self, x0: Tensor, context: Context, target: FilePath) -> list[FilePath]:
        """A picture, one row a sample and one colour a token, and the token ids, one JSON object a line."""
        from matplotlib import colormaps
        from matplotlib.image import imsave

        tokens = self._decoded(x0)
        real = _real(tokens, context)
        colours = colormaps["tab20" if self.vocab <= 20 else "turbo"].resampled(self.vocab)
        page = colours(tokens.clamp(0, self.vocab - 1).numpy())[..., :3]
        page[~real.numpy()] = 1.0
        page = page.repeat(12, axis=0).repeat(12, axis=1)
        lines = [json.dumps({"tokens": row[keep].tolist()}) for row, keep in zip(tokens, real, strict=True)]
        picture, text = (target.with_name(target.name + suffix) for suffix in (".png", ".jsonl"))

        def write(file: FilePath) -> None:
            file.write_text("\n".join(lines) + "\n")

        return [
            write_whole(picture, lambda file: imsave(file, page)),
            write_whole(text, write),
        ]


def _path(path: Path | str | None, vocab: int) -> Path:
    if not isinstance(path, str | None):
        return path
    named = {"masked": MaskedPath, "uniform": UniformPath, "onehot": OneHotPath}
    if path is not None and path not in named:
        raise unknown("path of tokens", path, named)
    return named[path or "masked"](vocab)


def _real(tokens: Tensor, context: Context) -> Tensor:
    if context.mask is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    mask = context.mask.cpu()
    return (mask.squeeze(-1) if mask.ndim > tokens.ndim else mask).expand(tokens.shape)


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(-1)
