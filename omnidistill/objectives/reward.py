"""Reward: the student's answer is moved up the gradient of something measurable about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import RunError, UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.latent_proxy import LatentProxy
from omnidistill.objectives.reduction import reduce
from omnidistill.objectives.step import Step
from omnidistill.times import Times, Uniform

Rewarding = Callable[[Tensor, Tensor | None, Context], Tensor]
"""`reward(x0_hat, x0, context) -> Float[b]`, higher is better, differentiable in x0_hat; x0 is the batch's clean data,
None where the task has none."""

INPUTS = ("noised", "rollout")


class Rewards:
    """Several rewards and their weights: `R = sum_k w_k R_k`, for every objective that maximises something.

    Args:
        rewards: by name, each a callable as described by `Rewarding`.
        weights: w_k by name; 1 for those that are not named.
        caps: by name the value above which nothing is gained, `min(R_k, cap_k)`: a guard against answers that please
            the reward alone.
        watched: further rewards, logged and not maximised: where these fall while R rises, R is over-optimised.
    """

    def __init__(
        self,
        rewards: Mapping[str, Rewarding] | None,
        weights: Mapping[str, float] | None = None,
        caps: Mapping[str, float] | None = None,
        watched: Mapping[str, Rewarding] | None = None,
        family: str = "reward",
    ) -> None:
        self.rewards, self.weights = dict(rewards or {}), dict(weights or {})
        self.caps, self.watched = dict(caps or {}), dict(watched or {})
        if not self.rewards:
            raise UserError(
                f"objective.{family} has nothing to reward; give families.{family}.rewards={{name: ...}}"
            )
        for what, named in (("weights", self.weights), ("caps", self.caps)):
            if stray := sorted(named.keys() - self.rewards.keys()):
                raise UserError(
                    f"families.{family}.{what} names {', '.join(stray)}, the rewards are {', '.join(self.rewards)}"
                )

    def each(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> dict[str, Tensor]:
        """Float[b] by name, before weights and caps.

        Raises:
            UserError: a reward answers something else than one number a sample.
            RunError: a reward is NaN or infinite.
        """
        return {name: _scored(name, one, x0_hat, x0, context) for name, one in self.rewards.items()}

    @torch.no_grad()
    def check(self, x0_hat: Tensor, x0: Tensor | None, context: Context) -> None:
        """Asks each reward, of what is watched as well, about a task's own samples (or, where it has none, about
        zeros), so that one that cannot judge them is found before anything is trained.

        Raises:
            UserError: a reward refuses them or gives not one finite number each.
        """
        for name, one in {**self.rewards, **self.watched}.items():
            try:
                _scored(name, one, x0_hat, x0, context)
            except RunError as error:
                if x0 is not None:
                    raise UserError(f"{error} (of the task's own data)") from None

    def term(self, name: str, value: Tensor) -> Tensor:
        """`w_k min(R_k, cap_k)`."""
        capped = value if name not in self.caps else value.clamp_max(self.caps[name])
        return self.weights.get(name, 1.0) * capped

    def total(self, found: Mapping[str, Tensor]) -> Tensor:
        """Float[b]: R."""
        return torch.stack([self.term(name, value) for name, value in found.items()]).sum(0)

    def shown(
        self, found: Mapping[str, Tensor], x0_hat: Tensor, x0: Tensor | None, context: Context
    ) -> dict[str, Tensor]:
        """Means for the log, of what is watched as well."""
        shown = {f"reward/{name}/mean": value.detach().mean() for name, value in found.items()}
        with torch.no_grad():
            for name, one in self.watched.items():
                shown[f"reward/{name}/watched"] = _scored(name, one, x0_hat.detach(), x0, context).mean()
        return shown

    @torch.no_grad()
    def figures(
        self, x0: Tensor, truth: Tensor | None, context: Context, part: int = 256
    ) -> dict[str, float]:
        """The mean of each over samples, of what is watched as well, as `reward_NAME`; without those that need clean
        data where there are none."""
        found = {}
        for name, one in {**self.watched, **self.rewards}.items():
            try:
                values = [
                    _scored(
                        name, one, x0[i : i + part], None if truth is None else truth[i : i + part],
                        context[i : i + part],
                    )
                    for i in range(0, len(x0), part)
                ]  # fmt: skip
            except UserError:
                continue
            found[f"reward_{name}"] = float(torch.cat(values).double().mean())
        return found


def _scored(name: str, one: Rewarding, x0_hat: Tensor, x0: Tensor | None, context: Context) -> Tensor:
    value = one(x0_hat, x0, context)
    if not isinstance(value, Tensor) or value.shape != x0_hat.shape[:1]:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"reward '{name}' answers {shape} for {len(x0_hat)} samples; it must give one number each"
        )
    if not bool(value.isfinite().all()):
        bad = int((~value.detach().isfinite()).sum())
        raise RunError(
            f"reward '{name}' is NaN or infinite for {bad} of {len(value)} samples; cut it off or floor it"
        )
    return value


class Judged:
    """What all objectives that maximise something are: they have rewards, and options that say which.

    Args:
        rewards, weights, caps, watched: see `Rewards`.
    """

    family = "reward"
    """What messages call its options."""

    bank = None
    guidance_range = None
    rolls_out = False

    def __init__(
        self,
        rewards: Mapping[str, Rewarding] | None = None,
        weights: Mapping[str, float] | None = None,
        caps: Mapping[str, float] | None = None,
        watched: Mapping[str, Rewarding] | None = None,
    ) -> None:
        self.rewards = Rewards(rewards, weights, caps, watched, self.family)
        self.roles: dict[str, RoleSpec] = {}
        self.needs: frozenset[str] = frozenset()

    def hold(self, weight: float, always: bool = False) -> None:
        """Keeps the student at its start as the role `reference`, where there is a weight to hold it there by.

        Raises:
            UserError: a weight below 0.
        """
        if weight < 0.0:
            raise UserError(f"families.{self.family}.anchor is at least 0, got {weight:g}")
        if weight or always:
            self.roles = {**self.roles, "reference": RoleSpec(start="student", refresh=0)}


class Reward(Judged):
    """`L = -E sum_k w_k R_k(x0_hat, x0, context)` (reward feedback learning: Xu et al. 2023, ImageReward, eq. 3; as the
    auxiliary losses of ROSE-CD, Xu et al. 2025), and `anchor / 2 |x0_hat - x0_hat_start|^2`: for a student that answers
    with its mean and a reward `-|x - p|^2 / 2` the optimum is `(n p + a m_start) / (n + a)` over n elements a sample.

    Args:
        judged: rewards and weights, as the first two options of `Judged`.
        inputs: whose answer is judged: `noised`, the student's belief about the batch's data noised to a time of
            `times`; `rollout`, the sample that the step's other objectives look at.
        times: for `noised`.
        anchor: weight of the squared distance to what the student at its start answers at the same state: a guard
            against answers that please the reward alone.
        proxy: that learns the rewards beside the student, which then maximises it in their place; see `latent_proxy`.
        more: further options of `Judged`.
    """

    def __init__(
        self,
        *judged: Any,
        inputs: str = "rollout",
        times: Times = Uniform(),
        anchor: float = 0.0,
        proxy: LatentProxy | None = None,
        **more: Any,
    ) -> None:
        super().__init__(*judged, **more)
        if inputs not in INPUTS:
            raise UserError(f"unknown inputs '{inputs}' of a reward; possible: {', '.join(INPUTS)}")
        self.inputs, self.times, self.anchor, self.proxy = inputs, times, anchor, proxy
        self.rolls_out = inputs == "rollout"
        self.hold(anchor)
        self.needs = frozenset({"differentiable"} | ({"data"} if inputs == "noised" else set()))
        if proxy is not None:
            self.roles, self.needs = {**proxy.roles, **self.roles}, self.needs | proxy.needs

    def losses(self, role: str, step: Step) -> Losses | None:
        if self.proxy is not None and role == self.proxy.role:
            with torch.no_grad():
                given = self._answer(step)
            return self.proxy.losses(step, self.rewards, *given)
        if role != "student":
            return None
        answer, x_t, t, told = self._answer(step)
        if self.proxy is not None:
            terms, shown = self.proxy.maximised(step, self.rewards, answer)
        else:
            found = self.rewards.each(answer, step.batch.x0, step.context)
            terms = {f"reward/{name}": -self.rewards.term(name, one).mean() for name, one in found.items()}
            shown = self.rewards.shown(found, answer, step.batch.x0, step.context)
        if self.anchor:
            with torch.no_grad():
                held = step["reference"](x_t, t, step.context, target_time=told).sample(
                    step.g, step.context.mask
                )
            apart = reduce(0.5 * (answer - held) ** 2, mask=step.context.mask)
            terms["anchor"], shown["reward/from_anchor"] = self.anchor * apart, apart.detach()
        return Losses(terms, shown)

    def _answer(self, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The answer judged, the state and time at which it was given, and the second time that was told."""
        if self.inputs == "rollout":
            made = step.rollout
            told = step.spec.sampler.target(step["student"], torch.zeros_like(made.t[0]))
            return made.x0, made.x_t, made.t, told
        t = self.times(step.x0.shape[0], step.path, step.g).to(step.x0.device)
        x_t = step.path.renoise(step.x0, t, step.context, g=step.g)
        return step["student"](x_t, t, step.context).sample(step.g, step.context.mask), x_t, t, None

    def cost(self, role: str) -> Calls:
        asked = {} if self.proxy is None else dict(self.proxy.cost(role))
        if role == "student":
            return {"student": 1} | ({"reference": 1} if self.anchor else {}) | asked
        return {"student": 1} | asked if asked else {}
