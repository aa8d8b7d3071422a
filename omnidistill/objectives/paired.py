"""Preferences between samples, whoever made them: no reward at hand, no likelihood of a walk needed.

`L = -E log sigmoid( -beta [ (e_S - e_0)(better) - (e_S - e_0)(worse) ] )`, e the error of a belief about a sample that
is noised to x_t, both sides by one noise, weighted by w(t); 0 is the student at its start (Wallace et al. 2023,
Diffusion-DPO, arXiv:2311.12908, whose step-wise bound this is; for tokens e is their cross-entropy). Where x_t says
nothing, p is the share of pairs in which 1 was preferred to -1, and e is half a square, its optimum is
`D_S = D_0 + logit(p) / (2 beta)`.

`own` (SAIL, arXiv:2602.05380: self-amplified iterative learning): for a share of the pairs the student as it was when
the round began makes `candidates` samples under one condition and says itself which it prefers, by its implicit reward
`R(x) = E (e_0 - e_mentor)(x)` over `looks` noised copies: what preferences have taught it so far. The pairs of a batch
whose two sides lie furthest apart are taken, the others are those of people: a ranked mixture. In the first round it
has no preference of its own, so that all pairs are people's.

| paper | options |
|---|---|
| Diffusion-DPO | `own: 0` |
| SAIL | `own`, `rounds` |
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.data import preferences
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.policy_gradient import size_of, summed
from omnidistill.objectives.reward import Judged
from omnidistill.objectives.step import Step
from omnidistill.random import uniform
from omnidistill.times import Times, Uniform
from omnidistill.weights import weight


class Paired(Judged):
    """
    Args:
        judged: rewards and weights, as the first two options of `Judged`: they judge two samples of the student at its
            start where there is no file, else they are measured alone.
        pairs: file of stored pairs, see `omnidistill.data.preferences`.
        beta: how firmly the start is held; larger is firmer.
        times: of the noised samples.
        weighting: w(t) of the errors, a name of `weights.WEIGHTS`.
        own: share of the pairs that the student makes and judges itself.
        rounds: times that who makes them is replaced by the student.
        candidates: samples under one condition, of which the best and the worst become a pair.
        looks: noised copies by which one is judged.
        more: further options of `Judged`.
    """

    family = "paired"

    def __init__(
        self,
        *judged: Any,
        pairs: str | None = None,
        beta: float = 50.0,
        times: Times = Uniform(0.02, 1.0),
        weighting: str = "uniform",
        own: float = 0.0,
        rounds: int = 4,
        candidates: int = 2,
        looks: int = 4,
        **more: Any,
    ) -> None:
        self.stored = None if pairs is None else preferences.read(pairs)
        self.online = pairs is None
        if self.online or any(judged) or any(more.values()):
            super().__init__(*judged, **more)
        if beta <= 0.0 or not 0.0 <= own <= 1.0:
            raise UserError(f"paired.beta is above 0 and own a share, got {beta} and {own}")
        if rounds < 1 or candidates < 2 or looks < 1:
            raise UserError(
                f"paired.rounds and looks are from 1, candidates from 2 on, got {rounds}, {looks} and {candidates}"
            )
        self.beta, self.times, self.weighting, self.own = beta, times, weighting, own
        self.rounds, self.candidates, self.looks = rounds, candidates, looks
        self.roles = {"reference": RoleSpec(start="student", refresh=0)}
        if own:
            self.roles["mentor"] = RoleSpec(start="student", refresh=rounds)
        self.needs = frozenset()

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        shown: dict[str, Tensor] = {}
        with torch.no_grad():
            better, worse, context, told = self._pairs(step, shown)
            if self.own:
                better, worse, context, told = self._mixed(step, better, worse, context, told, shown)
            t = self.times(len(better), step.path, step.g).to(better.device)
            first, second = self._noised(step, (better, worse), t, context)
            held = self._errors(step["reference"], step, (better, first), (worse, second), t, context)
        own = self._errors(step["student"], step, (better, first), (worse, second), t, context)
        margin = -self.beta * ((own[0] - held[0]) - (own[1] - held[1]))
        loss = -(told * torch.nn.functional.logsigmoid(margin)).sum() / told.sum().clamp_min(1.0)
        shown["paired/told_apart"] = told.mean()
        shown["paired/right"] = ((margin.detach() > 0) * told).sum() / told.sum().clamp_min(1.0)
        return Losses({"paired": loss}, shown)

    # --- pairs ------------------------------------------------------------------------------------------------------

    def _pairs(self, step: Step, shown: dict[str, Tensor]) -> tuple[Tensor, Tensor, Context, Tensor]:
        """Better, worse, their context and 1 where one was preferred: of people, or of who stands for them."""
        count = len(step.like)
        if self.stored is not None:
            index = (uniform(torch.empty(count), step.g) * len(self.stored)).long()
            better, worse, context = self.stored.rows(index, step.like, step.path)
            context = self._fitted(context, step.context, step.like)
            return better, worse, context, torch.ones(count, device=better.device)
        one, other = (self._made(step, "reference") for _ in range(2))
        found = [self.rewards.each(x, step.batch.x0, step.context) for x in (one, other)]
        shown.update(self.rewards.shown(found[0], one, step.batch.x0, step.context))
        first, second = (self.rewards.total(each) for each in found)
        better, worse = _sorted(one, other, first >= second)
        return better, worse, step.context, (first != second).float()

    def _fitted(self, found: Context, asked: Context, like: Tensor) -> Context:
        """The context of stored pairs, with what that of the task has."""
        assert self.stored is not None
        if asked.anchor is not None:
            raise UserError(
                f"{self.stored.file} holds no anchors, and this task's samples have them; give rewards"
            )
        if (found.condition is None) != (asked.condition is None):
            raise UserError(
                f"{self.stored.file} has {'no' if found.condition is None else 'a'} condition for each pair, and the "
                f"task's samples have {'one' if found.condition is None else 'none'}"
            )
        if asked.mask is not None and found.mask is None:
            return replace(
                found, mask=torch.ones_like(asked.mask[:1]).expand(len(like), *asked.mask.shape[1:])
            )
        return found

    @staticmethod
    def _known(context: Context) -> Context:
        return Context(context.condition, mask=context.mask)

    def _made(self, step: Step, who: str) -> Tensor:
        spec = step.spec
        return spec.sampler.sample(step[who], step.like, spec.steps, step.context, g=step.g).x0

    def _mixed(
        self,
        step: Step,
        better: Tensor,
        worse: Tensor,
        context: Context,
        told: Tensor,
        shown: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Context, Tensor]:
        """The student's own pairs in place of as many as are to be, where it prefers one at all."""
        made = [self._made(step, "mentor") for _ in range(self.candidates)]
        ranks = torch.stack(self._implicit(step, made))
        order = ranks.sort(0).indices
        rows = torch.arange(ranks.shape[1], device=ranks.device)
        stack = torch.stack(made)
        best, least = stack[order[-1], rows], stack[order[0], rows]
        margin = ranks.max(0).values - ranks.min(0).values
        # The first round's student is its own reference, and rounding is no preference.
        place = margin.argsort(descending=True).argsort()
        taken = (place < round(self.own * len(margin))) & (margin > 1e-6)
        shown["paired/own"] = taken.float().mean()
        mixed = _either(taken, best, better), _either(taken, least, worse)
        mine = context if context is step.context else _chosen(taken, self._known(step.context), context)
        return *mixed, mine, torch.where(taken, 1.0, told)

    def _implicit(self, step: Step, made: list[Tensor]) -> list[Tensor]:
        """Float[b] of each candidate: R."""
        found = [torch.zeros(len(one), device=one.device) for one in made]
        for _ in range(self.looks):
            t = self.times(len(step.like), step.path, step.g).to(step.like.device)
            states = self._noised(step, made, t, step.context)
            for i, (x0, x_t) in enumerate(zip(made, states, strict=True)):
                start, now = (
                    self._error(step[who](x_t, t, step.context), x0, t, step, step.context)
                    for who in ("reference", "mentor")
                )
                found[i] = found[i] + (start - now).float() / self.looks
        return found

    # --- errors -----------------------------------------------------------------------------------------------------

    def _noised(self, step: Step, samples: Any, t: Tensor, context: Context) -> list[Tensor]:
        """Each sample noised by the same noise."""
        state, found = step.g.get_state(), []
        for x0 in samples:
            step.g.set_state(state)
            found.append(step.path.corrupt(x0, t, context, g=step.g))
        return found

    def _errors(
        self, model: Denoiser, step: Step, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], t: Tensor,
        context: Context,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """e of both sides, Float[b] each, from one call."""
        both = context.joined(context)
        belief = model(torch.cat((one[1], other[1])), torch.cat((t, t)), both)
        error = self._error(belief, torch.cat((one[0], other[0])), torch.cat((t, t)), step, both)
        first, second = error.chunk(2)
        return first, second

    def _error(self, belief: Any, x0: Tensor, t: Tensor, step: Step, context: Context) -> Tensor:
        """Float[b]: w(t) times the mean error over a sample's real elements."""
        error = belief.divergence(step.path.certain(x0), "nll")
        share = summed(error, context.mask) / size_of(error, context.mask)
        return weight(self.weighting, step.path, t).to(share) * share

    def cost(self, role: str) -> Calls:
        """With walks of one step."""
        if role != "student":
            return {}
        mine = self.candidates * self.looks if self.own else 0
        calls = {"student": 1, "reference": 1 + (2 if self.online else 0) + mine}
        return calls | ({"mentor": self.candidates + mine} if self.own else {})


def _sorted(one: Tensor, other: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return _either(first, one, other), _either(first, other, one)


def _either(where: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Row by row."""
    return torch.where(where.reshape(-1, *[1] * (one.ndim - 1)).to(one.device), one, other)


def _chosen(where: Tensor, one: Context, other: Context) -> Context:
    """Row by row the condition and the mask of one context or of another."""
    rows = torch.arange(len(where), device=where.device) + len(where) * (~where).long()
    return one.joined(other).map(lambda value: value[rows.to(value.device)])
