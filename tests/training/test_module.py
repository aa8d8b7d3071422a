"""One student update: whose turn it is, what moves, what is counted, clipped, averaged and logged."""

import math

import pytest
import torch
from torch import nn

from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import RunError, UserError
from omnidistill.objectives import Consistency, Denoising, Losses, Matching, Nodes, Weighted
from omnidistill.training.checkpoint import peek
from omnidistill.training.loop import Batches
from omnidistill.training.settings import Optim, Settings


def moved(before, after):
    """Names of the models that differ."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def single(objective):
    return Weighted({"only": objective}, {"only": 1.0})


def test_turns_move_the_trained_role_alone_and_are_counted(engine, tmp_path):
    log, state = [], {}

    def before(role, module):
        state["before"] = engine.state(module)

    def after(role, module):
        log.append((role, moved(state["before"], engine.state(module)), module.update))
        assert not any(p.requires_grad for m in module.trained.values() for p in m.parameters())

    module = engine.watch(engine.module(engine.everything(), updates=4), before, after)
    engine.run(module, tmp_path)
    critic, student = {"fake_score", "discriminator"}, {"student"}
    expected = [("fake_score", critic), ("fake_score", critic), ("student", student)] * 4
    assert [(role, names) for role, names, _ in log] == expected
    assert [update for *_, update in log] == [u for u in range(4) for _ in range(3)]
    assert module.update == 4 and module.role_updates == {"fake_score": 8, "student": 4}


def test_calls_add_up_to_the_declared_cost(engine, tmp_path):
    objective = Weighted(
        {"m": Matching(critic_updates=2), "c": Consistency(decay=0.9, jumps=Nodes(4))}, {"m": 1.0, "c": 0.5}
    )
    module = engine.run(engine.module(objective, updates=5), tmp_path)
    expected = {}
    for role in module.cast.turns:
        for name, count in objective.cost(role).items():
            expected[name] = expected.get(name, 0) + 5 * count
    assert dict(module.calls.items()) | {"ema": 0} == expected | {"ema": 0}


def test_averages_are_the_recursion_by_hand(engine, tmp_path):
    """`a <- d a + (1 - d) student` after each student update. A target's d is what was asked for; that of the average
    which is sampled from is min(decay, (1 + n) / (10 + n)) at update n."""
    objective = single(Consistency(decay=0.75, jumps=Nodes(4)))
    module = engine.module(objective, updates=6, ema=0.8)
    ends, start = [], engine.state(module)

    def after(role, module):
        ends.append(engine.state(module))

    engine.run(engine.watch(module, after=after), tmp_path)
    for name, decay in (("ema", 0.8), ("target", 0.75)):
        for key in (k for k in start if k.startswith("student.") and not k.endswith("seen")):
            value = start[key].double()
            for n, state in enumerate(ends, 1):
                d = min(decay, (1 + n) / (10 + n)) if name == "ema" else decay
                value = d * value + (1 - d) * state[key].double()
            found = module.trained.state_dict()[key.replace("student.", f"{name}.", 1)]
            torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-6)


def test_averages_take_buffers_as_they_are(engine, tmp_path):
    module = engine.module(updates=1)
    module.trained["student"].network.seen.fill_(3.0)
    engine.run(module, tmp_path)
    assert module.trained["ema"].network.seen == 3.0


def test_a_mentor_is_refreshed_at_the_rounds_of_its_objective(engine, tmp_path):
    """With 3 rounds in 7 updates the average replaces the mentor exactly where the objective goes to the next round."""
    objective = Consistency(target="jump", jumps=Nodes(4), rounds=3)
    module = engine.module(single(objective), updates=7)
    seen = []

    def before(role, module):
        state = module.trained.state_dict()
        fresh = torch.equal(state["mentor.network.last.weight"], state["ema.network.last.weight"])
        step = type("Step", (), {"update": module.update, "total": 7})
        seen.append((objective._round(step), fresh))

    engine.run(engine.watch(module, before), tmp_path)
    rounds = [r for r, _ in seen]
    assert rounds == [0, 0, 0, 1, 1, 2, 2]
    # Fresh at the first update of each round (and at the start, where all are equal), stale within it.
    assert [fresh for _, fresh in seen] == [True, False, False, True, False, True, False]


def test_gradients_are_clipped_for_each_role_by_itself(engine, tmp_path):
    norms = []

    class Loud(Denoising):
        def losses(self, role, step):
            losses = super().losses(role, step)
            return losses and Losses({"loud": 1e4 * losses.terms["denoising"]})

    module = engine.module(single(Loud()), updates=3, optim=Optim(lr=1e-3, clip=0.5), log_every=1)

    def after(role, module):
        gradients = [p.grad for p in module.optimisers.parameters(role) if p.grad is not None]
        norms.append(float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt()))

    engine.run(engine.watch(module, after=after), tmp_path)
    assert norms == pytest.approx([0.5] * 3, rel=1e-4)
    assert all(float(row["student/grad_norm"]) > 100 for row in engine.scalars(tmp_path))  # before clipping
    free = engine.module(single(Loud()), updates=1, optim=Optim(lr=1e-3, clip=None))
    engine.run(engine.watch(free, after=after), tmp_path / "free")
    assert norms[-1] > 100


def test_optimisers_are_foreach_and_have_their_own_rate(engine, tmp_path):
    rates = []
    optim = Optim(lr=1e-2, warmup=2, decay="linear", hold=0.5)
    module = engine.module(single(Matching(critic_updates=2, critic_lr=0.5)), updates=4, optim=optim)

    def after(role, module):
        optimizer = module.optimisers.all()[role]
        assert optimizer.defaults["foreach"] and not optimizer.defaults["fused"]
        rates.append((role, optimizer.param_groups[0]["lr"]))

    engine.run(engine.watch(module, after=after), tmp_path)
    # Warm-up counts the role's own updates; the decay begins after half of the run and is linear to 0.
    critic = [0.5, 1, 1, 1, 1, 1, 0.5, 0.5]
    student = [0.5, 1, 1, 0.5]
    assert [r for role, r in rates if role == "fake_score"] == pytest.approx([5e-3 * f for f in critic])
    assert [r for role, r in rates if role == "student"] == pytest.approx([1e-2 * f for f in student])


def test_the_rates_schedule():
    linear, cosine = Optim(warmup=1, hold=0.2), Optim(warmup=1, hold=0.2, decay="cosine")
    assert linear.factor(9, 0.6) == pytest.approx(0.5) and linear.factor(9, 1.0) == pytest.approx(0.0)
    assert cosine.factor(9, 0.4) == pytest.approx(0.5 * (1 + math.cos(0.25 * math.pi)))
    assert Optim(decay="constant", warmup=4).factor(1, 0.99) == 0.5
    with pytest.raises(UserError, match="linear, cosine or constant"):
        Optim(decay="step")
    with pytest.raises(UserError, match=r"optim\.lr=0"):
        Optim(lr=0)
    with pytest.raises(UserError, match="fp32 or bf16"):
        Settings(precision="fp16")


@pytest.mark.parametrize("objective", [
    Consistency(pairs="bridge", target="self", jumps=Nodes(4)), Matching(critic_updates=2),
])  # fmt: skip
def test_autocast_loses_no_gradient(engine, tmp_path, objective):
    """A weight that was cast to bf16 under no_grad must not be reused where a gradient is wanted: with `self` as the
    target, and with a critic's turns before the student's, the same weights are cast without a graph first."""
    grads, dtypes = [], []

    def after(role, module):
        grads.append(
            [p.grad is not None and bool((p.grad != 0).any()) for p in module.optimisers.parameters(role)]
        )
        dtypes.extend(p.grad.dtype for p in module.optimisers.parameters(role) if p.grad is not None)

    module = engine.module(single(objective), updates=2, precision="bf16")
    module.trained["student"].network.inner.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    engine.run(engine.watch(module, after=after), tmp_path)
    assert all(all(found) for found in grads)
    assert set(dtypes) == {torch.bfloat16, torch.float32}  # activations, and gradients of float32 weights


def test_same_seed_same_weights_whatever_else_draws(engine, tmp_path):
    states = []
    for index, seed in enumerate((3, 3, 4)):
        torch.manual_seed(index)  # the global generator has no say, although the network drops units
        module = engine.module(engine.everything(), dropout=0.3, updates=3, seed=seed)
        before = torch.random.get_rng_state()
        engine.run(module, tmp_path / str(index))
        states.append(engine.state(module))
        assert torch.equal(before, torch.random.get_rng_state())
    assert not moved(states[0], states[1])
    assert "student" in moved(states[0], states[2])


def test_dropout_is_alive(engine, tmp_path):
    """Or the test above would show nothing."""
    ends = [
        engine.state(engine.run(engine.module(dropout=d, updates=2), tmp_path / str(d))) for d in (0.0, 0.5)
    ]
    assert "student" in moved(*ends)


def test_the_teacher_stays_in_evaluation_mode(engine, tmp_path):
    module, modes = engine.module(updates=1), []
    engine.run(engine.watch(module, lambda role, m: modes.append(m.teacher.training)), tmp_path)
    assert modes == [False, False]


def test_batches_depend_on_seed_update_and_turn_alone(engine):
    def drawn(start, seed=0):
        return Batches(engine.task, 2, 4, seed, start, 9)

    assert len(drawn(0)) == 9 and len(drawn(4)) == 5
    assert torch.equal(drawn(0)[6][1].x0, drawn(4)[2][1].x0)
    different = [drawn(0)[6][0].x0, drawn(0)[5][1].x0, drawn(0, seed=1)[6][1].x0]
    assert not any(torch.equal(drawn(0)[6][1].x0, other) for other in different)


def test_rollouts_take_the_batchs_own_length(engine, tmp_path):
    """Batches may be padded to the longest sample of the batch rather than to the task's longest."""

    class Any(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.3))

        def forward(self, x, t, condition=None, mask=None):
            return self.gain * x

    class Lengths(type(engine.task)):
        def batch(self, count, g, split="train"):
            n = int(torch.randint(3, 7, (), generator=g))
            return Batch(
                torch.randn(count, n, 2, generator=g), Context(mask=torch.ones(count, n, 1, dtype=torch.bool))
            )

    shapes = []
    module = engine.module(single(Matching()), updates=4, student=engine.denoiser(network=Any()),
                           origin=engine.denoiser(network=Any()))  # fmt: skip
    module.teacher = NetworkDenoiser(Any(), engine.task.path, "edm").requires_grad_(False)
    module.trained["student"].register_forward_hook(lambda m, args, out: shapes.append(args[0].shape[1]))
    engine.run(module, tmp_path, Lengths())
    assert len(set(shapes)) > 1 and max(shapes) <= 6


# --- what goes wrong ----------------------------------------------------------------------------------------------


class Poisoned(Denoising):
    """From call `after` on the loss, or only its gradient, is NaN."""

    def __init__(self, after, gradient=False):
        super().__init__()
        self.after, self.gradient = after, gradient

    def losses(self, role, step):
        losses = super().losses(role, step)
        if losses is None or step.update < self.after:
            return losses
        term = losses.terms["denoising"]
        if not self.gradient:
            return Losses({"denoising": term * torch.nan})
        zero = (
            term - term.detach()
        ).abs()  # the square root's derivative at 0 is infinite, times 0 it is NaN
        return Losses({"denoising": term + zero.sqrt()})


@pytest.mark.parametrize(
    "gradient, what", [(False, "student's loss denoising"), (True, "student's gradient")]
)
def test_nan_stops_the_run_and_spares_the_checkpoint(engine, tmp_path, gradient, what):
    module = engine.module(single(Poisoned(5, gradient)), updates=9, checkpoint_every=2)
    with pytest.raises(
        RunError, match=rf"{what} became NaN or infinite in update 6; the checkpoint of update 4"
    ) as e:
        engine.run(module, tmp_path)
    assert "\n" not in str(e.value)
    last = tmp_path / "checkpoints" / "last.safetensors"
    assert peek(last) == 4
    # The weights were not touched by what was not finite, and the run goes on from there once the cause is gone.
    assert all(bool(torch.isfinite(p).all()) for p in module.trained.parameters())
    mended = engine.run(engine.module(single(Denoising()), updates=9), tmp_path, resume=True)
    assert mended.update == 9


def test_nan_before_the_first_checkpoint_claims_none(engine, tmp_path):
    with pytest.raises(RunError, match="in update 1; there is no checkpoint yet"):
        engine.run(engine.module(single(Poisoned(0))), tmp_path)


def test_a_trained_role_without_a_loss_is_told(engine, tmp_path):
    class Silent(Matching):
        def losses(self, role, step):
            return None if role == "fake_score" else super().losses(role, step)

    with pytest.raises(RunError, match="'fake_score' is trained but no objective has a loss for it"):
        engine.run(engine.module(single(Silent())), tmp_path)


def test_logs_show_the_terms_and_which_of_them_steers(engine, tmp_path):
    module = engine.run(engine.module(engine.everything(), updates=5, log_every=2), tmp_path)
    rows = engine.scalars(tmp_path)
    assert [int(row["update"]) for row in rows] == [1, 2, 4]
    row = rows[-1]
    terms = {"matching", "adversarial", "consistency", "progressive/consistency", "regression"}
    for name in terms:
        assert math.isfinite(float(row[f"student/{name}"]))
        assert float(row[f"diagnostics/grad_norm/{name}"]) > 0
    assert float(row["fake_score/lr"]) == pytest.approx(0.5 * float(row["student/lr"]))
    assert any((tmp_path / "logs").glob("events.out.tfevents.*"))
    assert module.seconds > 0
