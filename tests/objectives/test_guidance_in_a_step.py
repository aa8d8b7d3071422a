"""Guidance scales of a step: drawn once, before any objective looks, and told to networks that want to be told."""

import pytest
import torch

from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.exact import GaussianMixtureTask
from omnidistill.objectives import Adversarial, Consistency, Matching, Nodes, Step, Weighted
from omnidistill.posteriors import PointPosterior
from omnidistill.random import generator
from omnidistill.testing import check_objective

SMALL = {"width": 16, "depth": 1}
TASK = GaussianMixtureTask(conditional=True, network=SMALL)
LCM = Consistency(guidance=(1.0, 4.0), jumps=Nodes(8))


def models(*objectives):
    torch.manual_seed(0)

    def network(told):
        return NetworkDenoiser(TASK.network(guidance=told), TASK.path, **TASK.reading())

    made = {"student": network(True), "target": network(True), "teacher": TASK.exact_teacher()}
    made["fake_score"] = network(False)
    for objective in objectives:
        for name, build in objective.roles.get("fake_score", LCM.roles["target"]).modules.items():
            made[name] = build(made["fake_score"])
    return made


def step(role, made, **options):
    batch = TASK.batch(16, generator("b"))
    return Step(role, batch, made, generator("g"), like=torch.empty_like(batch.x0), null=TASK.null, **options)


PARTS = {"lcm": LCM, "matching": Matching(), "guided": Matching(guidance=2.0), "adversarial": Adversarial()}


@pytest.mark.parametrize("other", ["matching", "guided", "adversarial"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("role", ["student", "fake_score"])
def test_a_drawn_scale_reaches_the_student_in_every_role_and_order(other, first, role):
    """The rollout that a critic learns from and the one that the student is judged by are told the same scales."""
    names = ("lcm", other) if first else (other, "lcm")
    objective = Weighted({name: PARTS[name] for name in names}, dict.fromkeys(names, 1.0))
    assert objective.guidance_range == (1.0, 4.0)
    made = models(PARTS[other])
    told = []
    made["student"].network.register_forward_pre_hook(
        lambda module, args, keywords: told.append(keywords["guidance"]), with_kwargs=True
    )
    workbench = step(role, made, guidance_range=objective.guidance_range)
    scale = workbench.context.guidance
    assert 1.0 <= float(scale.min()) < float(scale.max()) <= 4.0
    losses = objective.losses(role, workbench)
    assert all(bool(torch.isfinite(term)) for term in losses.terms.values())
    assert told and all(torch.equal(found, scale) for found in told)


def test_a_fixed_scale_of_a_teacher_is_not_the_drawn_one(monkeypatch):
    seen, guide = [], PointPosterior.guide
    monkeypatch.setattr(PointPosterior, "guide", lambda c, u, s: (seen.append(s), guide(c, u, s))[1])
    workbench = step("student", models(), guidance_range=(1.0, 4.0))
    Matching(guidance=2.0).losses("student", workbench)
    assert [s.tolist() for s in seen] == [2.0]


def test_ranges_merge_or_disagree():
    other = Consistency(guidance=(1.0, 2.0), jumps=Nodes(8))
    assert Weighted({"a": LCM, "b": Matching()}, {"a": 1.0, "b": 1.0}).guidance_range == (1.0, 4.0)
    assert Weighted({"a": LCM, "b": LCM}, {"a": 1.0, "b": 1.0}).guidance_range == (1.0, 4.0)
    assert Weighted({"b": Matching()}, {"b": 1.0}).guidance_range is None
    with pytest.raises(UserError, match=r"different ranges: a \[1\.0, 4\.0\], b \[1\.0, 2\.0\]"):
        Weighted({"a": LCM, "b": other}, {"a": 1.0, "b": 1.0})


def test_a_student_that_cannot_be_told_is_refused():
    made = models()
    made["student"] = made["fake_score"]
    with pytest.raises(UserError, match=r"student\.guidance"):
        LCM.losses("student", step("student", made, guidance_range=(1.0, 4.0)))


@pytest.mark.parametrize("name", PARTS)
def test_every_family_conforms_beside_a_told_student(name):
    objective = Weighted(
        {"c": LCM, "o": PARTS[name]} if name != "lcm" else {"c": LCM},
        {"c": 1.0} | ({"o": 1.0} if name != "lcm" else {}),
    )
    if name == "adversarial":
        objective = Weighted({"c": LCM, "o": Adversarial(start="teacher")}, {"c": 1.0, "o": 1.0})
    check_objective(objective, TASK)
