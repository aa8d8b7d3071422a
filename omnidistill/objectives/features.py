"""Matching features: sets of the student's samples against sets of real ones, in a space in which they are compared.

`L = sum over layers of kernel({f(x_i)}, {f(y_j)})`, kernels of `objectives.kernels`, x the rollout, y data or samples
of the teacher, both noised to a time of `times`. Nothing is trained beside the student.

| paper | kernel | space |
|---|---|---|
| Embedding Loss (Ying et al. 2026, arXiv:2604.22379) | `mmd` | a network with new random weights each update |
| Teacher-Feature Drifting (Zhang et al. 2026, arXiv:2605.07327) | `drift`, `coverage` | the teacher |
| SwD (Starodubcev et al. 2025, arXiv:2503.16397), patch distributions | `mmd` of positions | the critic |
| Diffusion2GAN (Kang et al. 2024, arXiv:2405.05967) | `perceptual`, of a noise's two answers | the teacher |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.errors import UserError, unknown
from omnidistill.objectives import kernels
from omnidistill.objectives.base import BankSpec, Calls, Losses, RoleSpec
from omnidistill.objectives.compared import Compared, Positions, as_set, of_pairs, same_label
from omnidistill.objectives.heads import named
from omnidistill.objectives.kernels import KERNELS, PAIRED
from omnidistill.objectives.questions import REAL, Question
from omnidistill.objectives.regression import banked
from omnidistill.objectives.step import Step
from omnidistill.times import Times, Uniform

SPACES = ("network", "state", "given")


class Features:
    """
    Args:
        kernel: a name of `kernels.KERNELS`.
        space: what f is: inner layers of a `network`, the `state` itself, or what is `given`.
        role: the network's name; that of a role which another objective trains is read as it is, e.g. `fake_score`.
        start: what it is, where no other objective says: `teacher`, `student`, both as they start and frozen, or
            `random`; None: another's.
        redrawn: a random network has new weights in each update.
        layers: names of its layers, or `all`; None: the declared one.
        given: `f(x, context) -> Float[b c]` or `Float[b n c]`, e.g. of a pretrained network.
        positions: vectors are those of all positions (patches), of which `most` are drawn, not their mean.
        times: of the noise on both sides; None: those at which another objective asks this network.
        real, bank, teacher_steps: as of `Adversarial`.
        pairs: of `perceptual` and `squared`: `data` compares the rollout with the batch's sample of the same context;
            `teacher` the student's answer to a noise of the bank with the teacher's. Both get the same noise.
        bandwidths: of `mmd`, in units of the mean distance; radii of `drift`.
        normalise: of `drift`, see `kernels.drift`.
        coverage: weight of `kernels.coverage` beside.
        directions: of `sliced`, drawn anew each time.
        within: samples are compared within a condition (labels), not across.
    """

    rolls_out = True
    guidance_range = None

    def __init__(
        self,
        kernel: str = "mmd",
        space: str = "network",
        role: str = "features",
        start: str | None = "teacher",
        redrawn: bool = False,
        layers: Sequence[str] | str | None = None,
        given: Callable[[Tensor, Context], Tensor] | None = None,
        positions: bool = False,
        most: int = 1024,
        times: Times | None = Uniform(0.02, 0.1),
        real: str = "data",
        bank: int = 4096,
        teacher_steps: int = 16,
        pairs: str = "data",
        bandwidths: Sequence[float] = (0.2, 0.5, 1.0),
        normalise: bool = False,
        coverage: float = 0.0,
        directions: int = 64,
        within: bool = False,
    ) -> None:
        for what, value, known in (
            ("kernel of features", kernel, KERNELS),
            ("space of features", space, SPACES),
            ("real samples of features", real, REAL),
            ("pairs of features", pairs, REAL),
        ):
            if value not in known:
                raise unknown(what, value, known)
        if (space == "given") != (given is not None):
            raise UserError("families.features.given is what space=given asks; give both or neither")
        if redrawn and start != "random":
            raise UserError(f"redrawn weights are those of start=random, got start={start}")
        widths = list(bandwidths)
        if not widths or min(widths) <= 0.0 or most < 2 or directions < 1 or coverage < 0.0:
            raise UserError(
                "features need bandwidths > 0, most >= 2, directions >= 1 and coverage >= 0, got "
                f"{widths}, {most}, {directions} and {coverage}"
            )
        if within and (positions or kernel in ("linear", "sliced", *PAIRED)):
            raise UserError(f"within=true compares samples of mmd, energy and drift, got kernel={kernel}")
        self.kernel, self.space, self.role, self.given = kernel, space, role, given
        self.layers, self.positions, self.most, self.times = named(layers), positions, most, times
        self.banked = kernel in PAIRED and pairs == "teacher"
        self.among = "teacher" if self.banked else real
        self.bank = BankSpec(bank, teacher_steps) if self.among == "teacher" else None
        self.bandwidths, self.normalise, self.coverage = widths, normalise, coverage
        self.directions, self.within = directions, within
        self.roles: dict[str, RoleSpec] = {}
        if space == "network":
            self.roles[role] = (
                RoleSpec() if start is None else RoleSpec(start, frozen=True, redrawn=redrawn or None)
            )
        self.rolls_out = not self.banked
        needs = {"differentiable", "data" if self.among == "data" else "deterministic"}
        self.needs = frozenset(needs | ({"gaussian"} if kernel in PAIRED and space == "network" else set()))

    # --- what is compared -----------------------------------------------------------------------------------------

    def questions(self, role: str) -> list[Question]:
        """Of the network: features of the noised rollout and of what is real."""
        if role != "student" or self.space != "network" or self.banked:
            return []
        return [
            Question(
                self.role,
                self.times,
                features=True,
                real=True,
                layers=self.layers,
                among=self.among,
                paired=self.kernel in PAIRED,
            )
        ]

    def losses(self, role: str, step: Step) -> Losses | None:
        if role != "student":
            return None
        terms, shown = [], {}
        for i, layer in enumerate(self._compared(step)):
            loss, size = self._apart(step, layer)
            terms.append(loss)
            shown[f"features/{self.kernel}/{i}"] = size
        return Losses({"features": torch.stack(terms).sum()}, shown if step.logged else {})

    def _compared(self, step: Step) -> list[Compared]:
        if self.banked:
            return self._of_pairs(step)
        if self.space == "network":
            seen, model = step.answer(*self.questions("student")), step[self.role]
            assert seen.data is not None
            return [
                Compared(
                    model.positions(seen.found[name], step.context),
                    model.positions(seen.of_data[name], seen.data.context),
                    step.context,
                    seen.data.context,
                )
                for name in seen.names
            ]
        real, context = step.real(self.among)
        fake = step.rollout.x0
        return [self._outside(fake, step.context, real.to(fake.dtype), context)]

    def _outside(self, fake: Tensor, own: Context, real: Tensor, other: Context) -> Compared:
        def of(x: Tensor, context: Context) -> Positions:
            found = x.flatten(1) if self.given is None else self.given(x, context)
            if found.ndim == 2:
                found = found.unsqueeze(1)
            return found, torch.ones_like(found[..., 0])

        return Compared(of(fake, own), of(real, other), own, other)

    def _of_pairs(self, step: Step) -> list[Compared]:
        """The student's and the teacher's answers to one noise."""
        pair, student = banked(step), step["student"]
        t = pair.top.expand(len(pair.x_1))
        told = torch.zeros_like(t) if student.wants_target else None
        x0 = student(pair.x_1, t, pair.context, target_time=told).sample(step.g, pair.context.mask)
        if self.space != "network":
            return [self._outside(x0, pair.context, pair.x0, pair.context)]
        return of_pairs(step, self.role, self.layers, self.times or Uniform(), x0, pair.x0, pair.context)

    # --- how far apart --------------------------------------------------------------------------------------------

    def _apart(self, step: Step, layer: Compared) -> tuple[Tensor, Tensor]:
        """The loss of a layer, and what to log of it."""
        if self.kernel in PAIRED:
            between = kernels.perceptual if self.kernel == "perceptual" else kernels.squared
            loss = between(layer.fake[0], layer.real[0].detach(), layer.fake[1])
            return loss, loss.detach()
        most = self.most if self.positions else None
        x, y = as_set(layer.fake, step.structure, most), as_set(layer.real, step.structure, most).detach()
        same_x, same_y, same = same_label(layer) if self.within else (None, None, None)
        if self.kernel == "sliced":
            count = min(len(x), len(y))
            g = step.structure
            lines = torch.randn(x.shape[1], self.directions, generator=g, device=g.device).to(x)
            loss = kernels.sliced(x[:count], y[:count], lines / lines.norm(dim=0))
            size = loss
        elif self.kernel == "drift":
            fields = [kernels.field(x, y, radius, same_x, same) for radius in self.bandwidths]
            unit = kernels.scale(x, y)
            loss = kernels.drift(x / unit, [v / unit for v in fields], self.normalise)
            size = torch.stack([v.square().mean().sqrt() for v in fields]).mean() / unit
        elif self.kernel == "linear":
            loss = size = kernels.linear(x, y) / kernels.scale(x, y) ** 2
        else:
            unit = kernels.scale(x, y)
            kernel = kernels.distance if self.kernel == "energy" else kernels.gaussian(self.bandwidths, unit)
            loss = kernels.u_statistic(x, y, kernel, same_x, same_y, same)
            loss = loss / unit if self.kernel == "energy" else loss
            size = loss
        if self.coverage:
            loss = loss + self.coverage * kernels.coverage(x, y, min(self.bandwidths), same)
        return loss, size.detach()

    def cost(self, role: str) -> Calls:
        if role != "student":
            return {}
        return {"student": 1, self.role: 2} if self.space == "network" else {"student": 1}
