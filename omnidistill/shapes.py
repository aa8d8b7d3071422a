"""Shapes and kinds of tensors as annotations: what a docstring said in words, a reader sees in the signature and the
test run executes (jaxtyping, checked by beartype; see `tests/conftest.py`). Nothing is checked outside of tests.

Every layer speaks of states, times and masks, beliefs and draws first of all, so their names stand in a leaf that all
of them may import. What one module alone knows (the k of a categorical, the pixels of a network) it writes out itself.

Axes: b samples, `*state` all others of a state (n tokens; c, h, w), f frames; `#` marks one that may be 1 to broadcast.
Within one call a name stands for one size.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

State = Shaped[Tensor, "b *state"]
"""x_t or x0: real numbers or token ids."""

Whole = Shaped[Tensor, "b *whole"]
Other = Shaped[Tensor, "b *other"]
"""A state of the size that a walk ends with, and one of some size, beside one that may have another."""

Real = Float[Tensor, "b *state"]
"""A state of real numbers, or a number for each element of a state."""

Tokens = Int[Tensor, "b n"]
"""A state of token ids."""

Undecided = Bool[Tensor, "b *state"]
"""A truth for each element of a state."""

Mask = Bool[Tensor, "#b *#state"]
"""True where an element is real, False where it pads a shorter sample."""

Scalar = Float[Tensor, ""]

PerSample = Float[Tensor, "b"]

TensorTime = Float[Tensor, ""] | Float[Tensor, "#b"] | Float[Tensor, "#b #f"]
"""In [0, 1], 0 is data: one for all, one a sample, or one a frame along a path's `time_axis`."""

Time = TensorTime | float
"""The same, which may be a plain number."""

Times = Float64[Tensor, "*times"]
"""Times of any arrangement: what a schedule is a function of."""

Weight = Float[Tensor, ""] | Float[Tensor, "#b"] | Float[Tensor, "#b *#state"] | float
"""A factor: one for all, one a sample, or one an element."""

Labels = Int[Tensor, "b"]
"""A class for each sample."""

Counts = Int[Tensor, "r samples"]
"""How often each sample is in each resample."""

Resampled = Float64[Tensor, "r"]
"""A number for each resample."""

Instant = Float64[Tensor, ""]
"""One time, as a sampler's grid holds it."""

Points = Float[Tensor, "b n 3"]
"""Points in space."""
