"""A batch worked off in parts has the losses and gradients of the whole batch, to rounding."""

import pytest
import torch

from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.objectives import Consistency, Losses, Nodes, StudentSpec, Weighted
from omnidistill.objectives.base import RoleSpec
from omnidistill.random import generator, normal, uniform
from omnidistill.samplers import FewStep
from omnidistill.training.checkpoint import read_safetensors
from omnidistill.training.parts import Draws, PartGenerator, cut, rows
from omnidistill.training.settings import Optim, Settings
from omnidistill.training.shown import Shown


def gradients(engine, folder, accumulate, batch=16, objective=None, log_every=1):
    """Gradients of every turn of two updates at a rate of (nearly) zero, and the last row of the log."""
    found = []

    def after(role, module):
        found.append([p.grad.clone() for p in module.optimisers.parameters(role) if p.grad is not None])

    module = engine.module(
        objective or engine.everything(), updates=2, batch=batch, accumulate=accumulate, log_every=log_every,
        optim=Optim(lr=1e-12, clip=None, warmup=1),
    )  # fmt: skip
    module.spec = StudentSpec(3, FewStep())
    engine.run(engine.watch(module, after=after), folder)
    return found, engine.scalars(folder)[-1], dict(module.calls)


@pytest.mark.parametrize("accumulate, batch", [(2, 16), (16, 16), (3, 16)])
def test_parts_have_the_whole_batchs_gradients(engine, tmp_path, accumulate, batch):
    """Every kind of role: critic and head, average, mentor, stored pairs; a rollout of up to three steps."""
    whole, row, calls = gradients(engine, tmp_path / "1", 1, batch)
    parts, other, asked = gradients(engine, tmp_path / "n", accumulate, batch)
    assert len(whole) == len(parts) == 6 and calls == asked
    for a, b in zip(whole, parts, strict=True):
        size = max(float(g.abs().max()) for g in a)
        for one, two in zip(a, b, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6 * max(1.0, size))
    for name in row:
        if name.startswith(("student/", "fake_score/", "diagnostics/grad_norm")):
            assert float(other[name]) == pytest.approx(float(row[name]), rel=2e-5, abs=1e-6), name


def test_one_part_is_bit_for_bit_the_whole(engine, tmp_path):
    states = []
    for name, options in (("default", {}), ("one", {"accumulate": 1})):
        states.append(engine.state(engine.run(engine.module(updates=2, **options), tmp_path / name)))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_draws_are_rows_of_the_whole_batchs():
    whole = generator("g")
    mask = torch.rand(6, 5, 1, generator=generator("mask")) < 0.6
    like = torch.empty(6, 5, 2)
    expected = [
        torch.rand(6, generator=whole), torch.randn(6, 3, generator=whole), torch.randint(9, (6,), generator=whole),
        torch.randint(4, (), generator=whole), normal(like, whole, mask), uniform(like[..., 0], whole),
        torch.randn((12, 2), generator=whole),
    ]  # fmt: skip
    for where in cut(6, 3):
        g = PartGenerator.of(generator("g"), where, 6, mask)
        with Draws():
            part = like[where]
            found = [
                torch.rand(2, generator=g), torch.randn(2, 3, generator=g), torch.randint(9, (2,), generator=g),
                torch.randint(4, (), generator=g), normal(part, g, mask[where]), uniform(part[..., 0], g),
                torch.randn((4, 2), generator=g),
            ]  # fmt: skip
        for a, b in zip(expected[:3] + expected[4:6], found[:3] + found[4:6], strict=True):
            assert torch.equal(a[where], b)
        assert torch.equal(expected[3], found[3])
        assert torch.equal(torch.cat([half[where] for half in expected[6].split(6)]), found[6])


def test_what_cannot_be_cut_is_refused():
    g = PartGenerator.of(generator("g"), slice(0, 2), 6, None)
    with Draws(), pytest.raises(UserError, match="accumulate cannot cut a draw by multinomial"):
        torch.multinomial(torch.ones(2, 3), 1, generator=g)
    with Draws(), pytest.raises(UserError, match="the batch's own mask alone"):
        normal(torch.empty(2, 3), g, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(UserError, match="accumulate must be from 1 to the batch's 4"):
        Settings(batch=4, accumulate=5)


def test_rows_of_a_batch():
    batch = Batch(torch.arange(5.0), Context({"a": torch.arange(5)}), extra={"n": torch.arange(5)})
    part = rows(batch, slice(1, 3))
    assert part.count == 2 and part.x0.tolist() == [1, 2] and part.extra["n"].tolist() == [1, 2]
    assert part.context.condition["a"].tolist() == [1, 2]
    assert rows(Batch(None, Context(), 5), slice(1, 3)).count == 2
    assert [w.stop - w.start for w in cut(7, 3)] == [2, 2, 3] and len(cut(2, 5)) == 2


def test_parts_resume_to_the_bit(engine, tmp_path):
    options = {"accumulate": 4, "updates": 5, "dropout": 0.3}
    engine.run(engine.module(engine.everything(), **options), tmp_path / "a")

    def dies(role, module):
        if module.update == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.run(engine.watch(engine.module(engine.everything(), **options), before=dies), tmp_path / "b")
    engine.run(engine.module(engine.everything(), **options), tmp_path / "b", resume=True)
    a, b = (read_safetensors(tmp_path / n / "checkpoints/last.safetensors")[0] for n in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_parts_drop_other_units(engine, tmp_path):
    """Each part has its own dropout, or N parts would drop the same units N times."""
    seen = []

    class Noisy(Consistency):
        def losses(self, role, step):
            seen.append(float(torch.rand(())))  # of the layers' own stream
            return super().losses(role, step)

    objective = Weighted({"c": Noisy(jumps=Nodes(4))}, {"c": 1.0})
    engine.run(engine.module(objective, accumulate=4, updates=1), tmp_path)
    assert len(set(seen)) == 4


class Silent:
    """Losses that do not depend on the student, or do with a gradient of zero."""

    roles, needs, bank, rolls_out = {}, frozenset(), None, False

    def __init__(self, zero):
        self.zero = zero

    def losses(self, role, step):
        term = step["student"](step.x0, 0.5).mean.sum() if self.zero else step.x0.sum()
        return Losses({"silent": 0.0 * term})

    def cost(self, role):
        return {"student": int(self.zero)}


def test_a_role_that_learns_nothing_is_an_error(engine, tmp_path):
    from omnidistill.errors import RunError

    with pytest.raises(
        RunError, match=r"no gradient reaches what 'student' trains: its losses \(silent\)"
    ) as error:
        engine.run(engine.module(Weighted({"s": Silent(False)}, {"s": 1.0})), tmp_path / "a")
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="'student' was exactly zero in its first 20 updates"):
        engine.run(engine.module(Weighted({"s": Silent(True)}, {"s": 1.0}), updates=30), tmp_path / "b")
    module = engine.module(Weighted({"s": Silent(True)}, {"s": 1.0}), updates=19)
    assert engine.run(module, tmp_path / "c").update == 19


def test_norms_of_single_terms_are_computed_where_they_are_logged(engine, tmp_path, monkeypatch):
    counted = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: counted.append(1) or grad(*a, **k))
    engine.run(engine.module(engine.everything(), updates=4, log_every=1000), tmp_path)
    assert (
        len(counted) == 5 + 2
    )  # in update 1 alone: five terms of the student, two of the critic's last turn


def test_a_role_spec_with_an_adapter_merges():
    one, two = RoleSpec(adapter={"rank": 4}), RoleSpec(start="teacher")
    assert one.merged(two, "critic").adapter == {"rank": 4} == two.merged(one, "critic").adapter
    with pytest.raises(UserError, match=r"critic\.adapter"):
        one.merged(RoleSpec(adapter={"rank": 2}), "critic")


def test_a_mean_over_some_of_the_samples_is_merged_by_their_number():
    """Three of four are right in one part and none of one in the other: 3 of 5, where the mean of means is 3/8; a bin
    that nobody fell into is not shown."""
    shown = Shown("fake_score", [], True, each=False)
    for right, count in ((3.0, 4.0), (0.0, 1.0)):
        found = {"bin": torch.tensor([right, count]), "empty": torch.zeros(2), "whole": torch.tensor(right)}
        shown.add(Losses({}, found), torch.zeros(()), 0.5)
    figures = shown.figures()
    assert (figures["diagnostics/bin"], figures["diagnostics/whole"]) == (pytest.approx(0.6), 1.5)
    assert "diagnostics/empty" not in figures
