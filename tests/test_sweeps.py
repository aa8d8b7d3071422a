"""Which cells a sweep's command line and its files come to."""

from pathlib import Path

import pytest

from omnidistill.configuration import listing
from omnidistill.configuration import sweep_plan as sweeps
from omnidistill.configuration.sweep_plan import OWN, plan
from omnidistill.errors import UserError

TASKS = "task=exact/gaussian_mixture,exact/markov_text"


def cells(given: list[str], name: str | None = None) -> list[tuple[str, str, int]]:
    return [(wish.task, wish.choice, wish.seed) for wish in plan(given, name)]


def own(folder: Path, text: str) -> list[str]:
    """`configs=` of a folder whose sweep `mine` has this text."""
    (folder / "sweep").mkdir()
    (folder / "sweep" / "mine.yaml").write_text(text)
    return [f"configs={folder}"]


def test_every_task_and_recipe_at_the_first_seed_comes_before_the_next_seed() -> None:
    mixture, text = "exact/gaussian_mixture", "exact/markov_text"
    assert cells([TASKS, "recipe=dmd,sdtt", "seed=0,7"]) == [
        *((mixture, "dmd", 0), (mixture, "sdtt", 0), (text, "dmd", 0), (text, "sdtt", 0)),
        *((mixture, "dmd", 7), (mixture, "sdtt", 7), (text, "dmd", 7), (text, "sdtt", 7)),
    ]


def test_alternatives_are_one_column() -> None:
    (wish,) = plan(["task=exact/bridge", "recipe=consistency-models/cdlm"])
    assert (wish.choices, wish.column, wish.seed) == (
        ("consistency-models", "cdlm"),
        "consistency-models/cdlm",
        0,
    )
    assert wish.run("cdlm", Path("a b/c")) == [
        *("task=exact/bridge", "recipe=cdlm", "seed=0", "out='a b/c'"),
    ]


def test_a_recipe_in_a_subfolder_is_no_alternative(tmp_path: Path) -> None:
    (tmp_path / "recipe" / "cdlm").mkdir(parents=True)
    (tmp_path / "recipe" / "cdlm" / "dmd2.yaml").write_text("# @package _global_\n")
    (wish,) = plan(["task=exact/bridge", "recipe=cdlm/dmd2", f"configs={tmp_path}"])
    assert wish.choices == ("cdlm/dmd2",)


def test_lists_may_stand_in_brackets_and_a_name_counts_once() -> None:
    assert cells(["task=[exact/bridge, exact/bridge]", "recipe=[dmd]", "seed=[3]"]) == [
        ("exact/bridge", "dmd", 3)
    ]


def test_other_keys_go_to_every_cell() -> None:
    first, second = plan([TASKS, "recipe=dmd", "updates=5", "steps=1,2"])
    assert first.overrides == second.overrides == ("updates=5", "steps=1,2")


FILE = """
title: mine
task:
  exact/gaussian_mixture: {recipe: [dmd, dmd2], overrides: [task.std=0.2]}
  exact/bridge:
recipe: [consistency-models]
seed: [1, 2]
overrides: [updates=5]
"""


def test_a_file_has_lists_and_what_a_task_has_beside(tmp_path: Path) -> None:
    given = own(tmp_path, FILE)
    wishes = plan([*given, "updates=9"], "mine")
    assert len(wishes) == 2 * (3 + 1)
    assert [(w.choice, w.column) for w in wishes[:4]] == [
        *(("consistency-models", "consistency-models"), ("dmd", OWN), ("dmd2", OWN)),
        ("consistency-models", "consistency-models"),
    ]
    assert wishes[0].overrides == ("updates=5", "task.std=0.2", *given, "updates=9"), "weakest first"
    assert wishes[3].overrides == ("updates=5", *given, "updates=9")


def test_the_command_line_replaces_the_lists_of_the_file(tmp_path: Path) -> None:
    given = own(tmp_path, FILE)
    assert cells([*given, "recipe=dmd", "seed=4", "task=exact/gaussian_mixture"], "mine") == [
        ("exact/gaussian_mixture", "dmd", 4)
    ]
    (wish,) = plan([*given, "recipe=dmd", "seed=4", "task=exact/gaussian_mixture"], "mine")
    assert "task.std=0.2" in wish.overrides and wish.column == "dmd"


@pytest.mark.parametrize(
    "given, said",
    [
        (["recipe=dmd"], "task is missing; for example task="),
        (["task=exact/bridge"], "recipe is missing; for example recipe="),
        ([TASKS, "recipe="], "recipe= has an empty place"),
        ([TASKS, "recipe=dmd,,dmd2"], "empty place"),
        ([TASKS, "recipe=dmd/"], "unknown recipe"),
        ([TASKS, "recipe=dmd22"], "did you mean dmd2"),
        ([TASKS, "recipe=cdlm/dmd22"], "did you mean dmd2"),
        (["task=exact/brige", "recipe=dmd"], "did you mean exact/bridge"),
        ([TASKS, "recipe=dmd", "seed=-1"], "seed must be a whole number of at least 0, got '-1'"),
        ([TASKS, "recipe=dmd", "seed=a"], "got 'a'"),
        ([TASKS, "recipe=dmd", "resume=true"], "goes on by itself"),
        ([TASKS, "recipe=dmd", "teacher=runs/a"], "the teacher of one task, and there are 2"),
    ],
)
def test_mistakes(given: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("tasks: [exact/bridge]\n", "unknown key of sweep mine 'tasks'; did you mean task?"),
        ("task: exact/bridge\n", "task must be a list"),
        ("task: {exact/bridge: [dmd]}\n", "has recipe and overrides"),
        ("task: [exact/bridge]\nrecipe: {a: b}\n", "recipe must be a list"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(own(tmp_path, text), "mine")
    assert said in str(caught.value)


def test_an_unknown_file_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="unknown sweep 'modalitys'; did you mean modalities"):
        plan([], "modalitys")


@pytest.mark.parametrize("name", listing.names("sweep"))
def test_the_packaged_sweeps_compose(name: str) -> None:
    from omnidistill.configuration import compose as config

    wishes = plan([], name)
    assert len({(wish.task, wish.choice, wish.seed) for wish in wishes}) == len(wishes) > 3
    for wish in wishes:
        for recipe in wish.choices:
            assert config.compose("config", wish.run(recipe, Path("unused"))).seed == wish.seed
    assert sweeps.listing.content("sweep", name)["title"]
