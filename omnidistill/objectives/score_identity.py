"""Score identity distillation (SiD: Zhou et al. 2024, arXiv:2404.04057, eq. 23): matching whose gradient goes through
both denoisers to x_t. With delta = D_real - D_fake,

    `L = E w(t) [delta . (D_real - x0) - a delta . delta] / n`

whose value at an exact critic is `(1 - a) E |delta|^2` and whose gradient, the critic frozen, is half that of
`E |delta|^2` through the score and `1 - a` of it through the samples: a = 1/2 is half a Fisher divergence, a = 1 score
implicit matching (SIM), whose value is 0 for every student. So the loss tells nothing; `matching/gap` does.

With a divergence beside it is Uni-Instruct (Wang et al. 2025, arXiv:2505.20755): with k = h(r) as a function of
u = log r,

    `L = E w(t) { k(u) [delta . (D_real - x0) - a delta . delta] - k'(u) delta . delta / 2 } / n`,   du/dx_t = s_p - s_q

is, for a = 1/2, half of `E k |delta|^2`, which with the weight -d snr/dt integrates to the f-divergence.
"""

from __future__ import annotations

from torch import Tensor

from omnidistill.objectives.divergences import Weight
from omnidistill.objectives.ratios import leaning, score_gap
from omnidistill.objectives.step import Noised
from omnidistill.paths import Path
from omnidistill.posteriors import Posterior
from omnidistill.posteriors.base import like


def score_identity(
    path: Path,
    copy: Noised,
    fake: Posterior,
    real: Posterior,
    alpha: float,
    law: Weight | None = None,
    log_ratio: Tensor | None = None,
) -> Tensor:
    """`L n / w(t)` per element, with its graph through both beliefs.

    Args:
        copy: the noised rollout that both beliefs are about.
        alpha: a.
        law, log_ratio: of a divergence, k and u; both or none.
    """
    delta = -fake.gap(real)
    loss = delta * real.gap(path.certain(copy.target)) - alpha * delta.square()
    if law is None or log_ratio is None:
        return loss
    u = leaning(log_ratio, score_gap(delta, path, copy.t), copy.x_t)
    return like(law.k(u), loss) * loss - 0.5 * like(law.slope(u), loss) * delta.square()
