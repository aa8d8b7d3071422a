"""Data in the dtype in which a path works, or one line that says what to do."""

from __future__ import annotations

import pytest
import torch

from omnidistill.context import Batch, Context
from omnidistill.data.tensors import batch, context, rows, states, tensor
from omnidistill.errors import UserError
from omnidistill.paths import MaskedPath, rectified_flow

TOKENS, POINTS = MaskedPath(10), rectified_flow()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16, torch.int64])
def test_whole_numbers_are_tokens(dtype: torch.dtype) -> None:
    made = states(torch.tensor([[0, 9]], dtype=dtype), TOKENS)
    assert made.dtype == torch.long and made.tolist() == [[0, 9]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float32])
def test_real_numbers_are_states(dtype: torch.dtype) -> None:
    made = states(torch.tensor([[0.5, -2.0]], dtype=dtype), POINTS)
    assert made.dtype == torch.float32 and made.tolist() == [[0.5, -2.0]]


@pytest.mark.parametrize(
    ("data", "path", "said"),
    [
        (torch.zeros(2, 2, dtype=torch.uint8), POINTS, "data are uint8 .* / 127.5 - 1"),
        (torch.tensor([[1.0, torch.nan]]), POINTS, "1 NaN or infinite"),
        (torch.tensor([[3, -100]]), TOKENS, "the token -100, not one from 0 to 9; padding is told by a mask"),
        (torch.tensor([[3, 10]]), TOKENS, "the token 10, .* that is the mask"),
        (torch.tensor([[3, 11]]), TOKENS, "the token 11, .* the path knows 10 tokens"),
        (torch.tensor([[3.0]]), TOKENS, "data are float32 .* whole numbers, 0 to 9"),
    ],
)
def test_what_is_not_clear_is_refused(data: torch.Tensor, path: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        states(data, path)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_batches_of_a_source_are_cast_too() -> None:
    given = Batch(
        torch.zeros(2, 3).double(),
        Context({"text": torch.ones(2, 4).half(), "ids": torch.ones(2).int()}, mask=torch.ones(2, 1).bool()),
    )
    made = batch(given, POINTS)
    assert made.x0 is not None and made.x0.dtype == torch.float32
    assert {k: v.dtype for k, v in made.context.condition.items()} == {  # type: ignore[union-attr]
        "text": torch.float32,
        "ids": torch.long,
    }
    assert made.context.mask is not None and made.context.mask.dtype == torch.bool
    with pytest.raises(UserError, match="answers a Tensor; it must answer a Batch"):
        batch(torch.zeros(2), POINTS)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="of which torch makes no tensor"):
        tensor("pictures", "data")
    with pytest.raises(UserError, match=r"\[2, 3\] rows"):
        rows({"a": torch.zeros(2), "b": torch.zeros(3)})
    assert context(Context()) == Context()
