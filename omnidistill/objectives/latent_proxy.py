"""A proxy of the rewards, learned beside the student, whose gradient the student follows in their place.

Li et al. 2024, Reward Guided Latent Consistency Distillation, arXiv:2403.11027, sec. 4.2 and the authors' code. The
expert `R = sum_k w_k min(R_k, cap_k)` looks at decoded samples, the proxy H at samples as they are, latents. With
`z_1 = sg student(x_t, t, c)` and rivals z_2 ... z_k under the same condition c it learns to prefer as the expert does:

    L_proxy   = sum_{i<j} E KL(P_ij || Q_ij),   P_ij = softmax((R(z_i, c), R(z_j, c)) / tau),   Q_ij the same of H,
    L_student = -E H(student(x_t, t, c), c).

Its optimum is `H = R + any function of c`: the student's gradient is then that of R. For large tau the loss is the
regression of differences, `sum_{i<j} E (R_i - R_j - H_i + H_j)^2 / 8 tau^2`. The expert is asked without a graph: it
need not be differentiable, and no gradient passes through a decoder.

Departures. H is a head on inner features of a denoiser at time 0, by default a copy of the teacher; the paper's is a
CLIP of latents with its last layers free (`frozen: true` leaves the head alone free). As H is not trained beforehand,
`begin={reward: 0.2}` lets it learn before the student has its term. One tau for both in place of a logit scale each, so
that H is in the units of R. The rival `target` answers at the student's own x_t, the paper's where the teacher's step
leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, Losses, RoleSpec
from omnidistill.objectives.heads import named, reader
from omnidistill.objectives.step import Step

if TYPE_CHECKING:
    from omnidistill.objectives.reward import Rewards

DATA = "data"


class LatentProxy:
    """
    Args:
        rivals: what the student's answer is compared with, and these with one another: `data`, the batch's own, or the
            answer of a model at the same state, by its name: `target` (an average that another objective keeps),
            `teacher`, `reference`.
        temperature: tau, in the units of R; differences of many tau all count as certain.
        role: whose features are read.
        start: what it starts as, see `RoleSpec`.
        frozen: the trunk stays as it starts, and the head alone is trained.
        layers, width: of the head, see `Adversarial`.
        updates, lr: of the proxy for one of the student, and its learning rate as a multiple of the student's.
        name: of the head.
    """

    def __init__(
        self,
        rivals: Sequence[str] = (DATA, "target"),
        temperature: float = 1.0,
        role: str = "proxy",
        start: str | None = "teacher",
        frozen: bool = False,
        layers: Sequence[str] | str | None = None,
        width: int = 128,
        updates: int | None = None,
        lr: float | None = None,
        name: str = "proxy_head",
    ) -> None:
        self.rivals = (rivals,) if isinstance(rivals, str) else tuple(rivals)
        if role in ("student", "teacher"):
            raise UserError(f"a proxy is a role of its own beside student and teacher, got role={role}")
        if (
            not self.rivals
            or len(set(self.rivals)) < len(self.rivals)
            or {"student", role} & set(self.rivals)
        ):
            raise UserError(
                "rivals of a proxy are data or models other than student and proxy, each once; "
                f"got [{', '.join(self.rivals)}]"
            )
        if temperature <= 0.0:
            raise UserError(f"temperature of a proxy is above 0, got {temperature:g}")
        self.temperature, self.role, self.layers, self.name = temperature, role, named(layers), name
        self.asked = tuple(rival for rival in self.rivals if rival != DATA)

        def build(denoiser: Denoiser) -> nn.Module:
            return reader(denoiser, self.layers, width, None, None, 0.0, False)

        own = RoleSpec(start=start, updates=updates, lr=lr, modules={name: build}, frozen=frozen or None)
        # Rivals are named, so that one that nobody keeps is missed before the first update.
        self.roles = {name: RoleSpec() for name in self.asked if name != "teacher"} | {role: own}
        self.needs = frozenset({DATA} & set(self.rivals))

    def score(self, step: Step, x0: Tensor, context: Context) -> Float[Tensor, "b"]:
        """H(x0, c), in one call of the role."""
        model = step[self.role]
        names = tuple(model.feature_widths(self.layers))
        clean = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        _, found = model.examine(x0, clean, context, names, answered=0)
        scores: Tensor = step[self.name](torch.cat([model.pool(found[name], context) for name in names], 1))
        return scores if scores.ndim == 1 else scores.mean(1)

    def maximised(
        self, step: Step, expert: Rewards, answer: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The student's term, and what the expert says of its answer, which is for the log alone."""
        terms = {"reward/proxy": -self.score(step, answer, step.context).mean()}
        if not step.logged:
            return terms, {}
        judged = (answer, step.batch.x0, step.context)
        with torch.no_grad():
            return terms, expert.shown(expert.each(*judged), *judged)

    def losses(
        self,
        step: Step,
        expert: Rewards,
        answer: Tensor,
        x_t: Tensor,
        t: Tensor,
        told: Tensor | None,
    ) -> Losses:
        """Of the proxy's own update: `answer` is the student's at x_t and t, told this second time."""
        context = step.context
        with torch.no_grad():
            samples = [
                answer.detach(),
                *(self._rival(step, name, x_t, t, told).to(answer) for name in self.rivals),
            ]
            wanted = torch.stack([expert.total(expert.each(x0, step.batch.x0, context)) for x0 in samples])
        together = context
        for _ in self.rivals:
            together = together.joined(context)
        found = self.score(step, torch.cat(samples), together).reshape(len(samples), -1)
        step[self.role].count(len(self.rivals))  # as many batches in one call
        loss = disagreement(wanted.to(found), found, self.temperature)
        return Losses({"proxy": loss}, {"proxy/agreement": _agreed(wanted, found.detach())})

    def _rival(self, step: Step, name: str, x_t: Tensor, t: Tensor, told: Tensor | None) -> Tensor:
        if name == DATA:
            return step.x0
        model, context = step[name], step.context
        s = told if model.wants_target else None
        return model(x_t, t, context, target_time=s).sample(step.g, context.mask)

    def cost(self, role: str) -> Calls:
        """Of the proxy alone, without the answer that it looks at."""
        if role == "student":
            return {self.role: 1}
        return {self.role: 1 + len(self.rivals), **dict.fromkeys(self.asked, 1)} if role == self.role else {}


def disagreement(
    expert: Float[Tensor, "k b"], proxy: Float[Tensor, "k b"], temperature: float
) -> Float[Tensor, ""]:
    """`sum_{i<j} mean_b KL(softmax((R_i, R_j) / tau) || softmax((H_i, H_j) / tau))`."""
    i, j = zip(*combinations(range(len(expert)), 2), strict=True)
    wanted, found = (
        torch.log_softmax(torch.stack((of[list(i)], of[list(j)])) / temperature, 0) for of in (expert, proxy)
    )
    return (wanted.exp() * (wanted - found)).sum(0).mean(1).sum()


def _agreed(expert: Tensor, proxy: Tensor) -> Tensor:
    """Share of the pairs that the expert tells apart whose better one is the better one of the proxy, too."""
    i, j = torch.triu_indices(len(expert), len(expert), 1, device=expert.device)
    wanted, found = expert[i] - expert[j], proxy[i] - proxy[j]
    told = wanted != 0
    right = (told & (wanted.sign() == found.sign())).sum()
    return torch.stack((right, told.sum())).to(proxy.dtype)
