"""Calls are counted in Python, in compiled graphs, under derivatives; and counting compiles nothing anew."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Guided, NetworkDenoiser
from omnidistill.denoisers.counter import Counter
from omnidistill.networks.mlp import MLP
from omnidistill.paths import rectified_flow

X, T = (
    torch.randn(4, 2, generator=torch.Generator().manual_seed(1)),
    torch.tensor([0.2, 0.4, 0.6, 0.8]).double(),
)


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x) * t[:, None]


@pytest.fixture
def denoiser() -> NetworkDenoiser:
    torch.manual_seed(0)
    return NetworkDenoiser(MLP(2, 8, 1), rectified_flow(), "flow")


def test_twenty_calls_of_a_compiled_denoiser_compile_once(denoiser) -> None:
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(denoiser, backend=backend, fullgraph=True)
    for _ in range(20):
        compiled(X, T)
    assert (len(graphs), denoiser.calls) == (1, 20)
    denoiser(X, T)
    denoiser.calls += 2
    assert denoiser.calls == 23 and copy.deepcopy(denoiser).calls == 23
    compiled(X, T)
    assert denoiser.calls == 24
    denoiser.calls = 0
    assert denoiser.calls == 0 and "calls" not in " ".join(denoiser.state_dict())
    torch.compiler.reset()


def test_calls_count_under_derivatives_and_in_every_mode(denoiser) -> None:
    denoiser.network = Linear()
    ask = lambda x: torch.func.jvp(lambda x: denoiser(x, T).mean, (x,), (x,))[1]  # noqa: E731
    expected = ask(X)
    assert denoiser.calls == 1
    compiled = torch.compile(ask, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), expected)
    assert denoiser.calls == 2
    with torch.inference_mode():
        made = Counter()
        denoiser(X, T)
    torch.compile(lambda x: (made.add(), x + 1)[1], backend="eager")(X)
    assert (denoiser.calls, made.value()) == (3, 1)
    torch.compiler.reset()


def test_a_guided_call_counts_two_where_the_role_is_counted(denoiser) -> None:
    denoiser.network = MLP(2, 8, 1, num_classes=3)
    guided = Guided(denoiser, 2.0, 3)
    denoiser.calls = 5
    guided(X, T, Context(condition=torch.tensor([0, 1, 2, 0])))
    assert guided.calls == denoiser.calls == 7
