"""From declared roles to models, optimiser groups and turns."""

import pytest
import torch

from omnidistill.errors import UserError
from omnidistill.objectives import (
    Adversarial,
    Consistency,
    Denoising,
    Matching,
    Nodes,
    Regression,
    RoleSpec,
    Weighted,
)
from omnidistill.paths import MaskedPath, rectified_flow
from omnidistill.training.roles import cast, missing


def single(objective):
    return Weighted({"only": objective}, {"only": 1.0})


def test_turns_are_the_declared_ratio_with_the_student_last(engine):
    crew = cast(engine.denoiser(0), engine.denoiser(1), single(Matching(critic_updates=3)), 0.9)
    assert crew.turns == ("fake_score", "fake_score", "fake_score", "student")
    assert crew.parts == {"fake_score": ("fake_score",), "student": ("student",)}
    assert cast(engine.denoiser(0), None, single(Denoising()), 0.9).turns == ("student",)


def test_everybody_starts_where_declared(engine):
    student, origin = engine.denoiser(0), engine.denoiser(1)
    crew = cast(student, origin, engine.everything(), 0.9)
    assert set(crew.models) == {"student", "ema", "fake_score", "discriminator", "target", "mentor"}
    assert crew.models["student"] is student
    starts = {"ema": student, "target": student, "mentor": student, "fake_score": origin}
    for name, source in starts.items():
        model = crew.models[name]
        assert model is not source
        for mine, theirs in zip(model.parameters(), source.parameters(), strict=True):
            assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()
    assert crew.parts["fake_score"] == ("fake_score", "discriminator")
    assert "ema" not in crew.parts and "target" not in crew.parts and "mentor" not in crew.parts
    assert not any(p.requires_grad for m in crew.models.values() for p in m.parameters())
    assert crew.roles["ema"].average == 0.9 and crew.roles["mentor"].refresh == 2


def test_a_frozen_critic_has_no_turn(engine):
    crew = cast(engine.denoiser(0), engine.denoiser(1), single(Matching(critic="frozen")), 0.9)
    assert crew.turns == ("student",) and set(crew.parts) == {"student"} and "fake_score" in crew.models


def test_missing_pieces_are_one_line(engine):
    with pytest.raises(UserError, match="starts from the teacher, and there is no network to copy"):
        cast(engine.denoiser(0), None, single(Matching()), 0.9)
    with pytest.raises(UserError, match="no objective says what 'fake_score' is"):
        cast(engine.denoiser(0), engine.denoiser(1), single(Adversarial()), 0.9)


def test_what_path_and_task_lack():
    flow, tokens = rectified_flow(), MaskedPath(4)
    assert missing(single(Matching(guidance=2.0)), flow, data=False, condition=False) == ["condition"]
    assert missing(single(Adversarial()), tokens, data=True, condition=False) == ["differentiable"]
    assert missing(single(Regression()), tokens, data=True, condition=True) == ["deterministic"]
    assert missing(single(Consistency(jumps=Nodes(4))), flow, data=False, condition=False) == ["data"]
    assert (
        missing(single(Consistency(pairs="bridge", target="self")), tokens, data=True, condition=False) == []
    )


def test_merging_keeps_what_only_one_says():
    one = RoleSpec(start="teacher", updates=5)
    other = RoleSpec(lr=0.5, modules={"discriminator": lambda denoiser: torch.nn.Identity()})
    for both in (one.merged(other, "critic"), other.merged(one, "critic")):
        assert (both.start, both.updates, both.lr, list(both.modules)) == (
            "teacher",
            5,
            0.5,
            ["discriminator"],
        )
    assert one.merged(RoleSpec(updates=5), "critic").updates == 5
    with pytest.raises(UserError, match=r"critic\.updates: (5 and 2|2 and 5)"):
        one.merged(RoleSpec(updates=2), "critic")
