"""Masked tokens in the order of confidence: a step keeps those that the belief is surest of, the rest is asked again.

Order is what a masked path leaves open: `MaskedPath.bridge` reveals at random, here the surest come first (Chang et al.
2022, MaskGIT, sec. 3.2), if wished block after block from left to right (Nie et al. 2025, LLaDA, sec. 2.4). Where the
order depends on the belief alone and a step reveals one token, the samples still follow the belief's law exactly;
revealing several at once, or by the probability of what was drawn, prefers likely texts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import NotOffered, UserError, unknown
from omnidistill.paths import Path
from omnidistill.paths.base import as_time, keep_given, per_sample, undecided
from omnidistill.posteriors import CategoricalPosterior, Posterior
from omnidistill.random import uniform
from omnidistill.samplers.base import Sampler
from omnidistill.shapes import Instant, Tokens

MEASURES = ("probability", "entropy", "margin")


class Confidence(Sampler):
    """Each step from t to s draws every open token and keeps the surest: as many as `MaskedPath.bridge` reveals on
    average, the share `(alpha_s - alpha_t) / (1 - alpha_t)` of the open ones, to the nearest whole number.

    Args:
        measure: what is sure: `probability` of the token drawn; little `entropy` of the belief; the `margin` between
            its two likeliest tokens.
        temperature: of the draw; 0 takes the likeliest token.
        noise: scale of Gumbel noise on the logarithm of the measure, falling with t (MaskGIT's); 0 is no noise.
        block: tokens of a block; a block is filled before the next to its right is begun. None: the whole text is one.
        grid, shift: of the times, see `Sampler`.
    """

    def __init__(
        self,
        measure: str = "probability",
        temperature: float = 1.0,
        noise: float = 0.0,
        block: int | None = None,
        grid: str = "nested",
        shift: float = 1.0,
    ) -> None:
        super().__init__(grid, shift)
        if measure not in MEASURES:
            raise unknown("measure of confidence", measure, MEASURES)
        if temperature < 0 or noise < 0 or (block is not None and block < 1):
            raise UserError(
                "confidence needs temperature >= 0, noise >= 0 and block >= 1, "
                f"got {temperature:g}, {noise:g} and {block}"
            )
        self.measure, self.temperature, self.noise, self.block = measure, temperature, noise, block

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> Tokens:
        target = s if denoiser.wants_target else None
        belief = denoiser(x_t, t, context, target_time=target)
        x0 = self.drawn(belief, context, g)
        return self.kept(denoiser.path, belief, x_t, x0, t, s, context, g)

    def drawn(self, belief: Posterior, context: Context, g: torch.Generator | None) -> Tokens:
        """A token for every place."""
        if self.temperature == 0.0:
            return belief.parameters.argmax(-1)
        if self.temperature == 1.0:
            return belief.sample(g, context.mask)
        return CategoricalPosterior(belief.parameters / self.temperature).sample(g, context.mask)

    def kept(
        self,
        path: Path,
        belief: Posterior,
        x_t: Tokens,
        x0: Tokens,
        t: Instant,
        s: Instant,
        context: Context,
        g: torch.Generator | None,
    ) -> Tokens:
        """x_s: x_t with the surest of the open tokens as in x0.

        Raises:
            NotOffered: the path is not masked: on others a token is never open.
        """
        if "masked" not in path.offers:
            raise NotOffered(f"tokens in the order of confidence need a masked path, got {path}")
        vocab: int = path.vocab  # type: ignore[attr-defined]
        open_ = undecided(path, x_t, t, context, vocab)
        if context.mask is not None:
            open_ = open_ & context.mask.expand(open_.shape)
        alpha_t, alpha_s = (path.alpha(as_time(time, x_t)) for time in (t, s))  # type: ignore[attr-defined]
        share = per_sample((alpha_s - alpha_t) / (1.0 - alpha_t), x_t.double())
        wanted = (open_.sum(1, keepdim=True) * share + 0.5).floor()
        sure = self._sureness(belief, x0)
        if self.noise:
            u = uniform(x0, g, context.mask).clamp(1e-12, 1.0 - 1e-12)
            sure = sure - self.noise * per_sample(as_time(t, x_t), sure) * (-u.log()).log()
        order = torch.where(open_, sure, -torch.inf).argsort(dim=1, descending=True, stable=True)
        if self.block is not None:  # closed tokens come last whichever block they are in
            block = torch.arange(x_t.shape[1], device=x_t.device).expand_as(x_t) // self.block
            block = torch.where(open_, block, x_t.shape[1])
            order = order.gather(1, block.gather(1, order).argsort(dim=1, stable=True))
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        decided = torch.where(rank < wanted, x0, path.mask_id)  # type: ignore[attr-defined]
        # What is neither open nor given is resolved, or padding, whose value nobody reads.
        return keep_given(torch.where(path.unresolved(x_t, t), decided, x_t), context, vocab)

    def _sureness(self, belief: Posterior, x0: Tokens) -> Float64[Tensor, "b n"]:
        """Logarithms or negative entropies: more is surer."""
        log_probs = CategoricalPosterior(belief.parameters.detach().double()).log_probs
        if self.measure == "probability":
            return log_probs.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        probs = log_probs.exp()
        if self.measure == "entropy":
            return (probs * log_probs).sum(-1)
        first, second = probs.topk(2, -1).values.unbind(-1)
        return (first - second).clamp_min(1e-300).log()
