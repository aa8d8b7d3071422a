"""Students with walkers: what was chosen, fitted and learned is saved with them, and comes back bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.cli import main
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.paths import rectified_flow
from omnidistill.training.safetensors_file import read_safetensors

SMALL = [
    *(
        "task=exact/gaussian_mixture",
        "task.network={width: 16, depth: 3}",
        "task.teacher_steps=4",
        "batch=16",
    ),
    *("updates=3", "fit.updates=3", "evaluation.samples=64", "steps=1,2,4", "device=cpu", "threads=1"),
]
LABELLED = "task.conditional=true"


def distilled(out: Path, recipe: str, *more: str) -> Path:
    assert main(["distill", *SMALL, f"recipe={recipe}", *more, f"out={out}"]) == 0
    return out


def points(run: Path) -> list:
    document = json.loads((run / "metrics.json").read_text())
    return [(p["steps"], p["nfe"], p["metrics"]) for p in document["student"]]


CASES = {
    "d-ode": ["student.inference.solver.samples=32"],
    "gas": ["families.solver_fit.pairs=32", "families.solver_fit.teacher_steps=4"],
    "deepcache": [],
    "faster-diffusion": ["student.steps=4"],
    "adaptive-guidance": [LABELLED, "student.inference.guide.threshold=0.5"],
    "diversity-distillation": [],
    "distillation-pp": [],
    "adaptive-ts-collab": ["student.inference.after.samples=32"],
    "plug-and-play-guide": [LABELLED],
}


@pytest.mark.parametrize("recipe", CASES)
def test_a_reloaded_student_is_the_one_that_was_judged(recipe: str, tmp_path: Path) -> None:
    run = distilled(tmp_path / "run", recipe, *CASES[recipe])
    before = points(run)
    assert main(["evaluate", str(run)]) == 0
    assert points(run) == before
    document = json.loads((run / "student.json").read_text())
    assert document["inference"] and all("_target_" in options for options in document["inference"].values())
    training = json.loads((run / "metrics.json").read_text())["training"]
    trained = recipe in (
        "gas",
        "plug-and-play-guide",
        "diversity-distillation",
        "distillation-pp",
        "adaptive-ts-collab",
    )
    assert training["student_updates"] == (3 if trained else 0)


def test_what_was_learned_is_in_the_file_and_the_network_stays_as_it_was(tmp_path: Path) -> None:
    run = distilled(tmp_path / "run", "gas", *CASES["gas"], "optim.lr=0.1", "ema=0.0")
    tensors, _ = read_safetensors(run / "student.safetensors")
    learned = {name: value for name, value in tensors.items() if name.startswith("inference/solver/")}
    assert {name.split("/")[-1] for name in learned} == {"beliefs.4", "states.4", "times.4", "asked.4"}
    assert all(bool((value != 0).any()) for value in learned.values())
    fit, _ = read_safetensors(run / "checkpoints" / "fit.safetensors")
    for name, value in fit.items():
        assert torch.equal(value, tensors[name.removeprefix("network.")]), name
    checkpoint, _ = read_safetensors(run / "checkpoints" / "last.safetensors")
    assert not any(name.startswith("model/student.denoiser") for name in checkpoint)
    # The numbers count: without them it is another student.
    usual = omnidistill.load(run).sample(8, steps=4)
    from omnidistill.training.safetensors_file import write_safetensors

    write_safetensors({n: torch.zeros_like(v) if n in learned else v for n, v in tensors.items()},
                      run / "student.safetensors")  # fmt: skip
    assert not torch.equal(omnidistill.load(run).sample(8, steps=4), usual)
    write_safetensors({n: v for n, v in tensors.items() if n not in learned}, run / "student.safetensors")
    with pytest.raises(omnidistill.UserError, match="4 missing"):
        omnidistill.load(run)


def test_a_run_that_learned_a_solver_resumes_to_the_bit(tmp_path: Path) -> None:
    more = [*CASES["gas"], "optim.decay=constant", "checkpoint.every=1"]
    whole = distilled(tmp_path / "a", "gas", *more, "updates=4")
    distilled(tmp_path / "b", "gas", *more, "updates=2")
    assert (
        main(["distill", *SMALL, "recipe=gas", *more, "updates=4", f"out={tmp_path / 'b'}", "resume=true"])
        == 0
    )
    assert (tmp_path / "b/student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()


def test_another_choice_is_judged_without_distilling_anew(tmp_path: Path) -> None:
    run = distilled(tmp_path / "run", "diversity-distillation")
    first = points(run)
    assert main(["evaluate", str(run), "student.inference=null"]) == 0
    alone = points(run)
    assert [nfe for _, nfe, _ in alone] == [1, 2, 4] and alone != first
    assert main(["evaluate", str(run), "student.inference.hand_over.first=1"]) == 0
    assert points(run) == first
    assert main(["evaluate", str(run), "student.inference.hand_over.first=-1"]) == 2


def test_a_trained_teacher_comes_with_the_student_that_asks_it(tmp_path: Path, capsys) -> None:
    teacher = tmp_path / "teacher"
    few = [key for key in SMALL if not key.startswith(("steps=", "fit."))]
    assert main(["train", *few, f"out={teacher}"]) == 0
    run = distilled(tmp_path / "run", "distillation-pp", f"teacher={teacher}", "teacher_check=false")
    assert (run / "teacher.safetensors").is_file()
    made = omnidistill.load(run).sample(8, steps=2)
    for file in teacher.iterdir():
        if file.is_file():
            file.unlink()
    assert torch.equal(omnidistill.load(run).sample(8, steps=2), made)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipe=deepcache", "student.inference.reuse.part=shallow"], "names no 'shallow' blocks"),
        (
            ["recipe=deepcache", "student.inference.reuse._target_=omnidistill.samplers.few_step.FewStep"],
            "unknown option",
        ),
        (["recipe=adaptive-guidance"], "needs a conditional task with a null label"),
        (["recipe=deepcache", "student.inference=reuse"], "a section of walkers by name"),
        (["recipe=deepcache", "student.inference=null"], "the objective is empty"),
        (["recipe=gas", "student.adapter={rank: 2}"], "leaves the network as it is"),
        (["recipe=gas", "student.transition=renoise"], "student.transition=ode"),
        (["recipe=dmd2", "updates=0"], "updates must be a whole number of at least 1"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path, capsys) -> None:
    status = main(["distill", *SMALL, *words, f"out={tmp_path / 'x'}"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and said in error, error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_target_": "os.system", "command": "true"}, "outside of the allowed packages"),
        ({"_target_": "omnidistill.samplers.few_step.FewStep"}, "no walker"),
        ({"part": "deep"}, "a section with a _target_"),
    ],
)
def test_a_received_description_builds_walkers_and_nothing_else(
    change: dict, said: str, tmp_path: Path
) -> None:
    run = distilled(tmp_path / "run", "deepcache")
    document = json.loads((run / "student.json").read_text())
    document["inference"]["reuse"] = change
    (run / "student.json").write_text(json.dumps(document))
    with pytest.raises(omnidistill.UserError, match=said):
        omnidistill.load(run)


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 2)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.blocks(torch.cat((x, t[:, None]), 1))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("d-ode", ["student.inference.solver.samples=32"]),
        ("deepcache", ["student.inference.reuse.modules=[blocks.2]"]),
        ("distillation-pp", []),
    ],
)
def test_a_student_of_ones_own_module_comes_back(recipe: str, options: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = NetworkDenoiser(Velocity(), rectified_flow(), "flow")
    out, keys = tmp_path / "own", {"batch": 8, "device": "cpu"}
    if recipe == "distillation-pp":
        keys["updates"] = 2
        options = [*options, "objective.adversarial=0"]  # a bare module names no features
    student = omnidistill.distill(
        teacher,
        recipe,
        shape=(2,),
        data=torch.randn(16, 2),
        out=out,
        judged=(),
        options=[*options, "threads=1"],
        **keys,
    )
    loaded = omnidistill.load(out, network=Velocity(), path=rectified_flow())
    assert torch.equal(loaded.sample(7, steps=4, seed=3), student.sample(7, steps=4, seed=3))
