"""From a `_target_` to an object: what is built, and every way out of the allow-list that was thought of."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from omnidistill.configuration import compose as config
from omnidistill.configuration import plugins
from omnidistill.configuration.instantiation import build, resolve, trusting
from omnidistill.errors import UserError
from omnidistill.paths import GaussianPath

MIXTURE = "omnidistill.exact.GaussianMixtureTask"


def refusal(node: object, **kwargs: object) -> str:
    with pytest.raises(UserError) as caught:
        build(node, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_builds_nested_objects_from_plain_and_from_omegaconf() -> None:
    node = {"_target_": "torch.nn.Sequential"}
    assert isinstance(build(node), torch.nn.Sequential)
    matching = {
        "_target_": "omnidistill.objectives.matching.Matching",
        "times": {"_target_": "omnidistill.times.Uniform", "low": 0.25, "high": 0.5},
    }
    for given in (matching, OmegaConf.create(matching)):
        assert (build(given).times.low, build(given).times.high) == (0.25, 0.5)
    assert build(None) is None


def test_a_constructor_of_a_path_may_be_named() -> None:
    assert isinstance(build({"_target_": "omnidistill.paths.vp_cosine"}), GaussianPath)


def test_lists_arrive_plain_and_interpolations_resolved() -> None:
    cfg = OmegaConf.create({"scale": 2.0, "task": {"_target_": MIXTURE, "means": [[0, "${scale}"]]}})
    assert build(cfg.task).mixture.means.tolist() == [[0.0, 2.0]]


def test_keywords_are_passed_as_they_are(unchecked: None) -> None:
    class Belief:
        pass

    belief = Belief()
    built = build(
        {"_target_": "omnidistill.samplers.base.Rollout", "x_t": 1, "t": 2, "x0": 3}, belief=belief, context=4
    )
    assert built.belief is belief


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "hydra.utils.get_method",
        "hydra.utils.instantiate",
        "functools.partial",
        "torch.load",
        "torch.hub.load",
        "torchvision.models.resnet18",
        "omnidistillx.a",
        # what a module of the project imports is not the project's
        "omnidistill.runs.folders.shutil.rmtree",
        "omnidistill.data.datasets.os.system",
        "omnidistill.student.os.system",
        "omnidistill.runs.setup.copy.deepcopy",
        "omnidistill.context.dataclass",
        "omnidistill.exact.gaussian_mixture.math.sqrt",
        "omnidistill.exact.gaussian_mixture.torch.load",
        "torch.nn.modules.module.torch.load",
        "torch.optim.optimizer.torch.hub.load",
        # attributes that lead out
        "omnidistill.errors.unknown.__globals__.get",
        "omnidistill.errors.unknown.__class__",
        "omnidistill.errors.UserError.__subclasses__",
        "omnidistill.errors.UserError.with_traceback",
        "omnidistill.tasks._private",
        # functions and methods of the project, which may write files, and classes that are no components
        "omnidistill.modalities.text.render.lines",
        "omnidistill.modalities.image.render.render",
        "omnidistill.exact.render.write_whole",
        "omnidistill.exact.render_clouds.write_clouds",
        "omnidistill.tasks.Task.like",
        "omnidistill.exact.GaussianMixtureTask.render",
        "omnidistill.paths.schedules.polynomial",
        "omnidistill.random.normal",
        "omnidistill.errors.UserError",
        "omnidistill.context.Context",
        "torch.nn.Module.load_state_dict",
        "transformers.Trainer",
        "transformers.TrainingArguments",
        "diffusers.DiffusionPipeline.from_pretrained",
        # parts that themselves run, fetch or import
        "omnidistill.cli.main",
        "omnidistill.load",
        "omnidistill.distill",
        "omnidistill.own.distill",
        "omnidistill.training.checkpoint.write_safetensors",
        "omnidistill.evaluation.report.write_report",
        "omnidistill.configuration.compose.compose",
        "omnidistill.configuration.instantiation.build",
        "omnidistill.configuration.plugins.load",
        "omnidistill.runs.distil.distill",
        "omnidistill.data.datasets.fetch",
        "omnidistill.commands.check.check",
        # functions of others, modules, nothing
        "torch.nn.functional.relu",
        "torch.nn.init.zeros_",
        "torch.nn",
        "omnidistill.exact",
        "omnidistill",
        "",
        3,
        None,
        ["os.system"],
    ],
)
def test_targets_outside_of_the_allow_list_are_refused(target: object) -> None:
    refusal({"_target_": target})
    refusal({"_target_": "torch.nn.Sequential", "args": {"_target_": target}})
    refusal({"_target_": "torch.nn.Sequential", "args": [[{"_target_": target, "_partial_": True}]]})
    refusal(OmegaConf.create({"a": {"_target_": "torch.nn.Sequential", "b": [{"_target_": target}]}}).a)


def test_a_refused_module_is_not_even_imported(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    code = "from omnidistill.configuration.instantiation import build; build({'_target_': 'trap.x'})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "outside of the allowed packages" in done.stderr and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Identity"}]},
        {"_target_": MIXTURE, "means": "\\${oc.create:'{_target_: os.getcwd}'}"},
        {"_target_": MIXTURE, "means": {"x": "\\${oc.env:HOME}"}},
        {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1, "trust_remote_code": True},
        {"_target_": "torch.nn.Sequential", "a": {"custom_pipeline": "somebody/code"}},
        {"std": 1.0},
        "torch.nn.Identity",
    ],
)
def test_tricks_are_refused(node: object) -> None:
    refusal(node)
    if isinstance(node, dict):
        refusal(OmegaConf.create({"a": node}).a)


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    """A folder with a pickle alone is refused, and so is every option that would allow it."""
    target = "diffusers.UNet2DModel.from_pretrained"
    sprung = tmp_path / "sprung"
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text('{"_class_name": "UNet2DModel", "sample_size": 8}')

    class Trap:
        def __reduce__(self):
            return Path.touch, (sprung,)

    torch.save(Trap(), made / "diffusion_pytorch_model.bin")
    node = {"_target_": target, "pretrained_model_name_or_path": str(made)}
    for more in ({}, {"weights_only": False}, {"use_safetensors": False}, {"use_safetensors": None}):
        with pytest.raises((UserError, OSError)):
            build({**node, **more})
    assert "safetensors alone" in refusal({**node, "weights_only": False})
    assert not sprung.exists()


def test_nothing_in_a_received_task_is_resolved(monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "0.5")
    with pytest.raises(UserError, match="holds an interpolation"):
        trusting({"_target_": MIXTURE, "std": "${oc.env:SECRET}"}, ())


def test_functions_are_of_packages_that_were_typed(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "their_functions.py").write_text("def make(n):\n    return n\nclass Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "their_functions.make", "n": 3}
    assert "trust=[their_functions]" in refusal(node)
    assert build(trusting(node, ["their_functions"])) == 3
    monkeypatch.setattr(plugins, "packages", lambda: frozenset({"their_functions"}))
    assert "is no component" in refusal(node)
    assert type(build({"_target_": "their_functions.Thing"})).__name__ == "Thing"


def test_an_interpolated_target_is_judged_by_what_it_becomes() -> None:
    cfg = OmegaConf.create({"name": "os.getcwd", "task": {"_target_": "${name}"}})
    assert "os.getcwd" in refusal(cfg.task)


def test_trust_counts_from_the_command_line_and_never_from_a_file(tmp_path: Path) -> None:
    chosen = ["task=exact/gaussian_mixture", "out=a", "task._target_=collections.OrderedDict"]
    assert "trust=[collections]" in refusal(config.compose("train", chosen).task)
    trusted = config.compose("train", [*chosen, "trust=collections"])
    assert type(build(trusted.task)).__name__ == "OrderedDict"
    refusal(
        OmegaConf.create({"trust": ["collections"], "task": {"_target_": "collections.OrderedDict"}}).task
    )
    config.save_config(trusted, tmp_path)
    refusal(config.load_config(tmp_path).task)
    assert build(config.load_config(tmp_path, ["trust=collections"]).task) is not None


def test_options_are_checked_against_the_component() -> None:
    assert "unknown option of configuration (GaussianMixtureTask) 'stdd'; did you mean std" in refusal(
        {"_target_": MIXTURE, "stdd": 1}
    )
    nested = {
        "_target_": "omnidistill.objectives.matching.Matching",
        "times": {"_target_": "omnidistill.times.Uniform", "lo": 0},
    }
    assert "times (Uniform) 'lo'; did you mean low" in refusal(nested)
    assert "needs in_features, out_features" in refusal({"_target_": "torch.nn.Linear"})
    scores = {"_target_": "omnidistill.objectives.adversarial_scores.AdversarialScores"}
    said = refusal({**scores, "times": {"high": 0.6}})
    assert (
        "times={'high': 0.6} does not say what it is; add a _target_, such as omnidistill.times.Uniform"
        in said
    )
    assert "'biass'" in refusal({"_target_": "torch.nn.Linear"}, in_features=1, out_features=1, biass=False)


def test_values_that_a_component_refuses_are_the_users_mistake() -> None:
    assert refusal({"_target_": MIXTURE, "std": -1}) == "std must be above 0, got -1"
    assert "configuration: " in refusal(
        {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": "x"}
    )


def test_names_that_are_not_there_come_with_near_matches() -> None:
    assert "did you mean GaussianMixtureTask" in refusal({"_target_": "omnidistill.exact.GaussianMixtureTsk"})
    assert "did you mean Linear" in refusal({"_target_": "torch.nn.Liner"})


def test_classes_of_others_may_be_named_and_their_constructors_from_weights() -> None:
    assert resolve("torch.optim.AdamW") is torch.optim.AdamW
    assert resolve("torch.nn.Embedding") is torch.nn.Embedding
    assert resolve("torch.nn.Embedding.from_pretrained") == torch.nn.Embedding.from_pretrained
