"""What the suites share: one line for each property, equality within rounding, padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from omnidistill.context import Context


class ConformanceError(AssertionError):
    """A property does not hold. The message is one line: what was checked, the property, what was seen."""


class Report:
    """Collects the properties of one subject that held.

    Args:
        subject: what is checked, as named in messages.
    """

    def __init__(self, subject: str) -> None:
        self.subject, self.lines = subject, list[str]()

    def require(self, holds: object, what: str, seen: object = "") -> None:
        """`what` is the property; `seen` what was found instead."""
        if not bool(holds):
            found = " ".join(str(seen).split())
            raise ConformanceError(f"{self.subject}: {what}" + (f"; seen: {found}" if found else ""))

    def passed(self, what: str) -> None:
        """Notes a property that holds."""
        self.lines.append(f"{self.subject}: {what}")

    @contextmanager
    def section(self, what: str) -> Iterator[None]:
        """One property, or a few that belong together. An exception inside is a failure of the property; use of the
        global random generator is one too."""
        before = torch.random.get_rng_state()
        try:
            yield
        except ConformanceError:
            raise
        except Exception as error:
            self.require(False, what, f"{type(error).__name__}: {error}")
        same = torch.equal(before, torch.random.get_rng_state())
        self.require(
            same, "every draw comes from the generator passed in", f"'{what}' moved the global generator"
        )
        self.passed(what)


def seeded(seed: int) -> torch.Generator:
    """A generator of a check's own."""
    return torch.Generator().manual_seed(seed)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Equal for tokens; for numbers equal to `tolerance` times the largest value (at least 1)."""
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return gap(a, b) <= tolerance * max(1.0, float(b.detach().abs().max()) if b.numel() else 1.0)


def gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; NaN counts as infinite."""
    if not a.numel():
        return 0.0
    return float((a.detach().double() - b.detach().double()).abs().nan_to_num(nan=torch.inf).max())


def padded(x: Tensor, by: int = 2) -> tuple[Tensor, Tensor]:
    """x with `by` zeros more along axis 1, and the mask (broadcastable) that marks what was there before."""
    longer = torch.cat((x, torch.zeros_like(x[:, :1]).expand(-1, by, *x.shape[2:])), 1)
    mask = torch.ones(longer.shape[:2], dtype=torch.bool, device=x.device)
    mask[:, x.shape[1] :] = False
    return longer, mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def rewritten(x: Tensor, mask: Tensor, g: torch.Generator) -> Tensor:
    """x with something else where it is padding: other real numbers, or tokens of another position."""
    if x.is_floating_point():
        other = torch.randn(x.shape, generator=g).to(x)
    else:
        other = x.flip(1) if x.ndim > 1 else x
    return torch.where(mask.expand(x.shape), x, other)


def repeated(context: Context, count: int) -> Context:
    """The first sample's context, `count` times."""
    return context[slice(0, 1)].map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))


def with_anchor(context: Context, anchor: Tensor | None) -> Context:
    """The context under this anchor; as it is where there is none."""
    return context if anchor is None else replace(context, anchor=anchor)
