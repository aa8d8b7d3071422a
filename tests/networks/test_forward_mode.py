"""Forward mode through whole beliefs: every network, in (x, t, second time), against central differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omnidistill.context import Context
from omnidistill.denoisers import Guided, NetworkDenoiser
from omnidistill.modalities.audio.networks import music_unet
from omnidistill.modalities.coordinates.networks import ChainNetwork
from omnidistill.modalities.speech.enhancement.networks import EnhancementUNet
from omnidistill.modalities.text.networks import TextNetwork
from omnidistill.modalities.video.networks import ClipUNet
from omnidistill.networks.mlp import MLP
from omnidistill.networks.point_transformer import PointTransformer
from omnidistill.networks.posed_memory import PosedMemory
from omnidistill.networks.transformer import Transformer
from omnidistill.networks.unet import UNet
from omnidistill.paths import MaskedPath, edm, rectified_flow

B = 2
Build = Callable[[], nn.Module]


def channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def columns(*lengths: int, width: int = 8) -> Tensor:
    return (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).reshape(len(lengths), 1, 1, width)


SMALL = {"channels": (16, 32), "heads": 2, "target_time": True}
POINTS: dict[str, tuple[Build, tuple[int, ...], dict[str, Any]]] = {
    "mlp": (lambda: MLP(3, 16, 2, target_time=True), (3,), {}),
    "unet": (lambda: UNet(num_classes=None, **SMALL), (1, 8, 8), {}),
    "unet, channels_last": (lambda: channels_last(UNet(num_classes=None, **SMALL)), (1, 8, 8), {}),
    "unet, ragged": (
        lambda: UNet(num_classes=None, unshuffle=(2, 1), **SMALL),
        (1, 8, 8),
        {"mask": columns(8, 5)},
    ),
    "music": (
        lambda: music_unet({"channels": (16, 32), "heads": 2, "unshuffle": 2}, 2, True, False),
        (1, 8, 8),
        {"condition": torch.tensor([0, 1])},
    ),
    "enhancement": (lambda: EnhancementUNet(unshuffle=2, **SMALL), (2, 8, 8), {"anchor": (2, 8, 8)}),
    "clips": (lambda: ClipUNet(3, **SMALL), (3, 3, 8, 8), {}),
    "points": (
        lambda: PointTransformer(6, 16, 2, 2, target_time=True),
        (6, 3),
        {"mask": (torch.arange(6) < torch.tensor([[6], [4]])).unsqueeze(-1)},
    ),
    "posed points": (lambda: PosedMemory(6, 3, 16, 2, target_time=True), (6, 3), {}),
    "chain": (lambda: ChainNetwork(8, 16, 1, 2, 1, target_time=True), (8, 3), {}),
}
LEVELS = {"chain"}


def point(name: str, dtype: torch.dtype) -> tuple[NetworkDenoiser, Context, Tensor]:
    build, shape, given = POINTS[name]
    g = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    network = stirred(build()).to(dtype)
    extra = {
        k: torch.randn(B, *v, generator=g).to(dtype) if isinstance(v, tuple) else v for k, v in given.items()
    }
    path, reading = (
        (edm(0.05, 10.0), ("edm", "log_sigma/4")) if name in LEVELS else (rectified_flow(), ("flow", "t"))
    )
    denoiser = NetworkDenoiser(network, path, reading[0], time_input=reading[1], target_time=True)
    return denoiser, Context(**extra), torch.randn(B, *shape, generator=g).to(dtype)


def stirred(network: nn.Module) -> nn.Module:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a new network answers 0
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    return network.eval()


def compared(
    f: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, h: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """The derivative of f along a direction in (x, t, s): by forward mode, and by central differences."""
    g = torch.Generator().manual_seed(2)
    here = (x, *(torch.tensor(v, dtype=torch.float64) for v in ([0.7, 0.8], [0.3, 0.5])))
    along = (
        torch.randn(x.shape, generator=g).to(x.dtype),
        *(torch.tensor([1.0, -0.5]).double() for _ in "ts"),
    )
    tangent = torch.func.jvp(f, here, along)[1]
    with torch.no_grad():
        above, below = (f(*(v + k * h * d for v, d in zip(here, along, strict=True))) for k in (1, -1))
    return tangent.detach(), (above - below) / (2 * h)


def far(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("name", POINTS)
def test_a_belief_has_its_derivative(name: str) -> None:
    denoiser, context, x = point(name, torch.float64)
    tangent, expected = compared(lambda x, t, s: denoiser(x, t, context, target_time=s).mean, x)
    assert expected.norm() > 1e-2
    assert far(tangent, expected) < 1e-6


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("autocast", [False, True])
def test_in_low_precision_it_is_the_same_within_rounding(name: str, autocast: bool) -> None:
    exact, context, x = point(name, torch.float64)
    expected = compared(lambda x, t, s: exact(x, t, context, target_time=s).mean, x)[1]
    denoiser, context, x = point(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        tangent = compared(lambda x, t, s: denoiser(x, t, context, target_time=s).mean, x)[0]
    assert torch.isfinite(tangent).all()
    assert far(tangent, expected) < (0.15 if autocast else 1e-4)


@pytest.mark.parametrize(
    "build", [lambda **k: Transformer(5, 9, 16, 2, 2, **k), lambda **k: TextNetwork(5, 16, 3, (1, 2), **k)]
)
@pytest.mark.parametrize("autocast", [False, True])
def test_tokens_have_a_derivative_in_time(build: Callable[..., nn.Module], autocast: bool) -> None:
    """Logits of masked tokens along (t, s); padding takes no part."""
    x = torch.full((B, 9), 5)
    context = Context(mask=torch.arange(9) < torch.tensor([[9], [6]]))
    answers = []
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        denoiser = NetworkDenoiser(
            stirred(build(target_time=True)).to(dtype), MaskedPath(5), "logits", target_time=True
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.float32):
            answers.append(
                compared(
                    lambda _, t, s, d=denoiser: d(x, t, context, target_time=s).parameters, torch.zeros(B)
                )
            )
    assert answers[0][1].norm() > 1e-2 and far(*answers[0]) < 1e-6
    assert far(answers[1][0], answers[0][1]) < (0.15 if autocast else 1e-4)


def test_a_guided_belief_and_a_jump_have_theirs() -> None:
    network = stirred(UNet(num_classes=2, **SMALL)).double()
    path = rectified_flow()
    guided = Guided(NetworkDenoiser(network, path, "flow", target_time=True), 2.5, 2)
    context = Context(condition=torch.tensor([0, 1]))
    x = torch.randn(B, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    assert far(*compared(lambda x, t, s: guided(x, t, context, target_time=s).mean, x)) < 1e-6
    jump = lambda x, t, s: path.bridge(x, guided(x, t, context, target_time=s).mean, t, s, context)  # noqa: E731
    assert far(*compared(jump, x)) < 1e-6


def test_a_parameter_gradient_goes_through_a_tangent() -> None:
    denoiser, context, x = point("points", torch.float64)
    t = torch.tensor([0.7, 0.8], dtype=torch.float64)
    f = lambda x: denoiser(x, t, context, target_time=0.5 * t).mean  # noqa: E731
    torch.func.jvp(f, (x,), (torch.ones_like(x),))[1].square().sum().backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all()
        for p in denoiser.network.trunk.blocks.parameters()
    )


@pytest.mark.parametrize("name", ["mlp", "unet", "points"])
def test_vmap_over_samples_and_over_directions(name: str) -> None:
    denoiser, context, x = point(name, torch.float64)
    t = torch.tensor([0.7, 0.8], dtype=torch.float64)
    keys = [k for k in ("mask", "condition") if getattr(context, k) is not None]
    rows = [getattr(context, k) for k in keys]

    def one(x: Tensor, t: Tensor, *rest: Tensor) -> Tensor:
        told = Context(**{k: v[None] for k, v in zip(keys, rest, strict=True)})
        return denoiser(x[None], t[None], told, target_time=0.5 * t[None]).mean[0]

    whole = denoiser(x, t, context, target_time=0.5 * t).mean
    torch.testing.assert_close(torch.func.vmap(one)(x, t, *rows), whole)
    directions = torch.randn(3, *x.shape, generator=torch.Generator().manual_seed(4)).double()
    f = lambda x: denoiser(x, t, context, target_time=0.5 * t).mean  # noqa: E731
    each = lambda v: torch.func.jvp(f, (x,), (v,))[1]  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(each)(directions), torch.stack([each(v) for v in directions]))


def test_a_denoiser_compiles_as_one_graph() -> None:
    denoiser, context, x = point("points", torch.float32)
    t = torch.tensor([0.7, 0.8], dtype=torch.float64)
    ask = lambda x, t: denoiser(x, t, context, target_time=0.5 * t).mean  # noqa: E731
    torch.testing.assert_close(torch.compile(ask, fullgraph=True, backend="eager")(x, t), ask(x, t))


def test_times_reach_a_network_of_float64_undiminished() -> None:
    seen = {}

    class Listens(nn.Linear):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen["t"] = t
            return super().forward(x)

    t = 0.5 + 1e-12
    for dtype, error in ((torch.float64, 0.0), (torch.float32, 1e-12), (torch.bfloat16, 1e-12)):
        NetworkDenoiser(Listens(2, 2).to(dtype), rectified_flow(), "flow")(torch.zeros(1, 2), t)
        assert float(seen["t"]) - t == pytest.approx(-error, abs=1e-15)
