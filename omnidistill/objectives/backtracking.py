"""Distribution backtracking: the student goes back the way that leads from its own law to the teacher's (Zhang et al.
2024, DisBack, arXiv:2408.15991).

1. Degradation. The student rests, and the critic, at first the teacher, learns its samples. What it was on the way is
   kept: scores of laws between the teacher's and the initial student's.
2. Backtracking. Distribution matching with these in place of the teacher, the last kept first, and with the teacher
   itself at the end. Each is near to where the student is by then, so that no gap is taken far from the samples that
   the target knows.
"""

from __future__ import annotations

from typing import Any

from omnidistill.errors import UserError
from omnidistill.objectives.base import Calls, RoleSpec
from omnidistill.objectives.matching import Matching
from omnidistill.objectives.step import Step


class Backtracking(Matching):
    """
    Args:
        targets: how many targets there are one after another, the teacher among them.
        degradation: share of the run that the first stage takes.
        back: share of the second stage in which what was kept is the target; the teacher is it for the rest.
        options: as of `Matching`, whose critic this is.
    """

    def __init__(self, targets: int = 4, degradation: float = 0.2, back: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if targets < 1 or not 0.0 < degradation < 1.0 or not 0.0 < back <= 1.0:
            raise UserError(
                "backtracking needs targets >= 1, 0 < degradation < 1 and 0 < back <= 1, got "
                f"{targets}, {degradation} and {back}"
            )
        if not self.fake.trained or self.real.trained:
            raise UserError(
                "backtracking has a critic of its own and the teacher at its end; leave critic and real out"
            )
        self.targets, self.degradation, self.back = targets, degradation, back
        self.roles |= {"student": RoleSpec(since=degradation)}
        # The k-th is kept when so much of the first stage is over; the teacher is what is there before it.
        self.roles |= {
            f"way_{k}": RoleSpec(start="teacher", copies="fake_score", at=degradation * k / targets)
            for k in range(1, targets)
        }

    def target(self, over: float) -> str:
        """Who is the teacher when this share of the run is over."""
        done = max(0.0, over - self.degradation) / (1.0 - self.degradation) / self.back
        left = self.targets - 1 - min(int(done * (self.targets - 1)), self.targets - 1)
        return f"way_{left}" if left else "teacher"

    def _target(self, step: Step) -> str:
        return self.target(step.update / max(1, step.total))

    def cost(self, role: str) -> Calls:
        """Of an update with the first target."""
        calls = dict(super().cost(role))
        if role == "student":
            calls[self.target(0.0)] = calls.pop("teacher")
        return calls
