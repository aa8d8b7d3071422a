"""Monotonic alignment search: which frames of a recording each symbol of its transcript owns.

Kim et al. 2020, Glow-TTS, arXiv:2005.11129, algorithm 1: of all ways to give every symbol one or more consecutive
frames, in order and without gaps, the one of highest total log-likelihood, by dynamic programming.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnidistill.errors import UserError


def durations(
    log_p: Float[Tensor, "b n t"], symbols: Int[Tensor, "b"], frames: Int[Tensor, "b"]
) -> Int[Tensor, "b n"]:
    """Frames of each symbol on the best monotonic path; 0 for padding; they sum to `frames`.

    `Q[i, t] = log_p[i, t] + max(Q[i, t-1], Q[i-1, t-1])`, then backwards from the last symbol at the last frame.

    Args:
        log_p: log-likelihood of frame t under symbol i; values in padding are not read.
        symbols: how many symbols are real.
        frames: how many frames are real.

    Raises:
        UserError: a sentence has more symbols than frames, or no symbol at all, so no path exists.
    """
    short = (symbols > frames) | (symbols < 1)
    if bool(short.any()):
        row = int(short.nonzero()[0, 0])
        raise UserError(
            f"no alignment of {int(symbols[row])} symbols to {int(frames[row])} frames: every symbol needs one frame"
        )
    stay = _forward(log_p.detach().float().cpu().numpy())
    return torch.from_numpy(_backward(stay, symbols.cpu().numpy(), frames.cpu().numpy())).to(log_p.device)


def _forward(log_p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bool[t b n]: whether the best path to (symbol, frame) had the same symbol one frame earlier."""
    b, n, t = log_p.shape
    stays = np.ones((t, b, n), dtype=bool)
    best = np.full((b, n), -np.inf)
    best[:, 0] = log_p[:, 0, 0]
    moved = np.full((b, n), -np.inf)
    for frame in range(1, t):
        moved[:, 1:] = best[:, :-1]
        stays[frame] = best >= moved
        best = log_p[:, :, frame] + np.maximum(best, moved)
    return stays


def _backward(
    stays: np.ndarray[Any, Any], symbols: np.ndarray[Any, Any], frames: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    longest, b, n = stays.shape
    found, rows = np.zeros((b, n), dtype=np.int64), np.arange(b)
    symbol = symbols - 1
    for frame in range(longest - 1, -1, -1):
        inside = frame < frames
        found[rows, symbol] += inside
        # Symbol 0 has none before it; a path that may not stay at symbol i of frame i was ruled out by -inf.
        symbol = symbol - (inside & ~stays[frame, rows, symbol] & (symbol > 0))
    return found


def spread(
    values: Float[Tensor, "b c n"], durations: Int[Tensor, "b n"], frames: int | None = None
) -> Float[Tensor, "b c t"]:
    """Each symbol's value repeated over its frames, zero behind the last."""
    ends = durations.cumsum(1)
    total = int(ends[:, -1].max()) if frames is None else frames
    place = torch.arange(total, device=values.device).expand(len(values), total).contiguous()
    owner = torch.searchsorted(ends.contiguous(), place, right=True)
    inside = owner < values.shape[2]
    owner = owner.clamp(max=values.shape[2] - 1)
    gathered = values.gather(2, owner.unsqueeze(1).expand(-1, values.shape[1], -1))
    return gathered * inside.unsqueeze(1)
