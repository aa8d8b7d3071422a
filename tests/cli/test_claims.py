"""claim, claims: a promise tried again, its verdict, and files of claims that are wrong or not to be trusted."""

import json
from pathlib import Path

import pytest
import yaml

from omnidistill.configuration import claim_file, listing

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/claims"
RECIPE = (ROOT / "configs/recipe/consistency-models.yaml").read_text()
GOOD = {
    "statement": "one call beats one call of the teacher",
    "overrides": [
        "task=exact/gaussian_mixture",
        "task.means=[[1,0],[-1,0]]",
        "task.network={width: 32, depth: 2}",
        "task.teacher_steps=8",
        "batch=64",
        "fit.updates=100",
        "optim.lr=3e-3",
        "ema=0.9",
        "evaluation.samples=512",
    ],
    "runs": {"tiny": {"recipe": "mine", "overrides": ["updates=60"]}},
    "relations": [{"better": "tiny.student@1", "than": "tiny.teacher@1"}],
    "source": "P 2024, sec. 1",
    "explanation": "sixty updates are few",
}


@pytest.fixture
def claimed(tmp_path: Path):
    """A folder of one's own with the recipe `mine` and a claim of it, changed."""

    def make(**changes) -> str:
        folder = tmp_path / "own"
        for group in ("recipe", "claim"):
            (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / "recipe/mine.yaml").write_text(RECIPE.replace("name: consistency-models", "name: mine"))
        content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
        (folder / "claim/mine.yaml").write_text(yaml.safe_dump(content))
        return f"configs={folder}"

    return make


def test_a_claim_that_holds(command, claimed, tmp_path) -> None:
    out = tmp_path / "runs"
    done = command("claim", "mine", "--json", claimed(), f"out={out}", "threads=1")
    assert done.status == 0 and "run 1 of 1: tiny (mine)" in done.err
    found = json.loads(done.out)
    assert list(found) == ["recipe", "statement", "holds", "figures", "seconds"]
    assert (found["recipe"], found["holds"]) == ("mine", True) and found["seconds"] > 0
    (figure,) = found["figures"].values()
    document = json.loads((out / "tiny/metrics.json").read_text())
    assert figure["figure"] == document["student"][0]["metrics"]["energy"]
    assert figure["interval"] == document["student"][0]["interval"]
    assert figure["against"] == document["teacher"][0]["metrics"]["energy"] > figure["figure"]
    assert [p["steps"] for p in document["student"]] == [1]


def test_what_was_tried_before_a_claim_held_is_said(command, claimed) -> None:
    done = command("claim", "mine", claimed(), "threads=1")
    assert done.status == 0 and done.out.splitlines()[-2].startswith("holds (")
    assert done.out.splitlines()[-1] == "sixty updates are few"


def test_a_claim_that_falls_short_says_by_how_much_and_why(command, claimed, inside) -> None:
    relations = [*GOOD["relations"], {"better": "tiny.student@1", "than": "tiny.teacher@full", "ratio": 10}]
    # A student that is hardly trained is not ten times better than the whole teacher.
    runs = {"tiny": {"recipe": "mine", "overrides": ["updates=1"], "seed": 3}}
    done = command("claim", "mine", claimed(relations=relations, runs=runs), "threads=1", "seed=1")
    assert done.status == 0
    first, *lines, verdict, why = done.out.splitlines()
    assert first == "mine: one call beats one call of the teacher (P 2024, sec. 1)"
    assert lines[-1].startswith("  no   tiny.student@1 better than tiny.teacher@full by 10: ")
    assert verdict.startswith("falls short (") and why == "sixty updates are few"
    assert not [path for path in inside.iterdir() if path.name != "own"]  # nothing is left behind


def test_a_run_that_fails_is_no_verdict(command, claimed) -> None:
    done = command(
        "claim", "mine", "--json", claimed(overrides=[*GOOD["overrides"], "optim.lr=1e30"]), "threads=1"
    )
    assert done.status == 1 and done.out == "" and done.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"statement": None}, "claim mine lacks statement"),
        ({"statement": 3}, "statement must be a text"),
        ({"promise": "x"}, "unknown key of claim mine 'promise'"),
        ({"runs": []}, "runs must be a section"),
        ({"runs": {"../x": {"recipe": "mine"}}}, "a run's name is letters"),
        ({"runs": {"a.b": {"recipe": "mine"}}}, "a run's name is letters"),
        ({"runs": {"tiny": {"recipe": "dmd2"}}}, "none of its runs is of the recipe 'mine'"),
        ({"runs": {"tiny": {"recipe": "mine", "out": "x"}}}, "unknown key of claim mine: runs.tiny 'out'"),
        ({"runs": {"tiny": {"recipe": "mine", "seed": -1}}}, "seed must be a whole number"),
        ({"overrides": "task=exact/bridge"}, "must be a list of texts"),
        ({"overrides": ["trust=[os]"]}, "a claim sets no 'trust'"),
        ({"overrides": ["out=/tmp/elsewhere"]}, "a claim sets no 'out'"),
        ({"overrides": ["+configs=/tmp"]}, "a claim sets no 'configs'"),
        ({"overrides": ["teacher=/tmp/x"]}, "a claim sets no 'teacher'"),
        ({"overrides": ["steps=1"]}, "a claim sets no 'steps'"),
        ({"overrides": ["hydra.run.dir=x"]}, "a claim sets no 'hydra.run.dir'"),
        ({"overrides": ["task.means=${oc.env:HOME}"]}, "interpolation"),
        ({"overrides": ["updates"]}, "not of the form key=value"),
        ({"overrides": [*GOOD["overrides"], "task._target_=os.system"]}, "outside of the allowed packages"),
        ({"overrides": [*GOOD["overrides"], "optim.speed=1"]}, "optim.speed"),
        ({"relations": []}, "relations must be a list of at least one"),
        ({"relations": [{"best": "tiny.student@1"}]}, "must have one of monotone"),
        ({"relations": [{"better": "tiny.student@1"}]}, "lacks than"),
        ({"relations": [{"better": "tiny.student", "than": "tiny.teacher@1"}]}, "RUN.student@STEPS"),
        ({"relations": [{"better": "tiny.student@0", "than": "tiny.teacher@1"}]}, "RUN.student@STEPS"),
        ({"relations": [{"better": "tiny.student@full", "than": "tiny.teacher@1"}]}, "RUN.student@STEPS"),
        ({"relations": [{"better": "tyni.student@1", "than": "tiny.teacher@1"}]}, "did you mean tiny?"),
        ({"relations": [{"monotone": "tiny", "steps": [1]}]}, "must be a list of at least 2"),
        ({"relations": [{"gap": "tiny.teacher@1", "least": 5}]}, "gap is closed by a student"),
        ({"relations": [{"below": "tiny.student@1", "metric": "energy"}]}, "needs either value or than"),
        ({"relations": [{"gap": "tiny.student@1", "least": "much"}]}, "least must be a number"),
    ],
)
def test_wrong_files_are_refused_in_one_line(refused, claimed, changes, says, tmp_path) -> None:
    assert says in refused("claim", "mine", claimed(**changes), f"out={tmp_path / 'runs'}", "threads=1")
    assert not (tmp_path / "runs").exists()


def test_wrong_command_lines(refused, claimed, tmp_path) -> None:
    said = refused("claim", "flow-map")
    assert "unknown claim 'flow-map'; did you mean " in said and "flow-map-matching" in said
    assert "give one name of a claim" in refused("claim")
    assert "unknown key 'updates'" in refused("claim", "mine", claimed(), "updates=3")
    assert "claim takes no task.std" in refused("claim", "mine", claimed(), "task.std=3")
    assert "seed must be a whole number" in refused("claim", "mine", claimed(), "seed=x")
    (tmp_path / "own/claim/mine.yaml").write_text("statement: [")
    assert "no YAML" in refused("claim", "mine", f"configs={tmp_path / 'own'}")
    (tmp_path / "own/claim/mine.yaml").write_text("[3]\n")
    assert "must be a section of keys" in refused("claim", "mine", f"configs={tmp_path / 'own'}")


def test_claims_are_listed_with_their_verdicts(command, claimed) -> None:
    listed = json.loads(command("claims", "--json", claimed()).out)
    assert all(list(entry) == ["recipe", "statement", "holds"] for entry in listed)
    known = {entry["recipe"]: entry["holds"] for entry in listed}
    assert known.pop("mine") is None and {True, False, None} >= set(known.values())
    assert sorted(known) == listing.names("claim")
    done = command("claims")
    assert all(f"{name} " in done.out for name in known)
    table = command("recipes").out
    for name, holds in known.items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
        assert {True: " holds ", False: " falls short ", None: " not run "}[holds] in row


def test_what_a_claim_came_to_at_other_seeds_is_said_in_the_table_alone(command, monkeypatch) -> None:
    monkeypatch.setattr(claim_file, "again", lambda: {"dmd2": {2: False, 1: True}})
    monkeypatch.setattr(claim_file, "verdicts", lambda: {"dmd2": True, "dmd": False})
    table = command("claims").out
    assert "holds (seed 1: holds; seed 2: falls short)" in table and table.count("seed 1") == 1
    known = {entry["recipe"]: entry["holds"] for entry in json.loads(command("claims", "--json").out)}
    assert known["dmd2"] is True and known["dmd"] is False


def test_verdicts_at_other_seeds_are_of_the_claims_as_they_stand() -> None:
    found: dict[str, dict[int, bool]] = {}
    for file in RESULTS.glob("seed_*/*.json"):
        record, seed = json.loads(file.read_text()), int(file.parent.name.removeprefix("seed_"))
        found.setdefault(file.stem, {})[seed] = record["holds"]
        said = claim_file.content(file.stem)
        assert record["claim"] == {key: said[key] for key in record["claim"]}, f"{file.stem}: run it again"
        assert set(record["seeds"].values()) == {seed} and f"seed={seed}" in record["command"]
    assert found and claim_file.again() == found


def test_a_broken_claim_does_not_hide_the_others(command, claimed) -> None:
    done = command("claims", "--json", claimed(relations=[]))
    assert "warning: claim mine" in done.err
    assert [entry["recipe"] for entry in json.loads(done.out)] == listing.names("claim")


def test_committed_verdicts_are_of_the_claims_as_they_stand() -> None:
    verdicts = json.loads((ROOT / "configs/claim" / claim_file.VERDICTS).read_text())
    records = {file.stem: json.loads(file.read_text()) for file in RESULTS.glob("*.json")}
    assert {name: record["holds"] for name, record in records.items()} == verdicts
    for name, record in records.items():
        said = claim_file.content(name)
        assert record["claim"] == {key: said[key] for key in record["claim"]}, f"{name}: run the claim again"
        assert {"runs", "relations", "overrides"} <= record["claim"].keys()
        assert record["figures"] and all(
            figure["holds"] in (True, False) for figure in record["figures"].values()
        )
        assert record["holds"] or said.get("explanation"), f"{name} falls short without an explanation"


def test_every_claim_reads_and_is_of_a_recipe() -> None:
    recipes = listing.names("recipe")
    for name in listing.names("claim"):
        claim = claim_file.read(name)
        assert name in recipes and claim.source
        assert {run.recipe for run in claim.runs.values()} <= {*recipes}
