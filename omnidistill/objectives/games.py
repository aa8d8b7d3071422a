"""What a discriminator and a student play for: losses of logits D, high for real.

| game | discriminator | student | D at the optimum |
|---|---|---|---|
| `softplus` | `softplus(-D(x)) + softplus(D(y))` | `softplus(-D(y))` | log p/q |
| `hinge` | `max(0, 1 - D(x)) + max(0, 1 + D(y))` | `-D(y)` | sign(p - q) |
| `relativistic` | `softplus(D(y) - D(x))` | `softplus(D(x) - D(y))` | log p/q + constant |
| `least_squares` | `(D(x) - 1)^2 / 2 + D(y)^2 / 2` | `(D(y) - 1)^2 / 2` | p / (p + q) |

The non-saturating game of Goodfellow et al. (2014); Lim & Ye (2017) and Miyato et al. (2018, eq. 16); RpGAN of
Jolicoeur-Martineau (2018), in which x and y are drawn apart; Mao et al. (2017, eq. 9). x ~ p is real and y ~ q fake. At
equal laws every optimum is constant where there are samples, and the student is at rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from omnidistill.errors import unknown


class Game(NamedTuple):
    """`discriminator(real, fake)` and `student(real, fake)`, each elementwise in logits.

    `as_fake`: the discriminator's loss of one more sample that is to count as fake, None where samples are judged in
    pairs. `relative`: the student's loss looks at the real sample beside the fake one. `middle`: the logit that says
    neither.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    student: Callable[[Tensor, Tensor], Tensor]
    as_fake: Callable[[Tensor], Tensor] | None
    relative: bool = False
    middle: float = 0.0

    def accuracy(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """1 where the logit of a real sample, and of a fake one, is on its own side; of pairs, where the real one's is
        the higher."""
        if self.relative:
            right = (real > fake).float()
            return right, right
        return (real > self.middle).float(), (fake < self.middle).float()


GAMES = {
    "softplus": Game(
        lambda real, fake: F.softplus(-real) + F.softplus(fake),
        lambda real, fake: F.softplus(-fake),
        F.softplus,
    ),
    "hinge": Game(
        lambda real, fake: F.relu(1.0 - real) + F.relu(1.0 + fake),
        lambda real, fake: -fake,
        lambda fake: F.relu(1.0 + fake),
    ),
    "relativistic": Game(
        lambda real, fake: F.softplus(fake - real),
        lambda real, fake: F.softplus(real - fake),
        None,
        relative=True,
    ),
    "least_squares": Game(
        lambda real, fake: 0.5 * ((real - 1.0).square() + fake.square()),
        lambda real, fake: 0.5 * (fake - 1.0).square(),
        lambda fake: 0.5 * fake.square(),
        middle=0.5,
    ),
}


def game(name: str) -> Game:
    """The game of this name."""
    if name not in GAMES:
        raise unknown("loss of a discriminator", name, GAMES)
    return GAMES[name]
