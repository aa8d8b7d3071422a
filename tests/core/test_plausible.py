"""A teacher that is read wrongly gives itself away on the first batch; one that is right, or untrained, does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.context import Batch, Context
from omnidistill.denoisers import PARAMETERISATIONS, NetworkDenoiser
from omnidistill.denoisers.parameterisation import from_x0
from omnidistill.denoisers.plausible import doubt, heed
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask, MarkovTextTask
from omnidistill.networks.mlp import MLP
from omnidistill.paths import GaussianPath, edm, grad_tts, ouve, rectified_flow, trigflow, vp_linear
from omnidistill.testing import ConformanceError, check_denoiser

STD, MEAN = 0.5, 1.0
PATHS: dict[str, Callable[[], GaussianPath]] = {
    "flow": rectified_flow,
    "trigflow": trigflow,
    "vp": vp_linear,
    "edm": lambda: edm(0.02, 20.0),
    "grad_tts": grad_tts,
    "ouve": ouve,
}


class Exact(nn.Module):
    """What a perfectly trained network answers for data N(MEAN, STD^2) on a path, in closed form."""

    def __init__(self, path: GaussianPath, kind: str) -> None:
        super().__init__()
        self.path, self.kind = path, kind

    def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor | None = None) -> Tensor:
        t = t.double()
        alpha, beta, sigma = (c[:, None] for c in self.path.coefficients(t))
        y = 0.0 if anchor is None else anchor.double()
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        x = x.double()
        mean = MEAN + gain * (x - alpha * MEAN - beta * y)
        out = from_x0(self.path, self.kind, mean, x, t, None if anchor is None else anchor.double())
        return out.float()


class Turned(Exact):
    """Time 0 is noise and 1 data, the answer the derivative along it (flow_matching, torchcfm)."""

    def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor | None = None) -> Tensor:
        return -super().forward(x, (1.0 - t).clamp_min(1e-3), anchor=anchor)


def data(n: int = 64, d: int = 4) -> Tensor:
    return MEAN + STD * torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def context(path: GaussianPath) -> Context:
    return Context(anchor=data().flip(0)) if "anchored" in path.offers else Context()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_a_right_teacher_is_not_doubted(name: str, kind: str) -> None:
    path = PATHS[name]()
    assert doubt(NetworkDenoiser(Exact(path, kind), path, kind), data(), context(path)) is None


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_an_untrained_one_is_not_doubted(name: str, kind: str) -> None:
    path = PATHS[name]()
    torch.manual_seed(0)
    network = MLP(4, 16, 2, anchor="anchored" in path.offers)
    for awake in (False, True):  # it answers 0, then anything
        if awake:
            nn.init.normal_(network.last.weight, std=0.2), nn.init.normal_(network.last.bias, std=0.2)
        assert doubt(NetworkDenoiser(network, path, kind), data(), context(path)) is None


def test_a_teacher_of_the_other_convention_is_refused_with_the_cause() -> None:
    path = rectified_flow()
    teacher = NetworkDenoiser(Turned(path, "flow"), path, "flow")
    with pytest.raises(UserError, match="its time reversed and its sign turned") as error:
        heed(teacher, Batch(data()), "cpu")
    assert "\n" not in str(error.value) and teacher.calls == 0
    with pytest.raises(ConformanceError, match="its time reversed and its sign turned"):
        check_denoiser(teacher, data())
    check_denoiser(NetworkDenoiser(_Back(Turned(path, "flow")), path, "flow"), data())


class _Back(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -self.network(x, (1.0 - t).clamp_max(1.0 - 1e-3))


@pytest.mark.parametrize(
    ("answers", "said", "cause"),
    [
        ("x0", "flow", "parameterisation 'x0'"),
        ("flow", "x0", "parameterisation 'flow'"),
        ("flow", "edm", "parameterisation 'flow'"),
        ("eps", "x0", "parameterisation 'eps'"),
        ("edm", "trigflow", "(parameterisation 'edm'|its sign turned)"),
    ],
)
def test_a_wrong_parameterisation_is_named(answers: str, said: str, cause: str) -> None:
    path = rectified_flow()
    with pytest.raises(UserError, match=cause):
        heed(NetworkDenoiser(Exact(path, answers), path, said), Batch(data()), "cpu")


def test_another_view_of_time_is_named() -> None:
    path = rectified_flow()

    class Thousandths(Exact):
        def forward(self, x: Tensor, t: Tensor, *, anchor: Tensor | None = None) -> Tensor:
            return super().forward(x, t / 1000.0)

    found = doubt(NetworkDenoiser(Thousandths(path, "flow"), path, "flow"), data())
    assert found is not None and found.cause == "told the time as '1000t'"


def test_what_another_reading_fits_somewhat_better_is_a_warning() -> None:
    path = rectified_flow()
    teacher = NetworkDenoiser(Exact(path, "x0"), path, "edm")
    found = doubt(teacher, data())
    assert found is not None and not found.hopeless and found.cause == "read as parameterisation 'x0'"
    with pytest.warns(UserWarning, match="does not denoise these data"):
        heed(teacher, Batch(data()), "cpu")


def test_nothing_is_said_where_nothing_can_be() -> None:
    path = rectified_flow()
    wrong = NetworkDenoiser(Turned(path, "flow"), path, "flow")
    assert doubt(wrong, data(2)) is None, "too few numbers"
    heed(wrong, Batch(None, count=4), "cpu")
    mixture, text = GaussianMixtureTask(), MarkovTextTask(length=8)
    for task in (mixture, text):
        batch = task.batch(64, torch.Generator().manual_seed(0))
        assert doubt(task.exact_teacher(), batch.x0, batch.context) is None
    tokens = NetworkDenoiser(text.network(), text.path, **text.reading())
    assert doubt(tokens, text.batch(64, torch.Generator().manual_seed(0)).x0) is None


def test_distill_asks_once_before_it_trains() -> None:
    path = rectified_flow()
    task = MLP(4, 16, 2)  # something to train
    given = {"data": data(), "updates": 1, "batch": 8, "device": "cpu"}

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turned, self.other = Turned(path, "flow"), task

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.turned(x, t) + self.other(x, t)

    teacher = NetworkDenoiser(Wrong(), path, "flow")
    with pytest.raises(UserError, match=r"its time reversed.*teacher_check=false"):
        omnidistill.distill(teacher, "consistency-models", **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning|torch")
        assert omnidistill.distill(teacher, "consistency-models", teacher_check=False, **given).steps == 1
