"""A second time and a guidance scale for a network that has neither."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.context import Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.denoisers.second import Second, starting_weights, takes, with_second
from omnidistill.errors import UserError
from omnidistill.networks.mlp import MLP
from omnidistill.paths import rectified_flow


class Foreign(nn.Module):
    """Somebody's network: the time goes in by a module with a name of its own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.clock = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.clock(t[:, None].to(x.dtype))))


def foreign(dtype: torch.dtype = torch.float32) -> Foreign:
    torch.manual_seed(0)
    return Foreign().to(dtype)


def awake(network: Second) -> Second:
    for name in ("target_time", "guidance"):
        if (module := getattr(network, name)) is not None:
            nn.init.normal_(module.outer.weight, generator=torch.Generator().manual_seed(5))
    return network


X, T = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.4, 0.6, 0.8])
W = torch.tensor([1.0, 2.0, 3.0, 4.0])


def both(**options: bool) -> Second:
    return Second(foreign(), **{"target_time": True, "guidance": True, **options}, time_module="clock")


def test_it_starts_as_the_network_exactly_and_learns() -> None:
    network, bare = both(), foreign()
    assert torch.equal(network(X, T, target_time=T / 2, guidance=W), bare(X, T))
    network(X, T, target_time=T / 2, guidance=W).square().sum().backward()
    assert all(
        getattr(network, name).outer.weight.grad.abs().max() > 0 for name in ("target_time", "guidance")
    )
    awake(network)
    told = network(X, T, target_time=T / 2, guidance=W)
    assert (told - bare(X, T)).abs().amax(1).min() > 1e-3, "every sample is told"
    assert not torch.allclose(network(X, T, target_time=T / 2, guidance=W + 1), told, atol=1e-3)
    assert torch.equal(network(X, T), bare(X, T)), "nothing is told where nothing is said"
    # By hand: the embeddings are added to what the clock answers.
    h = bare.first(X) + bare.clock(T[:, None]) + network.target_time(T / 2) + network.guidance(W)
    torch.testing.assert_close(told, bare.last(torch.tanh(h)))


def test_copies_and_states_are_their_own() -> None:
    network = awake(both())
    before = network(X, T, guidance=W)
    twin = copy.deepcopy(network)
    nn.init.zeros_(network.guidance.outer.weight)
    torch.testing.assert_close(twin(X, T, guidance=W), before, rtol=0, atol=0)
    assert torch.equal(network(X, T, guidance=W), foreign()(X, T))
    again = both()
    again.load_state_dict(twin.state_dict())
    torch.testing.assert_close(again(X, T, guidance=W), before, rtol=0, atol=0)
    start = starting_weights(both(), foreign())
    assert start.keys() == twin.state_dict().keys()
    assert torch.equal(start["network.first.weight"], foreign().first.weight)


def test_threads_do_not_hear_one_another() -> None:
    network = awake(both())
    expected = {k: network(X, T, guidance=W * k) for k in range(4)}
    wrong: list[int] = []

    def ask(k: int) -> None:
        wrong.extend(k for _ in range(50) if not torch.equal(network(X, T, guidance=W * k), expected[k]))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not wrong


def test_a_failed_call_leaves_nothing_told() -> None:
    network = awake(both())
    with pytest.raises(RuntimeError):
        network(torch.zeros(4, 3), T, guidance=W)
    assert torch.equal(network.network(X, T), foreign()(X, T))


def test_compiled_and_adapted_it_answers_the_same() -> None:
    network = awake(both())
    expected = network(X, T, target_time=T / 2, guidance=W)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X, T, target_time=T / 2, guidance=W), expected)
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        network, peft.LoraConfig(target_modules=["first", "clock.0", "clock.2"], r=2)
    )
    torch.testing.assert_close(adapted(X, T, target_time=T / 2, guidance=W), expected)
    adapted(X, T, guidance=W).sum().backward()
    assert {n for n, p in adapted.named_parameters() if p.grad is not None} and all(
        "lora" in n for n, p in adapted.named_parameters() if p.requires_grad
    )


def test_tangents_flow_through_the_second_time() -> None:
    network = awake(Second(foreign(torch.float64), target_time=True, time_module="clock"))
    denoiser = NetworkDenoiser(network, rectified_flow(), "flow", time_input="1000t", target_time=True)
    f = lambda s: denoiser(X.double(), T.double(), target_time=s).mean  # noqa: E731
    s, h = 0.5 * T.double(), 1e-6
    tangent = torch.func.jvp(f, (s,), (torch.ones_like(s),))[1]
    torch.testing.assert_close(tangent, (f(s + h) - f(s - h)) / (2 * h), rtol=1e-5, atol=1e-7)
    # Told as it is, though the network's own time is in thousandths.
    seen = network.target_time(s)
    torch.testing.assert_close(
        f(s),
        NetworkDenoiser(_Plus(network.network, seen), rectified_flow(), "flow", time_input="1000t")(
            X.double(), T.double()
        ).mean,
    )


class _Plus(nn.Module):
    def __init__(self, network: Foreign, seen: Tensor) -> None:
        super().__init__()
        self.network, self.seen = network, seen

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        n = self.network
        return n.last(torch.tanh(n.first(x) + n.clock(t[:, None].to(x.dtype)) + self.seen))


def test_what_takes_the_keyword_is_left_as_it_is() -> None:
    taking = MLP(2, 8, 1, guidance=True)
    assert with_second(taking, target_time=False, guidance=True) is taking
    assert not takes(MLP(2, 8, 1), "guidance") and not takes(foreign(), "guidance")
    mixed = with_second(taking, target_time=True, guidance=True, time_module="time")
    assert isinstance(mixed, Second) and mixed.guidance is None and mixed.wants_guidance
    nn.init.normal_(taking.last.weight), nn.init.normal_(taking.guidance.linear.weight)
    assert torch.equal(mixed(X, T, guidance=W, target_time=T), taking(X, T, guidance=W))


class Plain(MLP):
    """Takes no second time, and answers from the start."""

    def __init__(self) -> None:
        super().__init__(2, 8, 1)
        nn.init.normal_(self.last.weight)

    def forward(self, x, t, condition=None, *, features=None, answered=None):
        return super().forward(x, t, condition, features=features, answered=answered)


def test_features_of_a_wrapped_network_are_outputs_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Plain()
    network = awake(Second(bare, target_time=True, guidance=True, time_module="time"))
    denoiser = NetworkDenoiser(network, rectified_flow(), "flow", target_time=True)
    t, context = T.double(), Context(guidance=W)
    expected = denoiser(X, t, context, target_time=t / 2).mean
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "register_forward_hook", lambda *a, **k: pytest.fail("a hook"))
        belief, found = denoiser.examine(X, t, context, target_time=t / 2)
        some, again = denoiser.examine(X, t, context, target_time=t / 2, answered=2)
        none, _ = denoiser.examine(X, t, context, answered=0)
    assert set(found) == {"network.blocks"} and none is None
    torch.testing.assert_close(belief.mean, expected), torch.testing.assert_close(some.mean, expected[:2])
    torch.testing.assert_close(again["network.blocks"], found["network.blocks"])
    seen = []
    bare.blocks.register_forward_hook(lambda m, i, o: seen.append(o))
    denoiser(X, t, context, target_time=t / 2)
    torch.testing.assert_close(found["network.blocks"], seen[0])


def test_a_late_clock_is_told_about_the_samples_that_are_left() -> None:
    class Late(nn.Module):
        feature_module, feature_channels, returns_features = "first", 8, True

        def __init__(self) -> None:
            super().__init__()
            self.first, self.clock, self.last = nn.Linear(2, 8), nn.Linear(1, 8), nn.Linear(8, 2)

        def forward(self, x, t, *, features=None, answered=None):
            h = self.first(x)
            some = slice(0, answered) if features else slice(None)
            out = self.last(torch.tanh(h[some] + self.clock(t[some, None].to(h.dtype))))
            return (out, {"first": h}) if features else out

    network = awake(Second(Late(), guidance=True, time_module="clock"))
    denoiser = NetworkDenoiser(network, rectified_flow(), "flow")
    whole = denoiser(X, T.double(), Context(guidance=W)).mean
    some, _ = denoiser.examine(X, T.double(), Context(guidance=W), answered=3)
    torch.testing.assert_close(some.mean, whole[:3])


def test_a_critic_starts_as_a_wrapped_student() -> None:
    options = [
        "objective.matching=0",
        "objective.adversarial=1",
        "+families.adversarial.start=student",
        "student.target_time=true",
    ]
    teacher = NetworkDenoiser(Plain(), rectified_flow(), "flow", time_module="time")
    student = omnidistill.distill(
        teacher, "dmd2", data=torch.randn(16, 2), updates=2, batch=4, device="cpu", options=options
    )
    assert isinstance(student.denoiser.network, Second)


def test_features_and_states_keep_their_names() -> None:
    network = Second(MLP(2, 8, 1), target_time=True, time_module="time")
    denoiser = NetworkDenoiser(network, rectified_flow(), "flow", target_time=True)
    assert denoiser.feature_channels() == 8 and denoiser.features(X, T.double()).shape == (4, 8)
    assert denoiser(X, T.double(), Context(), target_time=T.double() / 2).mean.shape == X.shape


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "takes neither a second time nor a guidance scale"),
        ("watch", "has no submodule time_module='watch'; it has clock, clock.0"),
        ("clock.1", "how wide SiLU answers is not known"),
    ],
)
def test_a_network_whose_clock_is_not_found(name: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        Second(foreign(), guidance=True, time_module=name)
    assert "\n" not in str(error.value)
