"""What a network is told of captions: the pipeline's own, number for number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("torchsde")

import omnidistill
from omnidistill.context import Context
from omnidistill.errors import UserError
from omnidistill.interop.states import States, join_of
from tests.interop import pipelines

CAPTIONS = ["a dog barks loud", "rain"]
Told = dict[str, Tensor]


def _sdxl(theirs: Any, captions: list[str]) -> tuple[Told, Told]:
    told, none, pooled, no_pooled = theirs.encode_prompt(captions, do_classifier_free_guidance=True)
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]])
    named = {"encoder_hidden_states": told, "text_embeds": pooled, "time_ids": sizes.repeat(2, 1)}
    return named, {"encoder_hidden_states": none[:1], "text_embeds": no_pooled[:1], "time_ids": sizes}


def _sd3(theirs: Any, captions: list[str]) -> tuple[Told, Told]:
    told, none, pooled, no_pooled = theirs.encode_prompt(captions, captions, captions)
    names = ("encoder_hidden_states", "pooled_projections")
    return dict(zip(names, (told, pooled), strict=True)), dict(
        zip(names, (none[:1], no_pooled[:1]), strict=True)
    )


def _flux(theirs: Any, captions: list[str]) -> tuple[Told, Told]:
    found = []
    for given in (captions, [""]):
        told, pooled, _ = theirs.encode_prompt(given, given)
        found.append({"encoder_hidden_states": told, "pooled_projections": pooled})
    return found[0], found[1]


def _stable_audio(theirs: Any, captions: list[str]) -> tuple[Told, Told]:
    words = theirs.encode_prompt(captions, "cpu", False)
    ends = theirs.encode_duration(0.0, 16 * 16 / 1600, "cpu", False, 2)
    named = {
        "encoder_hidden_states": torch.cat((words, *ends), 1),
        "global_hidden_states": torch.cat(ends, 2),
    }
    none = {key: value[:1] for key, value in named.items()}
    return named, {**none, "encoder_hidden_states": torch.zeros_like(none["encoder_hidden_states"])}


KINDS = {"sdxl": _sdxl, "sd3": _sd3, "flux": _flux, "stable_audio": _stable_audio}


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_told_as_the_pipeline_tells_them(kind: str, tmp_path: Path) -> None:
    theirs = getattr(pipelines, kind)(tmp_path)
    with torch.no_grad():
        wanted, nothing = KINDS[kind](theirs, CAPTIONS)
    states = States(tmp_path)
    found, null = states(CAPTIONS), states.null()
    assert isinstance(found, dict) and isinstance(null, dict)
    shapes = join_of(tmp_path).shapes(tmp_path)
    assert found.keys() == wanted.keys() == shapes.keys() == null.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)
        torch.testing.assert_close(null[name], nothing[name], rtol=1e-5, atol=1e-5, msg=name)
        assert tuple(found[name].shape[1:]) == shapes[name]
    first, second = found["encoder_hidden_states"]
    assert float((first - second).abs().max()) > 1e-3
    teacher = omnidistill.teacher(tmp_path, shape=[4, 8, 8] if kind == "flux" else None)
    assert teacher.named is not None
    x = torch.randn(2, *teacher.named["shape"])
    assert teacher(x, 0.5, Context(found)).mean.shape == x.shape


def test_other_encoders_are_named_in_a_line(tmp_path: Path) -> None:
    import shutil

    pipelines.sdxl(tmp_path)
    shutil.rmtree(tmp_path / "text_encoder_2")
    with pytest.raises(UserError, match="CLIPTextModel and CLIPTextModelWithProjection is read") as error:
        States(tmp_path)
    assert "\n" not in str(error.value)
