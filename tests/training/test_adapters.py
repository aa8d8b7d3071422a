"""Student, average and critics as low-rank adapters over one frozen base, and what that costs in bytes."""

import json

import pytest
import torch
from torch import nn

import omnidistill
from omnidistill.cli import main
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.objectives import Adversarial, Matching, Weighted
from omnidistill.objectives.base import RoleSpec
from omnidistill.paths import rectified_flow
from omnidistill.training.adapters import Adapter, adapt, attach
from omnidistill.training.checkpoint import read_safetensors
from omnidistill.training.frozen import twin
from omnidistill.training.module import Distillation
from omnidistill.training.roles import cast
from omnidistill.training.settings import Optim, Settings

pytest.importorskip("peft")


class Wide(nn.Module):
    """Wide enough for a rank of 2 to be small: 2 x 128 x 128 weights."""

    feature_module, feature_axis, feature_channels = "inner", 1, 128

    def __init__(self, second=False):
        super().__init__()
        self.first, self.inner, self.more = nn.Linear(3, 128), nn.Linear(128, 128), nn.Linear(128, 128)
        self.last = nn.Linear(128, 2)
        self.second = nn.Linear(1, 128) if second else None
        if second:
            nn.init.zeros_(self.second.weight), nn.init.zeros_(self.second.bias)

    def forward(self, x, t, condition=None, target_time=None):
        h = self.first(torch.cat((x, t[:, None]), 1))
        if self.second is not None and target_time is not None:
            h = h + self.second(target_time[:, None])
        return self.last(torch.tanh(self.more(torch.tanh(self.inner(torch.tanh(h))))))


def adapted(engine, objective, adapter, second=False, **settings):
    """A run whose teacher is a network; the base of everybody."""
    torch.manual_seed(0)
    teacher = engine.denoiser(network=Wide())
    origin = twin(teacher, teacher.parameters())
    network = adapt(Wide(second), origin.network, adapter)
    student = NetworkDenoiser(network, teacher.path, **{**teacher.reading(), "target_time": second})
    options = {"updates": 4, "batch": 16, "ema": 0.8, "checkpoint_every": 2, **settings}
    torch.manual_seed(1)
    return Distillation(
        cast(student, origin, objective, 0.8, adapter), teacher, objective,
        Settings(optim=Optim(lr=1e-2, warmup=1), **options), engine.task.like,
    )  # fmt: skip


def held(models):
    """Bytes of the distinct tensors behind these models."""
    storages = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def dmd2():
    parts = {"matching": Matching(critic_updates=2), "adversarial": Adversarial(width=8)}
    return Weighted(parts, {"matching": 1.0, "adversarial": 0.1})


def test_student_average_critic_and_teacher_are_less_than_1_4_networks(engine, tmp_path):
    module = adapted(engine, Weighted({"m": Matching()}, {"m": 1.0}), Adapter(rank=2, alpha=2))
    network = held([module.teacher])
    models = [module.teacher, *(module.trained[name] for name in ("student", "ema", "fake_score"))]
    engine.run(module, tmp_path)
    ratio = held(models) / network
    assert 1.0 < ratio < 1.4, ratio
    full = engine.module(student=engine.denoiser(network=Wide()), origin=engine.denoiser(network=Wide()))
    assert held(full.trained.values()) > 2.9 * network, "whole networks are three"


def test_adapters_move_and_the_base_does_not(engine, tmp_path):
    module = adapted(engine, dmd2(), Adapter(rank=2, alpha=2))
    before = {name: value.clone() for name, value in module.teacher.state_dict().items()}
    start = {name: value.clone() for name, value in module.trained.state_dict().items()}
    x, t = torch.randn(5, 2), torch.full((5,), 0.5, dtype=torch.float64)
    answers = [
        m(x, t).mean for m in (module.teacher, module.trained["student"], module.trained["fake_score"])
    ]
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2]), (
        "B is zero at the start"
    )
    engine.run(module, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.state_dict().items())
    moved = {
        name for name, value in module.trained.state_dict().items() if not torch.equal(value, start[name])
    }
    models = {name.split(".")[0] for name in moved}
    assert models == {"student", "ema", "fake_score", "discriminator"}
    assert all("lora_" in name or name.startswith("discriminator") for name in moved)
    tensors, _ = read_safetensors(tmp_path / "checkpoints/last.safetensors")
    assert not any("base_layer" in name for name in tensors)
    # Moments of each adapter matrix, and of nothing else.
    trained = [module.trained["student"].get_parameter(n) for n in module.cast.trainable["student"]]
    assert (
        len([n for n in tensors if n.startswith("optim/student/") and n.endswith("exp_avg")])
        == len(trained)
        == 8
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_resume_to_the_bit(engine, tmp_path, precision):
    def module():
        return adapted(engine, dmd2(), Adapter(rank=2, alpha=2), precision=precision, accumulate=2)

    straight = engine.run(module(), tmp_path / "a")

    def dies(role, m):
        if m.update == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.run(engine.watch(module(), before=dies), tmp_path / "b")
    again = engine.run(module(), tmp_path / "b", resume=True)
    expected = straight.trained.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.trained.state_dict().items())


def test_what_the_base_has_not_is_trained_whole(engine, tmp_path):
    module = adapted(engine, Weighted({"m": Matching()}, {"m": 1.0}), Adapter(rank=2), second=True)
    names = module.cast.trainable["student"]
    assert {n for n in names if "lora_" not in n} == {"network.second.weight", "network.second.bias"}
    assert not any("second.lora" in n for n in names)


def test_a_role_may_have_an_adapter_of_its_own(engine):
    class Own(Matching):
        def __init__(self):
            super().__init__()
            self.roles = {"fake_score": RoleSpec(start="teacher", adapter={"rank": 3, "targets": ["inner"]})}

    crew = cast(engine.denoiser(0), engine.denoiser(1), Own(), 0.9)
    assert [n.split(".lora_")[0] for n in crew.trainable["fake_score"]] == ["network.inner", "network.inner"]
    assert len(crew.trainable["student"]) == 6  # the student is whole


def test_wrong_adapters_are_one_line(engine):
    with pytest.raises(UserError, match="has no module attention; it has first, inner, last"):
        adapt(engine.Net(), engine.Net(), Adapter(targets=("attention",)))
    with pytest.raises(UserError, match="rank=0"):
        Adapter(rank=0)


RUN = [
    *(
        "task=exact/gaussian_mixture",
        "task.network={width: 32, depth: 1}",
        "recipe=dmd2",
        "threads=1",
        "steps=1",
    ),
    *(
        "device=cpu",
        "task.teacher_steps=4",
        "updates=3",
        "fit.updates=3",
        "batch=16",
        "evaluation.samples=64",
    ),
]


def test_the_key_writes_adapters_alone_and_they_come_back(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["distill", *RUN, "student.adapter={rank: 2, alpha: 4}", f"out={out}"]) == 0
    weights, _ = read_safetensors(out / "student.safetensors")
    assert all("lora_" in name for name in weights)
    metrics = json.loads((out / "metrics.json").read_text())
    assert main(["evaluate", str(out)]) == 0
    again = json.loads((out / "metrics.json").read_text())
    assert [p["metrics"] for p in again["student"]] == [p["metrics"] for p in metrics["student"]]
    # Over another base they are refused.
    base, _ = read_safetensors(out / "base.safetensors")
    from omnidistill.training.safetensors_file import write_safetensors

    write_safetensors({name: value + 1 for name, value in base.items()}, out / "base.safetensors")
    with pytest.raises(UserError, match="adapters over another network"):
        omnidistill.load(out)
    capsys.readouterr()
    assert main(["distill", *RUN, "student.adapter={rnk: 2}", f"out={tmp_path / 'x'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "did you mean rank" in error and "\n" not in error


def test_a_students_own_module_with_adapters_comes_back(tmp_path):
    teacher = NetworkDenoiser(Wide(), rectified_flow(), "flow")
    student = omnidistill.distill(
        teacher, "diff-instruct", shape=(2,), out=tmp_path / "own", updates=2, batch=8, device="cpu", threads=1,
        options=["student.adapter={rank: 2}"],
    )  # fmt: skip
    loaded = omnidistill.load(tmp_path / "own", network=Wide(), path=rectified_flow())
    assert torch.equal(loaded.sample(7, seed=3), student.sample(7, seed=3))


def test_a_whole_role_beside_an_adapter_keeps_what_the_user_froze(engine):
    """An adapter freezes the tensors that it lies over; a whole critic made after it still trains what it may, and no
    more. A role with an adapter over one that is trained has a base of its own."""
    origin = engine.denoiser(1)
    origin.network.first.requires_grad_(False)
    roles = {
        "a": RoleSpec(start="teacher", adapter={"rank": 1}),
        "b": RoleSpec(start="teacher"),
        "c": RoleSpec(start="b", adapter={"rank": 1}),
    }
    objective = type("O", (), {"roles": roles, "needs": frozenset(), "bank": None, "rolls_out": False})()
    crew = cast(engine.denoiser(0), origin, objective, 0.9)
    b = ["network.inner.weight", "network.inner.bias", "network.last.weight", "network.last.bias"]
    assert list(crew.trainable["b"]) == b
    assert all("lora_" in name for role in "ac" for name in crew.trainable[role])
    assert crew.models["a"].network.inner.base_layer.weight is origin.network.inner.weight
    assert crew.models["c"].network.inner.base_layer.weight is not crew.models["b"].network.inner.weight


def test_layers_that_are_made_in_their_own_way_stay_as_they_are():
    """The U-Net's own convolutions between its levels take other arguments than torch's."""
    from omnidistill.networks.unet import UNet

    made = attach(UNet((8, 16), num_classes=None), Adapter(rank=2))
    names = {name.split(".lora_")[0] for name, _ in made.named_parameters() if "lora_" in name}
    assert {"first", "down.0.conv1", "middle.attention.qkv", "last"} <= names and "down.1" not in names
    x = torch.randn(2, 1, 8, 8)
    assert made(x, torch.rand(2)).shape == x.shape
