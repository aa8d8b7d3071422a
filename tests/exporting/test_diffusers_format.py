"""Students in a folder of diffusers: its own classes sample what the student does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import omnidistill
from omnidistill.denoisers import NetworkDenoiser, Told
from omnidistill.denoisers.second import with_second
from omnidistill.errors import RunError, UserError
from omnidistill.student import Recipe, load, save
from tests.interop import tiny

diffusers = pytest.importorskip("diffusers")

PLAIN = {"clip_sample": False}
ZERO = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, **PLAIN}
EDM = {"block_out_channels": (8, 16)}


def schedulers() -> dict[str, Any]:
    return {
        "eps": diffusers.DDPMScheduler(num_train_timesteps=100, **PLAIN),
        "v, zero": diffusers.DDIMScheduler(num_train_timesteps=100, prediction_type="v_prediction", **ZERO),
        "cogvideo": diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", **PLAIN),
        "flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        "edm": diffusers.EDMEulerScheduler(),
    }


def student(tmp: Path, scheduler: str, name: str = "UNet2DModel", **options: Any) -> Path:
    """The folder of a student that was not trained: its network is the teacher's."""
    tiny.saved(tmp / "teacher", name, schedulers()[scheduler])
    teacher = omnidistill.teacher(tmp / "teacher", shape=tiny.shape(name))
    steps = options.pop("steps", 4)
    recipe = Recipe(task=None, reading=teacher.reading(), foreign=teacher.named, steps=steps, **options)
    save(teacher, recipe, tmp / "run")
    return tmp / "run"


CASES = [
    ("eps", "renoise", {}, "LCMScheduler", {"num_inference_steps": 4}),
    ("eps", "ode", {}, "DDIMScheduler", {"num_inference_steps": 4}),
    ("eps", "ancestral", {}, "DDPMScheduler", {"num_inference_steps": 4}),
    ("eps", "gamma", {"gamma": 0.0}, "DDIMScheduler", {"num_inference_steps": 4}),
    ("eps", "gamma", {"gamma": 1.0}, "LCMScheduler", {"num_inference_steps": 4}),
    ("v, zero", "renoise", {"steps": 1}, "LCMScheduler", {"num_inference_steps": 1}),
    ("v, zero", "ode", {"steps": 2}, "DDIMScheduler", {"num_inference_steps": 2}),
    ("cogvideo", "renoise", {}, "LCMScheduler", {"num_inference_steps": 4}),
    ("eps", "renoise", {"times": [1.0, 0.9, 0.5, 0.1]}, "LCMScheduler", {"timesteps": [99, 89, 49, 9]}),
    ("eps", "ode", {"shift": 3.0}, "DPMSolverMultistepScheduler", {"timesteps": [99, 89, 74, 49]}),
    ("eps", "ancestral", {"steps": 3}, "DDPMScheduler", {"timesteps": [99, 66, 32]}),
    ("flow", "ode", {}, "FlowMatchEulerDiscreteScheduler", {"num_inference_steps": 4}),
    ("flow", "renoise", {}, "FlowMatchEulerDiscreteScheduler", {"num_inference_steps": 4}),
    ("flow", "ode", {"shift": 3.0}, "FlowMatchEulerDiscreteScheduler", {"sigmas": [1.0, 0.9, 0.75, 0.5]}),
    (
        "flow",
        "renoise",
        {"shift": 3.0, "steps": 2},
        "FlowMatchEulerDiscreteScheduler",
        {"num_inference_steps": 2},
    ),
    ("flow", "ode", {"steps": 1}, "FlowMatchEulerDiscreteScheduler", {"num_inference_steps": 1}),
    ("edm", "ode", {}, "EDMEulerScheduler", None),
]


@pytest.mark.parametrize(("scheduler", "transition", "options", "named", "told"), CASES, ids=str)
def test_each_walk_has_its_scheduler(
    scheduler: str, transition: str, options: dict[str, Any], named: str, told: Any, tmp_path: Path
) -> None:
    run = student(tmp_path, scheduler, transition=transition, **options)
    out = omnidistill.export(run, "diffusers", tmp_path / "out")
    said = json.loads((out / "sampling.json").read_text())
    assert said["scheduler"] == named
    if told is not None:
        assert json.dumps(said["set_timesteps"]) == json.dumps(told) or all(
            found == pytest.approx(wanted)
            for found, wanted in zip(said["set_timesteps"].values(), told.values(), strict=True)
        )
    card = (out / "README.md").read_text()
    assert "differ from the student's by at most" in card
    if scheduler == "eps" and options.get("steps") == 3:
        assert "the nearest are taken" in card


TCD = [
    ("eps", "renoise", {"steps": 1}, 1.0),
    ("eps", "renoise", {"times": [1.0, 0.9, 0.5, 0.1]}, 1.0),
    ("eps", "ode", {"steps": 2}, 0.0),
    ("eps", "ode", {"shift": 3.0}, 0.0),
    ("eps", "gamma", {"gamma": 1.0, "steps": 5}, 1.0),
    ("v, zero", "renoise", {"steps": 3}, 1.0),
    ("v, zero", "ode", {}, 0.0),
    ("cogvideo", "renoise", {}, 1.0),
]


@pytest.mark.parametrize(("scheduler", "transition", "options", "eta"), TCD, ids=str)
def test_tcd_walks_the_same_to_the_data(
    scheduler: str,
    transition: str,
    options: dict[str, Any],
    eta: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = student(tmp_path, scheduler, transition=transition, **options)
    out = omnidistill.export(run, "diffusers", tmp_path / "out", scheduler="TCDScheduler")
    said = json.loads((out / "sampling.json").read_text())
    assert (said["scheduler"], said["step"]) == ("TCDScheduler", {"eta": eta})
    card = (out / "README.md").read_text()
    assert "differ from the student's by at most" in card and f"eta={eta:g})" in card
    made, path = diffusers.TCDScheduler.from_pretrained(out / "scheduler"), load(run).denoiser.path
    places = path.time(torch.arange(1, path.entries))
    assert float(made.alphas_cumprod[0]) == 1.0
    torch.testing.assert_close(
        made.alphas_cumprod[1:].double(), path.coefficients(places).alpha.flatten() ** 2, rtol=0, atol=1e-6
    )
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code(out / "README.md"), scope)
    assert len(scope["x"]) == 4


@pytest.mark.parametrize("transition", ["renoise", "ode"])
def test_tcd_of_the_teachers_own_table_stops_before_the_data(
    transition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnidistill.exporting import scheduled

    run = student(tmp_path, "eps", transition=transition)
    monkeypatch.setattr(scheduled, "_ending_clean", lambda path: scheduled._betas(path, {}))
    with pytest.raises(RunError, match="samples differ from the student's") as error:
        omnidistill.export(run, "diffusers", tmp_path / "out", scheduler="TCDScheduler")
    assert float(str(error.value).partition(" by ")[2].split()[0]) > 2e-4  # of ode on this table 3e-4


def test_a_scheduler_by_name(tmp_path: Path) -> None:
    run = student(tmp_path, "eps", transition="ode", shift=3.0)

    def refused(name: str, said: str, format: str = "diffusers", **more: Any) -> None:
        with pytest.raises(UserError, match=said) as error:
            omnidistill.export(run, format, tmp_path / "none", scheduler=name, **more)
        assert "\n" not in str(error.value) and not (tmp_path / "none").exists()

    refused("LCMScheduler", "by ode; DDIMScheduler or DPMSolverMultistepScheduler or TCDScheduler does")
    refused("DDIMScheduler", "even times and not .*DPMSolverMultistepScheduler or TCDScheduler")
    refused("TCDScheduler", "for format=diffusers or peft, not onnx", "onnx")
    index = {"_class_name": "DDPMPipeline", "unet": ["a", "b"]}
    (tmp_path / "teacher" / "model_index.json").write_text(json.dumps(index))
    refused("TCDScheduler", "DDPMPipeline hands no eta on", pipeline=tmp_path / "teacher")
    run = student(tmp_path / "even", "eps", transition="ode")
    refused("TCDScheduler", "ends at place 0 .* ask fewer steps or scheduler=DDIMScheduler", steps=100)
    out = omnidistill.export(run, "diffusers", tmp_path / "out", scheduler="DPMSolverMultistepScheduler")
    assert "DPMSolver" in json.loads((out / "sampling.json").read_text())["scheduler"]
    run = student(tmp_path / "flow", "flow", transition="ode")
    refused("TCDScheduler", "by ode; FlowMatchEulerDiscreteScheduler does")


def code(card: Path) -> str:
    text = card.read_text()
    return text.split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [("eps", {}), ("eps", {"times": [1.0, 0.9, 0.5, 0.1]}), ("edm", {"transition": "ode"}), ("flow", {})],
    ids=str,
)
def test_the_lines_of_the_card_run(
    scheduler: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    omnidistill.export(student(tmp_path, scheduler, **options), "diffusers", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code(tmp_path / "out" / "README.md"), scope)
    made = scope.get("samples", scope.get("x"))
    assert len(made) == 4


def test_an_unmodified_pipeline_samples_the_same(tmp_path: Path) -> None:
    run = student(tmp_path, "eps", steps=4)
    out = omnidistill.export(run, "diffusers", tmp_path / "out")
    pipeline = diffusers.DDPMPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    g = torch.Generator().manual_seed(3)
    made = pipeline(batch_size=2, num_inference_steps=4, generator=g, output_type="pt").images
    g = torch.Generator().manual_seed(3)
    start = torch.randn(2, 4, 8, 8, generator=g)
    own = load(run)
    found = own.sampler.sample(own.denoiser, start, 4, g=g, x_1=start).x0
    wanted = (
        (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        if made.shape[-1] == 4
        else (found / 2 + 0.5).clamp(0, 1)
    )
    torch.testing.assert_close(torch.as_tensor(made), wanted, rtol=0, atol=1e-4)


def told(tmp: Path, **told_by: bool) -> Path:
    """A student with second embeddings that say something."""
    tiny.saved(tmp / "teacher", "UNet2DModel", schedulers()["eps"])
    teacher = omnidistill.teacher(tmp / "teacher")
    network = with_second(teacher.network, **{"target_time": False, "guidance": False, **told_by})
    torch.manual_seed(0)
    for name in told_by:
        nn.init.normal_(getattr(network, name).outer.weight)  # type: ignore[arg-type]
    reading = {**teacher.reading(), "target_time": told_by.get("target_time", False)}
    guided = told_by.get("guidance", False)
    recipe = Recipe(
        **{"task": None, "reading": reading, "foreign": teacher.named, "steps": 2, "guided": guided},
        target_time=told_by.get("target_time", False),
        guidance=3.0 if guided else None,
    )
    denoiser: Any = NetworkDenoiser(network, teacher.path, **reading)
    save(Told(denoiser, 3.0) if guided else denoiser, recipe, tmp / "run")
    return tmp / "run"


def test_what_a_student_is_always_told_is_folded_in(tmp_path: Path) -> None:
    run = told(tmp_path, guidance=True, target_time=True)
    out = omnidistill.export(run, "diffusers", tmp_path / "out")
    theirs = diffusers.UNet2DModel.from_pretrained(out / "unet")
    before = tiny.model("UNet2DModel")
    changed = {n for n, v in theirs.state_dict().items() if not torch.equal(v, before.state_dict()[n])}
    assert changed == {"time_embedding.linear_2.bias"}
    # The same student along its own noise is told another time in each step.
    recipe = json.loads((run / "student.json").read_text())
    (run / "student.json").write_text(json.dumps({**recipe, "transition": "ode"}))
    with pytest.raises(UserError, match="told where each of its steps leads"):
        omnidistill.export(run, "diffusers", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_copy_that_is_off_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnidistill.exporting import scheduled

    run = student(tmp_path, "eps")
    monkeypatch.setattr(scheduled, "PREDICTIONS", {"eps": "sample"})
    with pytest.raises(RunError, match="samples differ from the student's") as error:
        omnidistill.export(run, "diffusers", tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    omnidistill.export(run, "diffusers", tmp_path / "out", verify=False)
    assert "Not verified" in (tmp_path / "out" / "README.md").read_text()


def test_what_no_scheduler_does_is_said_in_a_line(tmp_path: Path) -> None:
    run = student(tmp_path, "eps", transition="gamma", gamma=0.5)
    with pytest.raises(UserError, match="unless gamma is 0 or 1"):
        omnidistill.export(run, "diffusers", tmp_path / "out")
    with pytest.raises(UserError, match="unknown format 'onnxx'"):
        omnidistill.export(run, "onnxx", tmp_path / "out")
    with pytest.raises(UserError, match="is no adapter"):
        omnidistill.export(run, "peft", tmp_path / "out")
    with pytest.raises(UserError, match="no masked language model"):
        omnidistill.export(run, "transformers", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        omnidistill.export(run, "safetensors", tmp_path / "full")
    assert (tmp_path / "full" / "mine").exists()


def test_a_licence_is_the_teachers(tmp_path: Path) -> None:
    run = student(tmp_path, "eps")
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: openrail\n---\n# A teacher\n")
    out = omnidistill.export(run, "diffusers", tmp_path / "out", pipeline=tmp_path / "teacher")
    card = (out / "README.md").read_text()
    assert "license: openrail" in card and "licence of the teacher: openrail" in card


def test_nothing_but_its_own_files_is_taken_from_a_pipeline(tmp_path: Path) -> None:
    run = student(tmp_path, "eps")
    index = {"_class_name": "DDPMPipeline", "unet": ["a", "b"], "extra": ["a", "b"], "..": ["a", "b"]}
    (tmp_path / "teacher" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "teacher" / "extra").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    for name in ("config.json", "code.py", "weights.bin"):
        (tmp_path / "teacher" / "extra" / name).write_text("{}")
    out = omnidistill.export(run, "diffusers", tmp_path / "out", pipeline=tmp_path / "teacher")
    assert [file.name for file in (out / "extra").iterdir()] == ["config.json"]
    assert not (out / "secret.json").exists() and not (tmp_path / "run" / "teacher").exists()
    (tmp_path / "teacher" / "extra" / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserError, match="leads out of"):
        omnidistill.export(run, "diffusers", tmp_path / "none", pipeline=tmp_path / "teacher")


def test_whole_weights_in_a_folder_of_our_own(tmp_path: Path) -> None:
    run = student(tmp_path, "eps")
    out = omnidistill.export(run, "safetensors", tmp_path / "out")
    again, before = load(out), load(run)
    assert torch.equal(again.sample(2), before.sample(2))
    recipe = replace(Recipe(task=None, reading={}), steps=4)
    assert again.steps == recipe.steps


MODELS = {
    "UNet2DModel with classes": "eps",
    "UNet2DConditionModel of SDXL": "eps",
    "DiTTransformer2DModel": "eps",
    "PixArtTransformer2DModel": "eps",
    "SD3Transformer2DModel": "flow",
    "FluxTransformer2DModel": "flow",
    "SanaTransformer2DModel": "flow",
    "LTXVideoTransformer3DModel": "flow",
    "CogVideoXTransformer3DModel": "cogvideo",
}


@pytest.mark.parametrize("name", MODELS)
def test_each_class_is_handed_over(name: str, tmp_path: Path) -> None:
    out = omnidistill.export(student(tmp_path, MODELS[name], name, steps=2), "diffusers", tmp_path / "out")
    assert "differ from the student's by at most" in (out / "README.md").read_text()
    part = "unet" if name.startswith("UNet") else "transformer"
    theirs = getattr(diffusers, name.partition(" ")[0]).from_pretrained(out / part)
    for key, value in tiny.model(name).state_dict().items():
        assert torch.equal(theirs.state_dict()[key], value)
