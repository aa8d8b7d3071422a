"""recipes, tasks, data list: what there is, for people and for programs."""

import json
from pathlib import Path

from omnidistill.configuration import listing

RECIPE = "recipe: {name: mine, paper: P 2024, family: matching, modalities: [image], needs: [data]}\n"


def test_recipes_as_json(command) -> None:
    done = command("recipes", "--json")
    listed = json.loads(done.out)
    assert done.status == 0 and [entry["name"] for entry in listed] == listing.names("recipe")
    for entry in listed:
        assert list(entry) == ["name", "paper", "family", "modalities", "needs"]
        assert entry["paper"] and entry["family"] and entry["modalities"], entry["name"]


def test_tasks_as_json(command) -> None:
    listed = {entry["name"]: entry for entry in json.loads(command("tasks", "--json").out)}
    mixture = listed["exact/gaussian_mixture"]
    assert mixture["modality"] == "exact" and "Gaussian mixture" in mixture["title"]
    assert all(list(entry) == ["name", "title", "modality"] and entry["title"] for entry in listed.values())


def test_the_tables_name_everything(command) -> None:
    for group in ("recipes", "tasks"):
        done = command(group)
        assert done.status == 0 and all(f"{name} " in done.out for name in listing.names(group[:-1]))


def test_a_folder_of_ones_own_is_listed_too(command, tmp_path: Path) -> None:
    (tmp_path / "recipe/deep").mkdir(parents=True)
    (tmp_path / "recipe/mine.yaml").write_text(RECIPE)
    (tmp_path / "recipe/deep/bare.yaml").write_text("updates: 3\n")
    (tmp_path / "recipe/_shared.yaml").write_text("updates: 3\n")
    listed = {e["name"]: e for e in json.loads(command("recipes", "--json", f"configs={tmp_path}").out)}
    assert listed["mine"] == {
        "name": "mine",
        "paper": "P 2024",
        "family": "matching",
        "modalities": ["image"],
        "needs": ["data"],
    }
    assert listed["deep/bare"]["modalities"] == [] and "_shared" not in listed and "dmd2" in listed


def test_data_sets_with_their_licence(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMNIDISTILL_DATA", str(tmp_path))
    (entry,) = [e for e in json.loads(command("data", "list", "--json").out) if e["name"] == "fashion_mnist"]
    assert entry["licence"] == "MIT" and entry["folder"] is None
    assert "not fetched" in command("data", "list").out


def test_every_command_has_a_page_with_a_working_example(command) -> None:
    from omnidistill import cli
    from omnidistill.commands import commands

    front = command("--help").out
    assert command().out == front
    for name, entry in commands().items():
        page = command(name, "--help").out
        assert f"  {name} " in front and entry.example in page and entry.usage in page
        program, called, *words = entry.example.split()
        assert (program, called) == ("omnidistill", name)
        cli.parse(entry, words)
