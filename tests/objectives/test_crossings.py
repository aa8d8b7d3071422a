"""Families added by weight, every pair on every exact task that offers what both need.

`check_objective` runs each role: losses are finite, gradients finite and in their role alone, counted calls are the
declared ones, and padding, where the task is ragged, changes no loss.
"""

from itertools import combinations

import pytest
import torch

from omnidistill.context import Batch, Context
from omnidistill.denoisers import NetworkDenoiser, PolicyDenoiser
from omnidistill.denoisers.heads import Heads
from omnidistill.denoisers.policies import checked, widened
from omnidistill.exact import GaussianMixtureTask, MarkovTextTask
from omnidistill.exact.rigid_cloud import RigidCloudTask
from omnidistill.objectives import (
    Adversarial,
    AdversarialScores,
    Bootstrap,
    Cells,
    Consistency,
    Denoising,
    FlowMap,
    Guidance,
    Matching,
    Nodes,
    OnPolicy,
    PolicyFlow,
    Reconstruction,
    Regression,
    Reward,
    Segments,
    Step,
    Trajectories,
    Weighted,
)
from omnidistill.objectives.em import EM
from omnidistill.objectives.idempotence import Idempotence
from omnidistill.random import generator
from omnidistill.testing import check_objective
from omnidistill.training.roles import cast, missing

TASKS = {
    "mixture": GaussianMixtureTask(conditional=True, network={"width": 8, "depth": 1}),
    "text": MarkovTextTask(vocab=4, length=6, network={"width": 8, "depth": 1, "heads": 2}),
    "cloud": RigidCloudTask(points=4, shapes=2, network={"width": 8, "depth": 1}),
}
FAMILIES = {
    "consistency": lambda: Consistency(jumps=Nodes(4)),
    "told": lambda: Consistency(guidance=(1.0, 4.0), jumps=Nodes(4)),
    "cdlm": lambda: Consistency(pairs="bridge", target="self", jumps=Nodes(4)),
    "jump": lambda: Consistency(target="jump", jumps=Nodes(4)),
    "matching": lambda: Matching(),
    "guided": lambda: Matching(guidance=2.0, fake_guidance=1.5, drop_condition=0.2),
    "sds": lambda: Matching(critic="none", normaliser="none"),
    "adversarial": lambda: Adversarial(start="teacher"),
    "regression": lambda: Regression(pairs=4, steps=4),
    "denoising": lambda: Denoising(target="teacher"),
    "reward": lambda: Reward({"small": lambda x, x0, context: -x.flatten(1).square().mean(1)}),
}
# Two decays of one average, or a critic that is and is not trained, are refused; `test_weighted` has these.
PAIRS = list(combinations(FAMILIES, 2))


def fits(task, objective):
    data = task.batch(1, generator(0))
    return not missing(objective, task.path, data=data.x0 is not None, condition=task.conditional)


CASES = [
    (task, a, b)
    for task in TASKS
    for a, b in PAIRS
    if all(fits(TASKS[task], FAMILIES[name]()) for name in (a, b))
]


def pair(a, b):
    return Weighted({"one": FAMILIES[a](), "two": FAMILIES[b]()}, {"one": 1.0, "two": 0.5})


def test_most_pairs_meet_somewhere():
    met = {(a, b) for _, a, b in CASES}
    assert met == set(PAIRS), set(PAIRS) - met
    assert {task for task, *_ in CASES} == set(TASKS)


@pytest.mark.parametrize("task, a, b", CASES)
def test_two_families_added_by_weight_conform(task, a, b):
    check_objective(pair(a, b), TASKS[task], batch=3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "a, b", [("matching", "adversarial"), ("consistency", "matching"), ("cdlm", "denoising")]
)
def test_in_bfloat16_losses_and_gradients_are_finite(task, a, b):
    names = [name for name in (a, b) if fits(TASKS[task], FAMILIES[name]())]
    objective = Weighted({name: FAMILIES[name]() for name in names}, dict.fromkeys(names, 1.0))
    made = TASKS[task]
    torch.manual_seed(0)
    student, origin = (NetworkDenoiser(made.network(), made.path, **made.reading()) for _ in range(2))
    crew = cast(student, origin, objective, ema=0.9)
    batch = made.batch(4, generator("b"))
    for role in dict.fromkeys(crew.turns):
        own = [p for name in crew.parts[role] for p in crew.models[name].parameters()]
        for parameter in own:
            parameter.requires_grad_(True)
        step = Step(
            role,
            batch,
            {"teacher": made.exact_teacher(), **crew.models},
            generator("g", role),
            like=torch.empty_like(batch.x0),
            null=made.null,
        )
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            losses = objective.losses(role, step)
        total = torch.stack([term.float() for term in losses.terms.values()]).sum()
        found = [g for g in torch.autograd.grad(total, own, allow_unused=True) if g is not None]
        assert bool(torch.isfinite(total)) and found and all(bool(torch.isfinite(g).all()) for g in found)
        for parameter in own:
            parameter.requires_grad_(False)


@pytest.mark.parametrize("kind", ["points", "tokens"])
@pytest.mark.parametrize("role", ["student", "fake_score"])
def test_padding_changes_no_loss_and_no_gradient_of_a_sum(closed, kind, role):
    from omnidistill.objectives.heads import Head

    parts = {
        "m": Matching(critic_weighting="uniform"),
        "c": Consistency(pairs="bridge", target="self", jumps=Nodes(4)),
    }
    heads = {}
    if kind == "points":
        torch.manual_seed(0)
        parts["a"], heads = Adversarial(), {"discriminator": Head(8, 4).double()}
    closed.check_padding(Weighted(parts, dict.fromkeys(parts, 1.0)), kind, role, **heads)


def test_a_batch_of_one_is_a_batch():
    """Diversity compares samples of a batch; with one there is nothing to compare and nothing breaks."""
    task = TASKS["mixture"]
    x0 = task.batch(1, generator("b"))
    made = {
        n: NetworkDenoiser(task.network(), task.path, **task.reading()) for n in ("student", "fake_score")
    }
    batch = Batch(x0.x0, Context(x0.context.condition))
    step = Step(
        "student", batch, {**made, "teacher": task.exact_teacher()}, generator(0), like=x0.x0, null=task.null
    )
    losses = Matching().losses("student", step)
    assert bool(torch.isfinite(losses.terms["matching"]))
    assert float(losses.diagnostics["matching/diversity"]) == 0.0


ASKED_MORE = {
    "adversarial": lambda: Adversarial(start="teacher"),
    "em": lambda: EM(steps=2),
    "idempotence": Idempotence,
    "matching": Matching,
    "mixed": lambda: Consistency(jumps=Nodes(4), mixed=0.5),
    "student": lambda: Matching(critic="student"),
}


@pytest.mark.parametrize("a, b", list(combinations(ASKED_MORE, 2)))
def test_calls_of_the_student_beside_its_rollout_add_up(a, b):
    both = Weighted({"one": ASKED_MORE[a](), "two": ASKED_MORE[b]()}, {"one": 1.0, "two": 0.5})
    check_objective(both, TASKS["mixture"], batch=4)


# Reflow has no scale of its own: its first pairs are the bank's, under the run's guidance.
GUIDED = {
    "adversarial scores": AdversarialScores,
    "bootstrap": Bootstrap,
    "consistency": Consistency,
    "em": lambda guidance: EM(steps=2, guidance=guidance),
    "flow map": FlowMap,
    "guidance": Guidance,
    "matching": Matching,
    "critic": lambda guidance: Matching(fake_guidance=guidance, drop_condition=0.5),
    "on policy": OnPolicy,
    "reconstruction": Reconstruction,
    "regression": lambda guidance: Regression(pairs=None, steps=4, guidance=guidance),
    "segments": Segments,
    "trajectories": lambda guidance: Trajectories(bank=None, guidance=guidance),
}


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("name", GUIDED)
def test_calls_are_declared_whether_a_teacher_is_asked_without_condition_plainly_or_under_guidance(
    name, scale
):
    told = name in ("flow map", "segments", "on policy", "bootstrap")
    check_objective(GUIDED[name](guidance=scale), TASKS["mixture"], batch=4, target_time=told)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_calls_under_guidance_of_students_with_heads_and_with_a_policy_are_those_declared(scale):
    """`check_objective` makes students of neither kind."""
    task = TASKS["mixture"]
    torch.manual_seed(0)
    with_heads = NetworkDenoiser(Heads(task.network(), 4), task.path, **task.reading(), cells=4)
    policy = checked("mixture", 2, 2, task.shape[0])
    answers = {"parameterisation": "x0", "time_input": "t"}
    with_policy = PolicyDenoiser(widened(task.network(), policy), task.path, **answers, policy=policy)
    for objective, student in (
        (Cells(guidance=scale), with_heads),
        (PolicyFlow(guidance=scale), with_policy),
    ):
        batch, teacher = task.batch(4, generator("b")), task.exact_teacher()
        models = {"teacher": teacher, "student": student}
        like = torch.empty_like(batch.x0)
        objective.losses("student", Step("student", batch, models, generator(0), like=like, null=task.null))
        made = {name: model.calls for name, model in models.items()}
        assert made == objective.cost("student") and made["teacher"] % (2 if scale == 3.0 else 1) == 0
