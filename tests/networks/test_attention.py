"""Attention is one formula, whichever kernel computes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from omnidistill.networks.attention import attend


def states(b: int = 2, n: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(b, 2, n, 4, generator=g).to(dtype) for _ in "qkv")  # type: ignore[return-value]


def formula(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5
    weights = scores.exp() * real[:, None, None, :]
    return torch.einsum("bhnm,bhmd->bhnd", weights / weights.sum(-1, keepdim=True), v)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of the fused kernel."""
    calls: list[int] = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    return calls


def test_padding_is_not_attended_to(fused: list[int]) -> None:
    q, k, v = states()
    real = torch.arange(7) < torch.tensor([[7], [4]])
    expected = formula(q, k, v, real)
    torch.testing.assert_close(attend(q, k, v, real), expected)
    assert len(fused) == 1
    value, tangent = torch.func.jvp(lambda v: attend(q, k, v, real), (v,), (v,))
    assert len(fused) == 1, "the fused kernel has no forward derivative"
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(tangent, expected)  # linear in v
    mapped = torch.func.vmap(lambda q, k, v, r: attend(q[None], k[None], v[None], r[None])[0])(q, k, v, real)
    torch.testing.assert_close(mapped, expected)


def test_a_row_of_nothing_but_padding_is_a_number() -> None:
    q, k, v = states()
    assert torch.isfinite(attend(q, k, v, torch.zeros(2, 7, dtype=torch.bool))).all()


def test_training_in_bfloat16_on_few_elements_stays_off_the_slow_kernel(fused: list[int]) -> None:
    for n, grad, asked in ((7, True, 0), (7, False, 1), (600, True, 1)):
        fused.clear()
        q, k, v = (s.requires_grad_(grad) for s in states(1, n, torch.bfloat16))
        attend(q, k, v)
        assert len(fused) == asked
