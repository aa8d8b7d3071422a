"""What the user froze in a network stays as it was, in every role and to the last bit."""

import pytest
import torch
from torch import nn

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.objectives import Denoising, Matching, Weighted
from omnidistill.training.checkpoint import read_safetensors
from omnidistill.training.frozen import fixed, trainable, twin
from omnidistill.training.settings import Optim

LAST = "checkpoints/last.safetensors"


class Adapted(nn.Module):
    """A fixed base and a small trainable part of rank 2; the base's weights are known under two names each."""

    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).requires_grad_(False)
        self.same = self.base[0]
        self.down, self.up = nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, x, t, condition=None):
        h = torch.cat((x, t[:, None]), 1)
        return self.base(h) + self.up(self.down(h))


def denoiser(engine, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return engine.denoiser(network=Adapted())


def test_a_frozen_base_is_neither_trained_averaged_decayed_nor_saved(engine, tmp_path):
    origin = denoiser(engine, 0)
    student = twin(origin)
    before = {name: value.clone() for name, value in origin.network.base.state_dict().items()}
    module = engine.module(
        Weighted({"m": Matching()}, {"m": 1.0}), student=student, origin=origin, updates=5,
        optim=Optim(lr=0.1, warmup=1, weight_decay=0.5),
    )  # fmt: skip
    base = {p.data_ptr() for p in origin.network.base.parameters()}
    engine.run(module, tmp_path)
    for name in ("student", "ema", "fake_score"):
        network = module.trained[name].network
        for key, value in network.base.state_dict().items():
            assert torch.equal(value, before[key]), (name, key)
        assert {p.data_ptr() for p in network.base.parameters()} == base, "one base for all roles"
        assert not torch.equal(network.up.weight, origin.network.up.weight)
    assert len(module.optimisers.parameters("student")) == 2
    saved = [name for name in read_safetensors(tmp_path / LAST)[0] if name.startswith("model/")]
    assert saved and not any("base" in name or "same" in name for name in saved)


def test_a_run_with_a_frozen_base_resumes_to_the_bit(engine, tmp_path):
    def module(updates=6):
        return engine.module(Weighted({"m": Matching()}, {"m": 1.0}), student=twin(denoiser(engine, 0)),
                             origin=denoiser(engine, 0), updates=updates)  # fmt: skip

    straight = engine.run(module(), tmp_path / "a")

    def dies(role, m):
        if m.update == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.run(engine.watch(module(), before=dies), tmp_path / "b")
    again = engine.run(module(), tmp_path / "b", resume=True)
    for a, b in zip(straight.trained.parameters(), again.trained.parameters(), strict=True):
        assert torch.equal(a, b)


def test_clipping_looks_at_what_is_trained(engine, tmp_path):
    """The norm logged is that of the two trained matrices, whatever gradient the base would have."""
    module = engine.module(
        Weighted({"d": Denoising()}, {"d": 1.0}), student=denoiser(engine, 0), updates=1, log_every=1
    )
    norms = []

    def after(role, m):
        norms.append(
            float(torch.stack([p.grad.square().sum() for p in m.optimisers.parameters(role)]).sum().sqrt())
        )
        assert all(p.grad is None for p in m.trained["student"].network.base.parameters())

    module.settings = type(module.settings)(updates=1, batch=16, optim=Optim(clip=None))
    engine.run(engine.watch(module, after=after), tmp_path)
    assert module.shown["student/grad_norm"] == pytest.approx(norms[0], rel=1e-5)


def test_a_network_frozen_as_a_whole_is_a_teacher_at_rest(engine):
    whole = engine.denoiser(0).requires_grad_(False)
    assert len(trainable(whole)) == 6 and not fixed(whole)
    copy = twin(whole)
    assert not {p.data_ptr() for p in copy.parameters()} & {p.data_ptr() for p in whole.parameters()}


def test_frozen_in_bf16(engine, tmp_path):
    """Mixed precision, a frozen base and an average together: the base is the same tensor, the rest moves."""
    origin = denoiser(engine, 0)
    module = engine.module(
        Weighted({"m": Matching()}, {"m": 1.0}),
        student=twin(origin),
        origin=origin,
        updates=3,
        precision="bf16",
    )
    engine.run(module, tmp_path)
    ema, student = module.trained["ema"].network, module.trained["student"].network
    assert ema.base[0].weight is student.base[0].weight
    assert not torch.equal(ema.up.weight, student.up.weight) and bool(torch.isfinite(ema.up.weight).all())
    assert isinstance(module.trained["ema"], NetworkDenoiser)
