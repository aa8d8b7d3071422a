"""A teacher from Python is judged as a task's own: rows kept apart, own metrics, files, and the folder again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnidistill
from omnidistill.cli import main
from omnidistill.context import Batch, Context
from omnidistill.data.own_rows import drawn, kept_apart
from omnidistill.denoisers import NetworkDenoiser
from omnidistill.errors import UserError
from omnidistill.evaluation.energy import energy_distance
from omnidistill.evaluation.given import Judged
from omnidistill.exact import GaussianMixtureTask
from omnidistill.own import OwnTask
from omnidistill.paths import MaskedPath, rectified_flow
from omnidistill.random import generator
from omnidistill.tasks import Metric

QUICK: dict[str, Any] = {"updates": 3, "batch": 8, "device": "cpu", "teacher_steps": 6}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.clock, self.last = nn.Linear(2, 16), nn.Linear(1, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(x) + self.clock(t[:, None].to(x.dtype))
        return self.last(torch.tanh(h if label is None else h + label[:, None] / 10))


def teacher() -> NetworkDenoiser:
    torch.manual_seed(0)
    return NetworkDenoiser(Net(), rectified_flow(), "flow")


DATA = GaussianMixtureTask().batch(200, generator("own data")).x0


def test_a_folder_has_what_the_command_writes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    student = omnidistill.distill(
        teacher(), "consistency-models", data=DATA, steps=2, judged=[1], out=tmp_path, **QUICK
    )
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert [p["steps"] for p in found["student"]] == [1, 2], "its own step count among them"
    assert [p["steps"] for p in found["teacher"]] == [1, 2, 6] and found["teacher"][-1]["nfe"] == 6
    assert found["primary"] == {"name": "energy", "better": "lower"} and found["samples"] == 25
    assert all(low <= high for low, high in (p["interval"] for p in found["student"]))
    assert set(found["gap_closed"]) == {"1", "2"} and found["floor"]["energy"] < 0.5
    page = (tmp_path / "report.html").read_text()
    assert "gap closed" in page.lower() and (tmp_path / "samples" / "real.png").is_file()
    # The figure by hand: the rows that were kept apart, and what the student makes of the judge's noise.
    train, _, kept = kept_apart(DATA, None, None, rectified_flow(), 0)
    assert kept is not None and kept.count == 25 and len(train) == 175
    assert not {tuple(row) for row in kept.x0.tolist()} & {tuple(row) for row in train.tolist()}
    assert len({tuple(row) for row in torch.cat((kept.x0, train)).tolist()}) == 200
    g = generator(0, "evaluation", "samples", 0)
    x0 = student.sampler.sample(student.denoiser.eval(), torch.empty(25, 2), 2, g=g).x0
    expected = energy_distance(x0, kept.x0)
    assert found["student"][1]["metrics"]["energy"] == pytest.approx(expected, rel=1e-5)

    loaded = omnidistill.load(tmp_path, network=Net(), path=rectified_flow())
    assert torch.equal(loaded.sample(5, seed=1), student.sample(5, seed=1))
    (tmp_path / "report.html").unlink()
    assert main(["report", str(tmp_path)]) == 0 and (tmp_path / "report.html").is_file()
    capsys.readouterr()
    for words in (["evaluate", str(tmp_path)], ["sample", str(tmp_path), f"out={tmp_path / 'x'}"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "your own module" in said and "load(" in said
    with pytest.raises(UserError, match="batch was 8 and is now 4"):
        options = {**QUICK, "batch": 4, "resume": "true"}
        omnidistill.distill(
            teacher(), "consistency-models", data=DATA, steps=2, judged=[1], out=tmp_path, **options
        )


def test_metrics_of_ones_own_see_rows_under_the_same_conditions(tmp_path: Path) -> None:
    labels = (torch.arange(200) % 7).long()
    seen = []

    def metrics(samples: Tensor, context: Context, rows: Tensor) -> dict[str, float]:
        where = {tuple(row): label for row, label in zip(DATA.tolist(), labels.tolist(), strict=True)}
        seen.append([where[tuple(row)] for row in rows.tolist()] == context.condition.tolist())
        return {"score": torch.tensor(float(samples.mean())), "spread": float(samples.std())}

    omnidistill.distill(
        teacher(),
        "consistency-models",
        data=DATA,
        condition=labels,
        held_out=40,
        metrics=metrics,
        primary=Metric("spread", "higher"),
        out=tmp_path,
        **QUICK,
    )
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["primary"] == {"name": "spread", "better": "higher"} and found["samples"] == 40
    assert set(found["student"][0]["metrics"]) == {"energy", "score", "spread"}
    assert found["student"][0]["interval"] is not None
    assert len(seen) > 7 and sum(seen) >= len(seen) - 1, "all but the floor's are of one condition"


def test_the_judge_by_itself() -> None:
    task = OwnTask(teacher(), (2,), drawn(DATA, None, 200), None)
    judged = Judged(task, Batch(DATA[:30]))
    context = judged.contexts(50, generator(1))
    assert {tuple(r) for r in context.reference[:30].tolist()} == {tuple(r) for r in DATA[:30].tolist()}
    counts = torch.ones(2, 50, dtype=torch.long)
    x0 = torch.randn(50, 2, generator=generator(2))
    found = judged.measure(x0, context, generator(0))
    torch.testing.assert_close(
        judged.bootstrap(x0, context, generator(0), counts), torch.full((2,), found["energy"]).double()
    )
    with pytest.raises(UserError, match=r"metrics answers energy, a, not the primary 'b'"):
        Judged(task, Batch(DATA[:30]), lambda *a: {"a": 1.0}, "b").measure(x0, context, generator(0))
    for answer, said in ((3, "answers {name: number}, got int"), ({"a": "x"}, "'x' as 'a'")):
        with pytest.raises(UserError, match=said):
            Judged(task, None, lambda *a, answer=answer: answer, "a").measure(x0, Context(), generator(0))


def test_grids_and_tokens_are_shown(tmp_path: Path) -> None:
    judged = Judged(OwnTask(teacher(), (2,), drawn(DATA, None, 200), None), Batch(DATA))
    grids = torch.rand(5, 3, 4, 6)
    assert [f.name for f in judged.render(grids, Context(reference=grids), tmp_path / "g")] == [
        "g.png",
        "g.csv",
    ]
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    assert [f.name for f in judged.render(torch.tensor([[1, 2]]), Context(), tmp_path / "w")] == ["w.csv"]
    assert (tmp_path / "w.csv").read_text() == "1,2\n"


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.table(x)


def test_tokens_are_judged_by_what_is_given_and_else_not(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = torch.randint(4, (64, 6), generator=generator("words"))
    own = NetworkDenoiser(Words(), MaskedPath(4), "logits")
    omnidistill.distill(own, "sdtt", data=words, out=tmp_path / "a", **QUICK)
    assert (
        "not judged, so that there is no report: that needs a function (metrics=)" in capsys.readouterr().err
    )
    assert not (tmp_path / "a" / "metrics.json").exists() and (tmp_path / "a" / "student.json").is_file()
    metrics = lambda x0, context, rows: {"zeros": float((x0 == 0).float().mean())}  # noqa: E731
    with pytest.raises(UserError, match="primary='NAME'"):
        omnidistill.distill(own, "sdtt", data=words, metrics=metrics, out=tmp_path / "b", **QUICK)
    omnidistill.distill(
        own, "sdtt", data=words, metrics=metrics, primary="zeros", out=tmp_path / "b", **QUICK
    )
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["primary"]["name"] == "zeros"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"held_out": 199}, "leave nothing to train on"),
        ({"held_out": DATA[:9], "condition": torch.zeros(200).long()}, "held_out needs conditions, too"),
        ({"held_out": torch.zeros(3, 2).long()}, "adds noise to real numbers"),
    ],
)
def test_rows_that_cannot_be_held_out(tmp_path: Path, given: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        omnidistill.distill(teacher(), "consistency-models", data=DATA, out=tmp_path, **given, **QUICK)
    assert "\n" not in str(error.value)
