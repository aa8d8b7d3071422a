"""The three identities of flow maps, as functions of beliefs.

For the exact map, with D the teacher's belief, `D_t` the total derivative along the trajectory and
`W = sigma' alpha - sigma alpha'`:

semigroup   `psi(x, t, r) = w psi(x, t, u) + (1 - w) psi(X_u, u, r)`, w = `Path.share`, r <= u <= t
lagrangian  `psi(x, t, r) = D(X_r, r) + C d/dr psi`, `C = sigma_r (alpha_r sigma_t - sigma_r alpha_t) / (sigma_t W_r)`
eulerian    `sigma_r/sigma_t (psi(x, t, r) - D(x, t)) + B D_t psi = 0`, `B = (alpha_r sigma_t - sigma_r alpha_t) / W_t`

On a rectified flow `C = r (t - r) / t` and `B = t - r`. With r = 0 the semigroup is plain consistency, and it alone
needs no derivative. The three characterisations are those of Boffi, Albergo and Vanden-Eijnden (2025, "How to build a
consistency model", arXiv:2505.18825: progressive, Lagrangian, Eulerian), there for velocities; for posterior means see
Discrete Flow Maps (2026, arXiv:2604.09784).

The eulerian target is psi minus the residual

`g = (psi - D) - rho (1 - sigma_r/sigma_t) (psi - D') + rho B D_t psi`, the derivative along the velocity of D',

which for D' = D and rho = 1 is the identity, and psi - D at r = t. On a rectified flow -g / t is the difference of
MeanFlow's average velocities (Geng et al. 2025, arXiv:2505.13447, eq. 10); with r = 0 on `trigflow` -g / sin is sCM's
tangent (Lu & Song 2024, arXiv:2410.11081, alg. 1) without its factor cos. g is linear in D and D', so the data may
stand in for both, and on average it is the same.

Where beliefs are points of a simplex by their logits z, `d psi = psi (z' - mean_psi z')`. A sum `psi = M + c d psi` is
then `psi (1 - c (z' - mean_psi z')) = M`, and what psi should be has the logits

`log M - log(1 - c (z' - mean_psi z'))`,

which belong to a point of the simplex whatever z' is. Half of the lagrangian identity is `M = (D(X_r, r) + psi) / 2`,
c = C / 2; the eulerian one has `M = (1 - w) D + w psi`, w = rho (1 - sigma_r/sigma_t), c = -rho B. In Discrete Flow
Maps all of psi is on the left, `log D - log(1 - C (z' - mean))` and `log D - log(sigma_r/sigma_t + B (z' - mean))`. At
the exact map that is the same; but there the argument is D / psi or a share of it, which is 0 at r = 0, and where a
token is nearly ruled out by D alone it is what rounding leaves of 1 - 1. With psi in M it is no less than 1/2 or w,
and is kept above half of that: a derivative that says less is wrong, and what it makes likely has a steeper one.
None of these is linear in D', so along the data's velocity they are not on average what they are along the mean's.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from omnidistill.context import Context
from omnidistill.denoisers import Denoiser
from omnidistill.objectives import tangents
from omnidistill.objectives.jumps import Jumps
from omnidistill.paths import Path
from omnidistill.paths.base import per_sample
from omnidistill.posteriors import Posterior, detach

LEAST = 1e-6
"""What the argument of the logarithm is kept above in any case, as in code for Discrete Flow Maps."""


def ask(student: Denoiser, x: Tensor, t: Tensor, context: Context, r: Tensor) -> Posterior:
    """psi(x, t, r); a student that is told no second time always jumps to 0."""
    return student(x, t, context, target_time=r if student.wants_target else None)


def two_jumps(
    asked: Denoiser,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    context: Context,
    g: torch.Generator,
    jumps: Jumps | None = None,
) -> Posterior:
    """Semigroup: `w psi(x, t, u) + (1 - w) psi(X_u, u, r)`; u anywhere between, or where `jumps` breaks the jump."""
    path = asked.path
    if jumps is None:
        share = torch.rand(len(t), generator=g, device=g.device, dtype=t.dtype)
        u = r + (t - r) * share.to(t.device)
    else:
        u = jumps.middle(t, r, path)
    first = ask(asked, x, t, context, u)
    x_u = path.bridge(x, first.sample(g, context.mask), t, u, context, g=g)
    return first.blend(ask(asked, x_u, u, context, r), path.share(x, x_u, t, u, r))


def arrived(
    student: Denoiser,
    psi: Posterior,
    rate: Tensor,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    context: Context,
    g: torch.Generator,
) -> Posterior:
    """Lagrangian: `D(X_r, r) + C d/dr psi`, the student's own belief where it arrives standing for D."""
    path = student.path
    x_r = path.bridge(x, detach(psi).sample(g, context.mask), t, r, context, g=g)
    end = ask(student, x_r, r, context, r)
    between, n_t, n_r = _between(path, t, r)
    c = per_sample(n_r * between / (n_t * _wronskian(path, r)), x)
    if simplex(path):
        return _sum(end, psi, torch.full_like(t, 0.5), 0.5 * c, rate)
    return end.replace(end.parameters + c * rate)


def eulerian(
    path: Path,
    psi: Posterior,
    goal: Posterior,
    along: Posterior,
    rate: Tensor,
    t: Tensor,
    r: Tensor,
    rho: float,
) -> Tensor:
    """Eulerian: what psi's parameters are to be moved by, with the sign of an error. On a simplex D is `along`, off the
    diagonal: `psi - D'` may leave it."""
    if not simplex(path):
        return residual(path, psi.parameters, goal.parameters, along.parameters, rate, t, r, rho)
    between, n_t, n_r = _between(path, t, r)
    c = -rho * per_sample(between / _wronskian(path, t), rate)
    believed = goal.blend(along, t == r)
    target = _sum(believed, psi, rho * (1.0 - n_r / n_t), c, rate)
    return psi.parameters.log_softmax(-1) - target.parameters.log_softmax(-1)


def residual(
    path: Path, psi: Tensor, goal: Tensor, along: Tensor, rate: Tensor, t: Tensor, r: Tensor, rho: float
) -> Tensor:
    """Eulerian: `(psi - D) - rho (1 - sigma_r/sigma_t) (psi - D') + rho B D_t psi`, shaped like psi."""
    between, n_t, n_r = _between(path, t, r)
    left, b = rho * (1.0 - n_r / n_t), rho * between / _wronskian(path, t)
    return psi - goal - per_sample(left, psi) * (psi - along) + per_sample(b, psi) * rate


def with_rate(
    student: Denoiser,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    context: Context,
    velocity: Tensor | None,
    derivative: str,
) -> tuple[Posterior, Tensor]:
    """psi, and its derivative: along the trajectory in t, or without a velocity in r."""
    kind: list[Posterior] = []

    def answer(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        kind[:] = [ask(student, x, t, context, r)]
        return kind[0].parameters

    low, one = torch.full_like(t, student.path.span[0]), torch.ones_like(t)
    if derivative == "difference":
        h = tangents.width_of(student, x)
        if velocity is None:
            rate = tangents.difference(lambda to: answer(x, t, to), r, low, t, h)
        else:
            speed = velocity

            def moved(at: Tensor) -> Tensor:
                return answer(x + per_sample(at - t, x) * speed, at, r)

            rate = tangents.difference(moved, t, torch.maximum(r, low), one, h)
        return ask(student, x, t, context, r), rate
    if velocity is None:
        values, rate = tangents.forward(lambda to: answer(x, t, to), (r,), (one,))
    else:
        values, rate = tangents.forward(lambda x, t: answer(x, t, r), (x, t), (velocity, one))
    return kind[0].replace(values), rate.detach()


def simplex(path: Path) -> bool:
    """Whether beliefs are points of a simplex by their logits, to which nothing can be added."""
    return "simplex" in path.offers


def _sum(belief: Posterior, psi: Posterior, w: Tensor, c: Tensor, rate: Tensor) -> Posterior:
    """`(1 - w) belief + w psi + c d psi` where psi is that sum; `rate` is the derivative of psi's logits. `w psi` is
    part of psi, so what psi is divided by is no less than w, and is kept above half of that."""
    mixed = detach(psi).blend(belief, w).parameters
    rate = rate - (psi.parameters.detach().softmax(-1) * rate).sum(-1, keepdim=True)
    least = per_sample((0.5 * w).clamp_min(LEAST), rate)
    return belief.replace(mixed - torch.maximum(1.0 - c * rate, least).log())


def vacuous(path: Path) -> str:
    """What to do where a second time has nothing to say: on jump paths the exact belief about a token is a martingale,
    so that its mean along the way to any r is itself."""
    if "categorical" not in path.offers or "gaussian" in path.offers:
        return ""
    return (
        "on a jump path the exact belief does not depend on the time it jumps to, so a map of two times learns "
        "nothing: take task.path=onehot where the task has it; on the path itself latents that join tokens (di4c) or "
        "a new coupling (redi) help"
    )


def stack(here: Posterior, there: Posterior) -> Posterior:
    """The belief about the samples of both."""
    return there.replace(torch.cat((here.parameters, there.parameters)))


def _between(
    path: Any, t: Float64[Tensor, "b"], r: Float64[Tensor, "b"]
) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "b"], Float64[Tensor, "b"]]:
    """(alpha_r sigma_t - sigma_r alpha_t, sigma_t, sigma_r)."""
    (a_t, _, n_t), (a_r, _, n_r) = (path.coefficients(u) for u in (t, r))
    return a_r * n_t - n_r * a_t, n_t, n_r


def _wronskian(path: Any, t: Float64[Tensor, "b"]) -> Float64[Tensor, "b"]:
    """W(t)."""
    alpha, _, sigma = path.coefficients(t)
    alpha_rate, _, sigma_rate = path.rates(t)
    return sigma_rate * alpha - sigma * alpha_rate
