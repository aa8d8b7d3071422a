"""How a configuration comes about: layers, checked keys, what is refused, what is kept for resuming."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omnidistill.configuration import compose as config
from omnidistill.configuration import listing
from omnidistill.configuration.overrides import Override, quoted
from omnidistill.errors import UserError

TASK = """# @package _global_
task: {_target_: omnidistill.exact.GaussianMixtureTask, std: 0.3, name: mini/points}
updates: 11
batch: 11
seed: 11
optim: {lr: 0.11}
"""
RECIPE = """# @package _global_
recipe: {name: mine, paper: "A Paper", family: matching, modalities: [image], needs: [data]}
objective: {matching: 1.0}
families: {matching: {critic_updates: 12}}
updates: 12
batch: 12
optim: {lr: 0.12}
"""
TUNING = """# @package _global_
updates: 13
optim: {lr: 0.13}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path / "configs",
        task__mini__points=TASK,
        recipe__mine=RECIPE,
        tuning__mini__points__mine=TUNING,
    )


@pytest.fixture
def compose(folder: Path) -> Callable[..., OmegaConf]:
    def made(*overrides: str, root: str = "config"):
        chosen = ["task=mini/points", *(["recipe=mine"] if root == "config" else []), "out=a"]
        return config.compose(root, [*chosen, f"configs={folder}", *overrides])

    return made


def refusal(call: Callable[[], object]) -> str:
    """The message of the refusal, which must be one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_each_layer_overrides_the_ones_below(compose, folder: Path) -> None:
    cfg = compose("updates=14")
    assert (cfg.updates, cfg.optim.lr, cfg.batch, cfg.seed) == (14, 0.13, 12, 11)
    assert cfg.optim.warmup == 50, "what no layer sets is the root's"
    assert compose().updates == 13
    (folder / "tuning/mini/points/mine.yaml").unlink()
    assert (compose().updates, compose().seed) == (12, 11)


def test_tuning_is_of_one_recipe_on_one_task(compose, folder: Path) -> None:
    write(folder, recipe__other=RECIPE.replace("name: mine", "name: other"))
    assert compose("recipe=other").updates == 12
    write(folder, tuning__mini__points__teacher="# @package _global_\nupdates: 99\n")
    assert compose(root="train").updates == 99
    assert compose().updates == 13


def test_what_a_family_needs_on_a_task_gives_way_to_what_a_recipe_needs(compose, folder: Path) -> None:
    write(folder, recipe__other=RECIPE.replace("name: mine", "name: other"))
    write(folder, recipe__foreign=RECIPE.replace("matching, mod", "consistency, mod"))
    family = "# @package _global_\nupdates: 21\nbatch: 21\noptim: {lr: 0.21}\n"
    write(folder, tuning__mini__points__matching=family)
    found = {name: compose(f"recipe={name}") for name in ("mine", "other", "foreign")}
    assert [(found["mine"].updates, found["mine"].optim.lr, found["mine"].batch)] == [(13, 0.13, 21)]
    assert [(found["other"].updates, found["other"].optim.lr, found["other"].batch)] == [(21, 0.21, 21)]
    assert found["foreign"].updates == 12, "of another family"
    assert compose("recipe=mine", "updates=14").updates == 14


def test_what_every_student_needs_on_a_task_gives_way_to_what_its_family_needs(compose, folder: Path) -> None:
    write(folder, tuning__mini__points__student="# @package _global_\nupdates: 31\nbatch: 31\nema: 0.31\n")
    write(folder, tuning__mini__points__matching="# @package _global_\nupdates: 21\nbatch: 21\n")
    cfg = compose()
    assert (cfg.updates, cfg.batch, cfg.ema, cfg.optim.lr) == (13, 21, 0.31, 0.13)
    assert compose(root="train").ema == 0.999, "a teacher is no student"


def test_without_tuning_a_recipe_is_what_its_file_says(compose, folder: Path) -> None:
    write(folder, tuning__mini__points__student="# @package _global_\nema: 0.31\n")
    write(folder, tuning__mini__points__teacher="# @package _global_\nupdates: 99\n")
    assert (compose().updates, compose("tuned=true").updates) == (13, 13)
    cfg = compose("tuned=false", "batch=15")
    assert (cfg.updates, cfg.optim.lr, cfg.ema, cfg.batch) == (12, 0.12, 0.999, 15)
    assert "tuned" not in cfg, "what a run keeps is what it came to"
    assert compose("tuned=false", root="train").updates == 11
    assert "got maybe" in refusal(lambda: compose("tuned=maybe"))


def test_training_a_teacher_is_denoising_and_takes_no_recipe(compose) -> None:
    assert OmegaConf.to_container(compose(root="train").objective) == {"denoising": 1.0}
    assert "distill" in refusal(lambda: compose("recipe=mine", root="train"))


@pytest.mark.parametrize(
    "text, steps",
    [("1,2,4", [1, 2, 4]), ("1", [1]), ("[2,1]", [1, 2]), ("4,4,2", [2, 4]), ("8.0", [8])],
)
def test_steps_are_a_sorted_list_however_written(compose, text: str, steps: list[int]) -> None:
    assert list(compose(f"steps={text}").steps) == steps


@pytest.mark.parametrize(
    "override, said",
    [
        ("steps=0", "steps must be a whole number of at least 1, got 0"),
        ("steps=1,-2", "got -2"),
        ("steps=[]", "at least 1"),
        ("steps=1.5", "got 1.5"),
        ("steps=x", "got 'x'"),
        ("updates=0", "updates must be a whole number of at least 1, got 0"),
        ("batch=-3", "batch must be a whole number"),
        ("batch=true", "got true"),
        ("seed=-1", "seed"),
        ("device=gpu", "auto, cpu, cuda"),
        ("precision=fp16", "fp32, bf16"),
        ("resume=1", "true or false"),
        ("evaluation.samples=1", "at least 2, got 1"),
        ("optim.lr=0", "above 0"),
        ("optim.lr=nan", "optim.lr"),
        ("optim.betas=0.9", "list of 2"),
        ("optim.betas=0.9,1.0", "below 1"),
        ("optim=3", "optim is a section"),
        ("ema=1", "below 1"),
        ("student.transition=jump", "renoise, ode, ancestral"),
        ("threads=0", "threads"),
        ("out=", "out must be a text"),
        ("objective.matching=much", "objective.matching must be a number"),
        ("families=none", "families must be a section"),
    ],
)
def test_values_out_of_range_are_named(compose, override: str, said: str) -> None:
    assert said in refusal(lambda: compose(override))


@pytest.mark.parametrize(
    "override, said",
    [
        ("upadtes=3", "unknown key 'upadtes'; did you mean updates"),
        ("optim.lrr=1", "did you mean optim.lr"),
        ("evaluation.sample=64", "evaluation.samples"),
        ("~optim.lrr", "optim.lr"),
        ("objective.matchng=1", "unknown objective family 'matchng'; did you mean matching"),
        ("families.matchng.critic_updates=1", "unknown objective family 'matchng'; did you mean matching"),
        ("families.consistency.x=1", "families.consistency.x has no effect: the objective is matching"),
        ("recipe=mime", "unknown recipe 'mime'; did you mean mine"),
        ("task=mini/point", "unknown task 'mini/point'; did you mean mini/points"),
        ("~objective.matching", "the objective is empty"),
        ("seed=0,1", "seed takes one value here, got 0,1"),
        ("task.means=1,2", "task.means=[1,2]"),
        ("task.means=[[1", "cannot read task.means=[[1"),
        ("words", "'words' is not of the form key=value"),
        ("=3", "not of the form"),
    ],
)
def test_unknown_names_and_broken_overrides_are_named(compose, override: str, said: str) -> None:
    assert said in refusal(lambda: compose(override))


def test_keys_without_a_value_come_with_an_example(folder: Path) -> None:
    assert "recipe is missing; for example recipe=" in refusal(
        lambda: config.compose("config", ["task=exact/gaussian_mixture"])
    )
    assert "task is missing; for example task=" in refusal(lambda: config.compose("train", []))
    bare = ["task=mini/points", "recipe=mine", f"configs={folder}"]
    assert "out is missing; for example out=" in refusal(lambda: config.compose("config", bare))


def test_options_of_components_need_no_plus(compose) -> None:
    cfg = compose("task.means=[[0,1],[2,3]]", "families.matching.guidance=2", "objective.consistency=0.5")
    assert OmegaConf.to_container(cfg.task.means) == [[0, 1], [2, 3]]
    assert (cfg.families.matching.guidance, cfg.families.matching.critic_updates) == (2, 12)
    assert OmegaConf.to_container(cfg.objective) == {"matching": 1.0, "consistency": 0.5}
    assert compose("student.guidance=2").student.guidance == 2


def test_a_component_takes_the_place_of_another(compose, tmp_path: Path) -> None:
    """Merged, the second would be given options of the first, which it does not know."""
    first = "families.matching.times={_target_: omnidistill.times.Uniform, low: 0.1}"
    second = "families.matching.times={_target_: omnidistill.times.LogitNormal, mean: -1.5}"
    times = compose(first, second).families.matching.times
    assert times == {"_target_": "omnidistill.times.LogitNormal", "mean": -1.5}
    assert config.build(times).mean == -1.5
    assert compose(second, "families.matching.times.std=2").families.matching.times == {**times, "std": 2}
    config.save_config(compose(first), tmp_path)
    assert config.load_config(tmp_path, [second]).families.matching.times == times


def test_the_composed_configuration_is_closed(compose) -> None:
    cfg = compose()
    with pytest.raises(OmegaConfBaseException):
        cfg.updtes = 3


@pytest.mark.parametrize(
    "name",
    ["a b", "it's", "a,b", "(x)", "ends\\", "back\\'slash", "é", 'q"q', "a=b", "{x}", "[x]", "~x", "100"],
)
def test_a_path_is_a_path_whatever_its_characters(compose, name: str) -> None:
    assert compose(f"out=runs/{name}").out == f"runs/{name}"
    assert Override("out", quoted(name)).value() == name


def test_home_is_expanded(compose) -> None:
    assert compose("out=~/runs").out == str(Path.home() / "runs")
    assert compose("teacher=null").teacher is None


def test_keys_in_files_are_checked_too(compose, folder: Path) -> None:
    write(folder, recipe__mine=RECIPE + "upadtes: 3\n")
    assert "unknown key 'upadtes'" in refusal(compose)
    write(folder, recipe__mine=RECIPE.replace("batch: 12", "batch: [unclosed"))
    assert "is no YAML" in refusal(compose)


def test_a_taken_name_is_refused(compose, folder: Path) -> None:
    write(folder, task__exact__gaussian_mixture=TASK)
    assert "task/exact/gaussian_mixture.yaml" in refusal(compose)


def test_a_folder_of_configurations_must_exist(compose, tmp_path: Path) -> None:
    assert "is no folder" in refusal(lambda: compose(f"configs={tmp_path / 'none'}"))


def test_files_cannot_widen_what_is_trusted(compose, folder: Path) -> None:
    write(folder, recipe__mine=RECIPE + "trust: [os]\n")
    assert "only on the command line" in refusal(compose)


def test_what_was_saved_is_loaded_without_its_trust(compose, tmp_path: Path) -> None:
    cfg = compose("trust=os", "steps=1,2", "task.std=0.7")
    config.save_config(cfg, tmp_path)
    back = config.load_config(tmp_path)
    assert list(back.trust) == [] and list(cfg.trust) == ["os"]
    assert {**OmegaConf.to_container(back), "trust": ["os"]} == OmegaConf.to_container(cfg)


def test_loading_applies_and_checks_overrides(compose, tmp_path: Path) -> None:
    config.save_config(compose(), tmp_path)
    changed = config.load_config(tmp_path, ["steps=8,1", "evaluation.samples=64", "task.weights=[1,2]"])
    assert (list(changed.steps), changed.evaluation.samples) == ([1, 8], 64)
    assert list(changed.task.weights) == [1, 2]
    assert "steps" in refusal(lambda: config.load_config(tmp_path, ["steps=0"]))
    assert "updates" in refusal(lambda: config.load_config(tmp_path, ["upadtes=1"]))


@pytest.mark.parametrize("content", [None, "a: [", "- 1\n", "upadtes: 3\n", "\x00"])
def test_a_folder_without_a_usable_configuration_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    refusal(lambda: config.load_config(tmp_path))


def test_a_resumed_run_is_the_same_run(compose, tmp_path: Path) -> None:
    config.save_config(compose("updates=20"), tmp_path)
    config.check_resumable(compose("updates=30", "steps=1", "resume=true", "evaluation.samples=99"), tmp_path)
    config.check_resumable(
        compose("updates=20", "recipe.title=Better", "recipe.departures=[other]"), tmp_path
    )
    for override, said in (
        ("updates=19", "updates was 20 and is now 19"),
        ("batch=13", "batch was 12 and is now 13"),
        ("recipe.name=other", "and is now other"),
        ("task.std=0.4", "task.std was 0.3 and is now 0.4"),
        ("objective.denoising=1", "objective.denoising was unset and is now 1"),
    ):
        assert said in refusal(lambda o=override: config.check_resumable(compose("updates=20", o), tmp_path))


def test_a_run_of_before_a_key_came_into_being_is_resumed_at_its_default(compose, tmp_path: Path) -> None:
    def without(cfg, *keys: str) -> None:
        plain = OmegaConf.to_container(cfg)
        for key in keys:
            *above, name = key.split(".")
            section = plain
            for part in above:
                section = section[part]
            del section[name]
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(plain))

    options = (
        "task.teacher_steps=64",
        "families.matching.critic=fake_score",
    )  # as their components have them
    known = ("teacher_check", "on_bad", "student.shift", "optim.hold")
    without(compose(*options), *known, "task.teacher_steps", "families.matching.critic", "families.flow_map")
    config.check_resumable(compose(*options), tmp_path)
    config.check_resumable(compose(), tmp_path)
    for override, said in (
        ("on_bad=skip", "on_bad was stop and is now skip"),
        ("student.shift=3", "student.shift was 1.0 and is now 3"),
        ("families.matching.critic=none", "matching.critic was unset and is now none"),
    ):
        assert said in refusal(lambda o=override: config.check_resumable(compose(o), tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:SECRET}",
        "a ${oc.env:SECRET,b} c",
        "${oc.select:recipe.name,${oc.env:SECRET}}",
        "${oc.${task.name}:SECRET}",
        "${oc.decode:'1'}",
        "\\${oc.env:SECRET}",
    ],
)
def test_a_folder_of_files_asks_for_nothing_but_keys(
    folder: Path, compose, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "told")
    said = refusal(
        lambda: write(folder, recipe__mine=f"{RECIPE}about: {{title: {json.dumps(value)}}}\n") and compose()
    )
    assert "recipe/mine" in said and "told" not in said
    write(
        folder, recipe__mine=RECIPE + "about: {title: 'x ${recipe.name}', modality: '${oc.select:n.o,y}'}\n"
    )
    cfg = compose("recipe.paper=${oc.env:SECRET}")
    assert (cfg.about.title, cfg.about.modality, cfg.recipe.paper) == ("x mine", "y", "told")
    (folder / "task" / "other.yaml").write_text(f"a: {json.dumps(value)}")
    assert compose().about.title == "x mine", "a file that is not used stands in nobody's way"


PACKAGED_RECIPES, PACKAGED_TASKS = listing.names("recipe"), listing.names("task")


@pytest.mark.parametrize("recipe", PACKAGED_RECIPES)
def test_every_packaged_recipe_composes_and_its_objectives_are_built(recipe: str) -> None:
    cfg = config.compose("config", ["task=exact/gaussian_mixture", f"recipe={recipe}", "out=a"])
    assert cfg.recipe.name == recipe
    assert (
        cfg.recipe.paper
        and cfg.recipe.title
        and cfg.recipe.year
        and cfg.recipe.family
        and cfg.recipe.modalities
    )
    for family, weight in cfg.objective.items():
        assert not weight or config.build(cfg.families[family]) is not None


def test_a_family_s_tuning_leaves_a_component_of_the_recipe_s_own_alone(tmp_path: Path) -> None:
    given = ["task=exact/rigid_cloud", "recipe=tdm", "out=a", "task.seed=3"]
    cfg = config.compose("config", given)
    assert cfg.families.matching.times == listing.content("recipe", "tdm")["families"]["matching"]["times"]
    assert cfg.families.regression.pairs == 4096, "the rest of the family's tuning is there"
    times = config.compose("config", [*given, "families.matching.times.margin=0.1"]).families.matching.times
    assert (times.upto, times.margin) == ("step", 0.1)
    # A family's tuning and a recipe's, which is later, of a component with options of its own.
    for name, jumps in (("consistency", "{nodes: 8, final: 16}"), ("mine", "{stages: 4}")):
        file = tmp_path / "tuning" / "exact" / "bridge" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\nfamilies: {{consistency: {{jumps: {jumps}}}}}\n")
    recipe = listing.content("recipe", "ect")
    recipe["recipe"]["name"] = "mine"
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    cfg = config.compose("config", ["task=exact/bridge", "recipe=mine", f"configs={tmp_path}", "out=a"])
    assert cfg.families.consistency.jumps == {**recipe["families"]["consistency"]["jumps"], "stages": 4}
    third = {"_target_": "omnidistill.objectives.jumps.Nodes", "nodes": 9}
    file.write_text("# @package _global_\n" + yaml.safe_dump({"families": {"consistency": {"jumps": third}}}))
    cfg = config.compose("config", ["task=exact/bridge", "recipe=mine", f"configs={tmp_path}", "out=a"])
    assert cfg.families.consistency.jumps == third


@pytest.mark.parametrize("task", PACKAGED_TASKS)
def test_every_packaged_task_composes(task: str) -> None:
    if task.endswith("/own"):  # what it is is the teacher's to say
        with pytest.raises(UserError, match="needs your teacher"):
            config.compose("config", [f"task={task}", "recipe=dmd2", "out=a"])
        return
    for root, more in (("train", []), ("config", [f"recipe={PACKAGED_RECIPES[0]}"])):
        cfg = config.compose(root, [f"task={task}", "out=a", *more])
        assert cfg.task._target_ and cfg.about.title and cfg.about.modality


FAMILIES = {about["name"]: about["family"] for about in listing.recipes()}


@pytest.mark.parametrize("tuned", listing.names("tuning"))
def test_every_packaged_tuning_is_of_a_family_or_recipe_and_a_task(tuned: str) -> None:
    task, _, name = tuned.rpartition("/")
    assert task in PACKAGED_TASKS and name in (*FAMILIES, *FAMILIES.values(), "teacher", "student")
    if name == "teacher":
        config.compose("train", [f"task={task}", "out=a"])
    for recipe, family in FAMILIES.items():
        if name in (recipe, family, "student"):
            cfg = config.compose("config", [f"task={task}", f"recipe={recipe}", "out=a"])
            for part in (part for part, weight in cfg.objective.items() if weight):
                try:  # options that each are possible may not be so together
                    config.build(cfg.families[part])
                except UserError as error:
                    assert "has nothing to reward" in str(error)  # which only the user can give
