"""The guidance scale of a teacher that is followed: one, or one drawn for each sample and told to the student."""

from __future__ import annotations

from collections.abc import Sequence

from omnidistill.denoisers import Denoiser
from omnidistill.errors import UserError
from omnidistill.objectives.base import branches
from omnidistill.objectives.step import Step


class Scales:
    """One scale; or a pair (low, high), of which one is drawn per sample and the student is told it (Meng et al. 2022;
    LCM, Luo et al. 2023, alg. 1).

    Attributes:
        scale: of the teacher; None takes the one that was drawn.
        range: the pair, or None.
        branches: network calls of one guided question.
    """

    def __init__(self, given: float | Sequence[float]) -> None:
        drawn = isinstance(given, tuple | list)
        self.range = (float(given[0]), float(given[1])) if drawn else None  # type: ignore[index]
        self.scale = None if drawn else float(given)  # type: ignore[arg-type]
        self.branches = branches(self.scale)

    @property
    def needs(self) -> set[str]:
        """What it asks of a task, as an objective's `needs`."""
        return set() if self.scale == 1.0 else {"condition"}

    def draw(self, step: Step) -> None:
        """Draws the step's scales where there is a range, once however many objectives ask."""
        if self.range is None:
            return
        if not step["student"].wants_guidance:
            raise UserError(
                f"guidance is drawn from {list(self.range)} and the student is not told; give its network a "
                "guidance embedding (student.guidance=SCALE), or one scale"
            )
        step.draw_guidance(*self.range)

    def teacher(self, step: Step) -> Denoiser:
        """The teacher at this scale, or at the drawn one."""
        return step.guided("teacher", self.scale)
