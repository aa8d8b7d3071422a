"""Monotonic alignment search against all alignments there are."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.modalities.speech.tts.aligner import durations, spread


def best_of_all(log_p: torch.Tensor) -> list[int]:
    """The durations of the highest sum, by trying every way to cut t frames into n pieces."""
    n, t = log_p.shape
    cuts = ((0, *cut, t) for cut in combinations(range(1, t), n - 1))
    return max(
        ([b - a for a, b in pairwise(ends)] for ends in cuts),
        key=lambda d: float((log_p * spread(torch.eye(n)[None], torch.tensor([d]))[0]).sum()),
    )


def test_no_alignment_is_better():
    """In one ragged batch, whose padding holds tempting values."""
    g = torch.Generator().manual_seed(0)
    sizes = [(n, t) for n in range(1, 6) for t in range(n, 9)]
    log_p = 50.0 + torch.randn(len(sizes), 6, 10, generator=g)
    for row, (n, t) in enumerate(sizes):
        log_p[row, :n, :t] -= 50.0
    found = durations(log_p, *(torch.tensor(part) for part in zip(*sizes, strict=True)))
    for row, (n, t) in enumerate(sizes):
        assert found[row, :n].tolist() == best_of_all(log_p[row, :n, :t])
        assert int(found[row].sum()) == t and not found[row, n:].any()


def test_known_durations_come_back_from_noisy_frames():
    g = torch.Generator().manual_seed(1)
    means, true = torch.randn(1, 20, 12, generator=g), torch.randint(1, 7, (1, 12), generator=g)
    frames = spread(means, true)
    noisy = frames + 0.3 * torch.randn(frames.shape, generator=g)
    log_p = -0.5 * (means.transpose(1, 2).unsqueeze(2) - noisy.transpose(1, 2).unsqueeze(1)).square().sum(-1)
    assert torch.equal(durations(log_p, torch.tensor([12]), true.sum(1)), true)


def test_more_symbols_than_frames_is_an_error():
    with pytest.raises(UserError, match="5 symbols to 4 frames"):
        durations(torch.zeros(2, 5, 8), torch.tensor([3, 5]), torch.tensor([8, 4]))


def test_spread_repeats_values_and_ends_in_zeros():
    values = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 0.0]]])
    out = spread(values, torch.tensor([[1, 0, 2], [2, 3, 0]]))
    assert out.squeeze(1).tolist() == [[1, 3, 3, 0, 0], [4, 4, 5, 5, 5]]
