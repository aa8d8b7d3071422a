"""A walk of all the student's steps is made once, whoever looks at it, and the rollout is one of its steps."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from omnidistill import paths
from omnidistill.context import Batch, Context
from omnidistill.errors import UserError
from omnidistill.objectives import Matching, OnPolicy, PolicyGradient, StudentSpec, Weighted
from omnidistill.objectives.preference import Preference
from omnidistill.random import generator
from omnidistill.samplers import FewStep

PATH = paths.rectified_flow()
FOUR = StudentSpec(4, FewStep("renoise"))


class First:
    """The first coordinate."""

    def __call__(self, x: Tensor, x0: Tensor | None, context: object) -> Tensor:
        return x[:, 0]


def models(closed) -> dict:
    names = {"teacher": 0.0, "student": 0.2, "fake_score": 0.2, "reference": 0.2}
    return {name: closed.student(shift, 0.5, PATH) for name, shift in names.items()}


def parts(**given) -> Weighted:
    return Weighted(given, dict.fromkeys(given, 1.0))


def counted(closed, objective: Weighted, spec: StudentSpec = FOUR, role: str = "student"):
    crew = models(closed)
    batch, like = closed.free(16)
    step = closed.step(role, crew, batch, like, student=spec, structure=generator("structure"))
    losses = objective.losses(role, step)
    return step, losses, {name: model.calls for name, model in crew.items() if model.calls}


def test_matching_looks_at_a_step_of_the_walk_that_on_policy_makes(closed) -> None:
    objective = parts(matching=Matching(), on_policy=OnPolicy("mean", asked="all"))
    step, losses, calls = counted(closed, objective)
    batch, walk = step.walk()
    at = [i for i, x in enumerate(walk.states) if x is step.rollout.x_t]
    assert len(at) == 1 and step.rollout.belief is walk.beliefs[at[0]] and batch is step.batch
    assert step.rollout.x0 is walk.x0[at[0]] and float(step.rollout.t[0]) == float(walk.times[at[0]])
    assert step.rollout.s == float(walk.times[at[0] + 1]) and not step.rollout.x_t.requires_grad
    # Four steps of the student, the teacher at each of them and at the noised copy.
    assert calls == {"student": 4, "teacher": 5, "fake_score": 1}
    assert set(losses.terms) == {"matching", "on_policy"}
    assert objective.cost("student") == {
        "student": 1,
        "teacher": 2,
        "fake_score": 1,
    }  # of one step of the walk
    # In the critic's turn nobody walks: a rollout is one answer, after the steps before it.
    step, _, calls = counted(closed, objective, role="fake_score")
    assert not step._walks._walked and calls["student"] <= 4


def test_the_rollout_is_what_it_would_have_been_alone(closed) -> None:
    """The same draws in the same order: state, time and answer of a rollout made apart."""
    together, _, _ = counted(closed, parts(matching=Matching(), on_policy=OnPolicy("mean", asked="all")))
    alone, _, _ = counted(closed, parts(matching=Matching()))
    for key in ("x_t", "t", "x0", "s"):
        torch.testing.assert_close(getattr(together.rollout, key), getattr(alone.rollout, key))


def test_gradients_of_what_shares_a_walk_add_up(closed) -> None:
    def slopes(**given) -> list[Tensor]:
        step, losses, _ = counted(closed, parts(**given))
        return list(closed.gradient(losses, *step["student"].parameters()))

    # Without draws of its own beside the walk's, so that each part alone sees what it sees with the other.
    near = OnPolicy("mean", asked="one")
    both = slopes(one=near, all=OnPolicy("mean", asked="all"))
    apart = zip(slopes(one=near), slopes(all=OnPolicy("mean", asked="all")), strict=True)
    for together, (one, every) in zip(both, apart, strict=True):
        torch.testing.assert_close(together, one + every)


@pytest.mark.parametrize("group", [2, 8])
def test_on_policy_takes_the_walk_of_a_policy_gradient(closed, group: int) -> None:
    gradient = PolicyGradient({"first": First()}, group=group)
    for order in (
        {"gradient": gradient, "on_policy": OnPolicy("mean", asked="all")},
        {"on_policy": OnPolicy("mean", asked="all"), "gradient": gradient},
    ):
        step, _, calls = counted(closed, parts(**order))
        assert set(step._walks._walked) == {group} and calls == {"student": 4, "teacher": 4}


def test_pairs_and_groups_of_two_are_one_walk_and_others_another(closed) -> None:
    pair = Preference({"first": First()})
    two, eight = (PolicyGradient({"first": First()}, group=group) for group in (2, 8))
    _, _, calls = counted(closed, parts(pair=pair, two=two))
    assert calls == {"student": 4, "reference": 4}
    assert parts(pair=pair, two=two).cost("student") == {"student": 1, "reference": 1}
    _, _, calls = counted(closed, parts(pair=pair, eight=eight))
    assert calls == {"student": 8, "reference": 4}
    assert parts(pair=pair, eight=eight).cost("student") == {"student": 2, "reference": 1}
    # The groups' conditions are not the batch's, so that a rollout of the batch is another.
    step, _, calls = counted(closed, parts(two=two, matching=Matching()))
    assert calls["student"] > 4 and step.rollout.context is step.context


def test_who_is_told_where_to_jumps_is_rolled_out_apart(closed) -> None:
    """A walk's answers are of jumps to the next time, which are no samples."""
    crew = models(closed)
    crew["student"].wants_target = crew["student"].told_target = True
    plain = crew["student"].network.forward
    crew["student"].network.forward = lambda x, t, *given, target_time=None, **more: plain(
        x, t, *given, **more
    )
    batch, like = closed.free(16)
    spec = StudentSpec(4, FewStep("ode"))
    step = closed.step("student", crew, batch, like, student=spec)
    parts(on_policy=OnPolicy("mean", asked="all"), matching=Matching()).losses("student", step)
    _, walk = step.walk()
    assert all(step.rollout.belief is not belief for belief in walk.beliefs)


def test_who_may_look_at_data_instead_has_no_walk_made_for_others(closed) -> None:
    """`share` of the updates walk; where this one does not, the rollout is one answer after the steps before it."""
    seldom = OnPolicy("belief", "l2", asked="all", share=0.0)
    crew = models(closed)
    batch = Batch(torch.zeros(16, 1, dtype=torch.float64), Context(), 16)
    step = closed.step("student", crew, batch, student=FOUR, structure=generator("structure"))
    parts(matching=Matching(), on_policy=seldom).losses("student", step)
    assert not step._walks._walked


def test_a_step_is_freed_as_soon_as_nobody_holds_it(closed) -> None:
    """It holds graphs: a cycle would keep them until the collector comes."""
    step, losses, _ = counted(closed, parts(matching=Matching(), on_policy=OnPolicy("mean", asked="all")))
    gone = weakref.ref(step)
    gc.disable()
    try:
        del step, losses
        assert gone() is None
    finally:
        gc.enable()


def test_groups_that_do_not_divide_a_batch_are_one_line(closed) -> None:
    step = closed.step("student", models(closed), Batch(None, Context(), 8), torch.empty(8, 1), student=FOUR)
    with pytest.raises(UserError, match="groups of 3 walks do not divide the 8 samples of a batch"):
        step.walk(3)
